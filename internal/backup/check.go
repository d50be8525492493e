package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/archive"

	"github.com/skein-run/skein/pkg/protocol"
)

// Check reads a whole folder, and says whether it is what was written: sizes and digests of all files, and that each is an archive
// with as many messages as it says, in their order. What is wrong is a *DamagedError, with a reason for each file.
func Check(ctx context.Context, dir string) (*Manifest, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	var reasons []string
	shards := map[string]int{}
	for _, s := range m.Streams {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		see := func(*entry) {}
		if s.Name == protocol.KVStream(protocol.BucketProjects) {
			see = func(e *entry) { seeShards(shards, e) }
		}
		if err := checkFile(dir, s, see); err != nil {
			reasons = append(reasons, s.File+": "+err.Error())
		}
	}
	reasons = append(reasons, lackingStreams(m, shards)...)
	if len(reasons) > 0 {
		return nil, &DamagedError{Dir: dir, Reasons: reasons}
	}
	return m, nil
}

// seeShards notes how many shards the registry says that a project has.
func seeShards(shards map[string]int, e *entry) {
	var row protocol.Project
	if json.Unmarshal(e.Data, &row) == nil {
		shards[row.Name] = row.Shards
	}
}

// lackingStreams says what every project, or what it has, needs. A project with workflows has a stream for each of its shards.
func lackingStreams(m *Manifest, shards map[string]int) (reasons []string) {
	there, workflows := map[string]bool{}, map[string]bool{}
	for _, s := range m.Streams {
		there[s.Name] = true
		if kind, project, _ := protocol.ParseStream(s.Name); kind == protocol.KindWorkflows || kind == protocol.KindTimers {
			workflows[project] = true
		}
	}
	needs := []string{protocol.KVStream(protocol.BucketProjects)}
	for _, project := range m.Projects {
		if workflows[project] {
			for shard := range shards[project] {
				needs = append(needs, protocol.WorkflowsStream(project, shard))
			}
			needs = append(needs, protocol.TimersStream(project), protocol.ObjectsStream(project))
		}
		if there[protocol.KVStream(protocol.AgentsBucket(project))] {
			needs = append(needs, protocol.InboxStream(project), protocol.ObjectsStream(project),
				protocol.KVStream(protocol.SchedulesBucket(project)), protocol.StreamClock)
		}
	}
	for _, name := range needs {
		if !there[name] {
			reasons = append(reasons, fmt.Sprintf("stream %q is missing", name))
			there[name] = true
		}
	}
	return reasons
}

// checkFile says whether a file is what was written. Messages are seen before that is known.
func checkFile(dir string, s Stream, see func(*entry)) (err error) {
	f, err := os.Open(filepath.Join(dir, s.File))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	if err != nil {
		return err
	}
	if size != s.Size {
		return fmt.Errorf("has %d bytes, %d were written", size, s.Size)
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != s.SHA256 {
		return fmt.Errorf("was changed: its SHA-256 is %s, %s was written", sum, s.SHA256)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var sum summary
	if err := readArchive(f, s, func(e *entry) error {
		if e.Sequence <= sum.last {
			return fmt.Errorf("message %d comes after message %d", e.Sequence, sum.last)
		}
		sum.add(e)
		see(e)
		return nil
	}); err != nil {
		return err
	}
	if sum.messages != s.Messages || sum.first != s.First || sum.last != s.Last || s.End < s.Last {
		return fmt.Errorf("has %d messages, %d to %d; %d were written, %d to %d, of a stream that ended at %d",
			sum.messages, sum.first, sum.last, s.Messages, s.First, s.Last, s.End)
	}
	return nil
}

// readArchive goes through the messages of a file.
func readArchive(from io.Reader, s Stream, do func(*entry) error) error {
	in := archive.NewReader(s2.NewReader(from))
	e, err := readEntry(in)
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	var state server.StreamState
	if e.Subject != stateEntry || json.Unmarshal(e.Data, &state) != nil {
		return fmt.Errorf("begins with %q, not with the state of a stream", e.Subject)
	}
	if state.Consumers != len(s.Consumers) || state.Msgs != s.Messages {
		return fmt.Errorf("is of a stream with %d messages and %d consumers, %d and %d were written", state.Msgs, state.Consumers, s.Messages, len(s.Consumers))
	}
	for range state.Consumers {
		e, err := readEntry(in)
		if err != nil {
			return fmt.Errorf("consumers cannot be read: %w", err)
		}
		if !strings.HasPrefix(e.Subject, consumerPrefix+"/") {
			return fmt.Errorf("has %q in the place of a consumer", e.Subject)
		}
	}
	for {
		e, err := readEntry(in)
		if err != nil {
			return fmt.Errorf("breaks off: %w", err)
		}
		if e.Sequence == 0 {
			break
		}
		if err := do(e); err != nil {
			return err
		}
	}
	if _, err := in.Next(); !errors.Is(err, io.EOF) {
		return errors.New("goes on after its end")
	}
	return nil
}
