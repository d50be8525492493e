package backup

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// values are what was read of the large values of a project.
type values struct {
	project string
	// metas are the newest of each that say that it is there, by name.
	metas map[string]meta
	// read is how many bytes were read of each content, by its id.
	read map[string]uint64
	// chunks, what the subjects of contents begin with, and names.
	chunks, names string
}

type meta struct {
	sequence uint64
	content  string
	size     uint64
}

func newValues(project string) *values {
	return &values{
		project: project, metas: map[string]meta{}, read: map[string]uint64{},
		chunks: strings.TrimSuffix(protocol.ObjectChunkSubjects(project), ">"),
		names:  strings.TrimSuffix(protocol.ObjectMetaSubjects(project), ">"),
	}
}

// see notes a message. One that says that a value is gone is not noted: what was read of it is there.
func (v *values) see(m journal.Message) {
	if id, ok := strings.CutPrefix(m.Subject, v.chunks); ok {
		v.read[id] += uint64(len(m.Data))
		return
	}
	var info jetstream.ObjectInfo
	if !strings.HasPrefix(m.Subject, v.names) || json.Unmarshal(m.Data, &info) != nil || info.Deleted {
		return
	}
	v.metas[info.Name] = meta{sequence: m.Sequence, content: info.NUID, size: info.Size}
}

// whole reports whether all of a value was read.
func (v *values) whole(name string) bool {
	m, ok := v.metas[name]
	return ok && v.read[m.content] == m.size
}

// keep reports whether a message belongs to a value that is there. Contents without a value are left out.
func (v *values) keep() func(*entry) bool {
	contents, places := map[string]bool{}, map[uint64]bool{}
	for _, m := range v.metas {
		if v.read[m.content] == m.size {
			contents[m.content], places[m.sequence] = true, true
		}
	}
	return func(e *entry) bool {
		if id, ok := strings.CutPrefix(e.Subject, v.chunks); ok {
			return contents[id]
		}
		return places[e.Sequence]
	}
}

func sorted(all iter.Seq[string]) []string { return slices.Sorted(all) }
