package backup

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// DefaultSkip is how many sequences of each stream are left out after the last one that the backup knows of. What the original has
// done after the backup has used some of them, and others may have seen those: as fencing tokens, in the numbers of mail, in cursors.
// Ten million are three hours of a thousand messages a second. A gap takes no room.
const DefaultSkip = 10_000_000

// turnSkip is by how much the turns of agents go on for the same reason: mail of one agent to another has the number of its turn, and
// one that is not higher than what was seen is dropped.
const turnSkip = 1_000_000_000

// RestoreOptions say what is restored, and to where. JS, Store and Dir are needed.
type RestoreOptions struct {
	JS    jetstream.JetStream
	Store *journal.Store
	Dir   string
	// Replicas of the streams: 1, 3 or 5. Default: as many as each had.
	Replicas int
	// Skip is DefaultSkip if it is 0.
	Skip uint64
	// Patience is for how long something must look wrong before it is put right. Default 2 s: nobody works.
	Patience time.Duration
	// Progress is called with what is done, and how much of it. Nil: nobody is told.
	Progress func(what string, done, of int)

	limit time.Duration // againLimit if it is 0
}

// Restored says what was restored.
type Restored struct {
	Manifest *Manifest `json:"manifest"`
	Streams  int       `json:"streams"`
	Messages uint64    `json:"messages"`
	// Instances is how many were looked at. What was wrong with them, and with all else, is Findings; all that could be was
	// repaired, Left is not.
	Instances int              `json:"instances"`
	Findings  []doctor.Finding `json:"findings,omitempty"`
	Left      int              `json:"left"`
	// Released is how many streams a restore before had left to be released, where that was all that was left to do.
	Released int `json:"released,omitempty"`
}

// ExistsError says that there are streams where a backup was to be restored.
type ExistsError struct{ Streams []string }

func (e *ExistsError) Error() string {
	return "these streams are there already: " + strings.Join(e.Streams, ", ")
}

// Hint says what to do about it.
func (e *ExistsError) Hint() string {
	return "restore into a cluster, or an account, that has none of them; who means to give up what they hold deletes them first, with `nats stream rm`"
}

// ReleaseError says that all is restored, but streams are left that processes do not work with yet.
type ReleaseError struct {
	Released, Of int
	Err          error
}

func (e *ReleaseError) Error() string {
	return fmt.Sprintf("all is restored, and %d of %d streams are released for processes to work with: %v", e.Released, e.Of, e.Err)
}

// Unwrap gives what was wrong.
func (e *ReleaseError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *ReleaseError) Hint() string {
	return "see that all servers run, and that the user may change streams, then repeat the command; until then processes wait"
}

// Restore puts a backup into a cluster that has none of its streams. First it makes sure that the backup is whole. Until all is
// restored, and looked at, processes that find a stream of it wait. If it breaks off, it can be repeated: what it has restored
// itself it takes away again.
func Restore(ctx context.Context, o RestoreOptions) (*Restored, error) {
	m, err := Check(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	r := &restorer{RestoreOptions: o, m: m, done: Restored{Manifest: m}}
	r.Skip, r.Patience, r.limit = cmp.Or(o.Skip, DefaultSkip), cmp.Or(o.Patience, 2*time.Second), cmp.Or(o.limit, againLimit)
	finished, err := r.clear(ctx)
	if err != nil || finished {
		return &r.done, err
	}
	for _, s := range m.Streams {
		if err := r.restoreSurely(ctx, s); err != nil {
			return nil, fmt.Errorf("restore stream %q: %w", s.Name, err)
		}
		r.done.Streams, r.done.Messages = r.done.Streams+1, r.done.Messages+s.Messages
		r.tell("streams", r.done.Streams, len(m.Streams))
	}
	if err := r.examine(ctx); err != nil {
		return nil, err
	}
	return &r.done, r.release(ctx)
}

type restorer struct {
	RestoreOptions
	m    *Manifest
	done Restored
}

func (r *restorer) tell(what string, done, of int) {
	if r.Progress != nil {
		r.Progress(what, done, of)
	}
}

// clear takes away what a restore of the same backup has left that broke off. finished is set if that one had done all but the
// last: then only that is done.
func (r *restorer) clear(ctx context.Context) (finished bool, err error) {
	var ours, others []string
	released := 0
	for _, s := range r.m.Streams {
		found, err := r.JS.Stream(ctx, s.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("stream %q: %w", s.Name, err)
		}
		metadata := found.CachedInfo().Config.Metadata
		if metadata[protocol.MetadataBackup] != r.m.ID {
			others = append(others, s.Name)
			continue
		}
		ours = append(ours, s.Name)
		if metadata[protocol.MetadataRestore] == "" {
			released++
		}
	}
	switch {
	case len(others) > 0:
		return false, &ExistsError{others}
	case released == len(r.m.Streams):
		return false, &ExistsError{ours}
	case released > 0:
		r.done.Released = len(r.m.Streams) - released
		return true, r.release(ctx)
	}
	for _, name := range ours {
		if err := r.takeAway(ctx, name); err != nil {
			return false, err
		}
	}
	return false, nil
}

const (
	// againLimit is for how long it is begun again with a stream while servers are gone or elect a leader, and tried to release it.
	againLimit = 2 * time.Minute
	againPause = time.Second
)

// restoreSurely restores a stream, from its beginning again if servers were gone meanwhile.
func (r *restorer) restoreSurely(ctx context.Context, s Stream) error {
	for began := time.Now(); ; {
		err := r.restore(ctx, s)
		if err == nil {
			return nil
		}
		for {
			few := r.done.Streams == 0 && isFew(err) // with the first one there were not enough servers from the start
			if ctx.Err() != nil || few || !passes(err) || time.Since(began) > r.limit {
				return err
			}
			if err := ctxtime.Sleep(ctx, againPause); err != nil {
				return err
			}
			r.tell(fmt.Sprintf("streams; once more stream %s, after: %v", s.Name, err), r.done.Streams, len(r.m.Streams))
			if err = r.takeAway(ctx, s.Name); err == nil {
				break
			}
		}
	}
}

// takeAway deletes what there is of a stream that was not restored wholly.
func (r *restorer) takeAway(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if err := r.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("take away stream %q, of a restore that broke off: %w", name, err)
	}
	return nil
}

func (r *restorer) restore(ctx context.Context, s Stream) error {
	config := s.Config
	if r.Replicas > 0 {
		config.Replicas = r.Replicas
	}
	config.Placement = nil // that was for the servers of the original
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[protocol.MetadataBackup], config.Metadata[protocol.MetadataRestore] = r.m.ID, r.m.ID
	f, err := os.Open(filepath.Join(r.Dir, s.File))
	if err != nil {
		return err
	}
	err = send(ctx, r.Store.Conn(), config, func(to io.Writer) error { return r.change(f, s, to) })
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.awaitStored(ctx, s)
}

// awaitStored makes sure that the stream has what the file had.
func (r *restorer) awaitStored(ctx context.Context, s Stream) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	found, err := streams.Restored(ctx, r.JS, s.Name)
	if err != nil {
		return err
	}
	state := found.State
	expire := s.Config.AllowMsgTTL || s.Config.AllowMsgSchedules // some are gone, or have fired, by now
	if state.LastSeq < s.End+r.Skip || state.Msgs != s.Messages && !expire {
		return fmt.Errorf("it has %d messages and ends at %d, %d were sent, to end at %d", state.Msgs, state.LastSeq, s.Messages, s.End+r.Skip)
	}
	return nil
}

// change writes a file of a backup as it is restored: behind all that was used since, and with the turns of agents that go on.
func (r *restorer) change(from io.Reader, s Stream, to io.Writer) error {
	kind, _, _ := protocol.ParseStream(s.Name)
	var sum summary
	patched := func(e *entry) *entry {
		if kind == protocol.KindAgents {
			e.Data = laterTurns(e.Data)
		}
		return e
	}
	// Sizes come first: they are what the server makes room for.
	again, ok := from.(io.ReadSeeker)
	if !ok {
		return errors.New("the file cannot be read twice")
	}
	if err := readArchive(from, s, func(e *entry) error { sum.add(patched(e)); return nil }); err != nil {
		return err
	}
	if _, err := again.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return writeArchive(to, sum.state(s.End+r.Skip, len(s.Consumers)), s.Consumers, func(w archiveWriter) error {
		return readArchive(from, s, func(e *entry) error { return patched(e).write(w) })
	})
}

// laterTurns raises the number of turns in the record of an agent. What cannot be read is left as it is.
func laterTurns(data []byte) []byte {
	if len(data) == 0 {
		return data
	}
	fields := map[string]json.RawMessage{}
	var turn uint64
	if json.Unmarshal(data, &fields) != nil || json.Unmarshal(fields["turn"], &turn) != nil {
		return data
	}
	fields["turn"] = json.RawMessage(fmt.Sprint(turn + turnSkip))
	changed, err := json.Marshal(fields)
	if err != nil || !bytes.Contains(changed, []byte(`"turn"`)) {
		return data
	}
	return changed
}

// examine has a doctor put right what is left between the moments at which the streams were read. Nobody works yet.
func (r *restorer) examine(ctx context.Context) error {
	list, cancel := r.bounded(ctx)
	defer cancel()
	rows, err := streams.Projects(list, r.JS)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if !slices.Contains(r.m.Projects, row.Name) {
			continue
		}
		report, err := doctor.New(doctor.Options{
			Store: r.Store, Project: row, Repair: true, Patience: r.Patience, Rate: 1_000_000,
			Found: func(f doctor.Finding) error { r.done.Findings = append(r.done.Findings, f); return nil },
			Progress: func(what string, done int) {
				r.tell("looked at "+what+" of "+row.Name, done, 0)
			},
		}).Examine(ctx)
		if err != nil {
			return fmt.Errorf("look at project %q: %w", row.Name, err)
		}
		r.done.Instances, r.done.Left = r.done.Instances+report.Instances, r.done.Left+report.Left()
	}
	return nil
}

// release lets processes work with the streams. The registry comes last, which every process looks at.
func (r *restorer) release(ctx context.Context) error {
	for done, s := range r.m.Streams { // in their order, the registry is the last
		ctx, cancel := r.bounded(ctx)
		err := streams.Release(ctx, r.JS, s.Name)
		cancel()
		if err != nil {
			return &ReleaseError{Released: done, Of: len(r.m.Streams), Err: err}
		}
	}
	return nil
}

// bounded is ctx for what is tried as long as it does not end.
func (r *restorer) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.limit, fmt.Errorf("not within %s", r.limit))
}
