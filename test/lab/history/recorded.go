package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// Recorded is all that is judged.
type Recorded struct {
	Projects []string
	// Shards is how many each project has; 1 if it is not in here.
	Shards map[string]int
	// Streams has what each stream holds, in its order.
	Streams map[string][]journal.Message
	// Texts are the large values, by the names of their objects, without what only makes them large.
	Texts map[string]string
	// States are those of agents that are too large for their records, by the names of their objects.
	States map[string]json.RawMessage
	Notes  []notes.Note
	// Clocks are the times at which clocks of machines were off.
	Clocks []Clock
}

// Clock is a time at which the clock of a machine was off by so much: ahead, or behind if that is negative.
type Clock struct {
	From, To time.Time
	Off      time.Duration
}

// around is the most between what was done to a clock and when that was noted.
const around = time.Second

// off is by how much the clock was ahead, or behind, at most, that has shown a moment.
func (r *Recorded) off(shown time.Time) (ahead, behind time.Duration) {
	for _, c := range r.Clocks {
		if really := shown.Add(-c.Off); really.After(c.From.Add(-around)) && really.Before(c.To.Add(around)) {
			ahead, behind = max(ahead, c.Off), max(behind, -c.Off)
		}
	}
	return ahead, behind
}

// skew is the most by which clocks were off between two moments, one against another: what was decided meanwhile may be wrong by that. If
// the moments were read from such a clock, they are off as well.
func (r *Recorded) skew(from, to time.Time) time.Duration {
	var ahead, behind time.Duration
	for _, c := range r.Clocks {
		off := max(c.Off, -c.Off)
		if c.From.Add(-around-off).Before(to) && c.To.Add(around+off).After(from) {
			ahead, behind = max(ahead, c.Off), max(behind, -c.Off)
		}
	}
	return ahead + behind
}

// workflows are the streams of a project's instances.
func (r *Recorded) workflows(project string) []string {
	var all []string
	for shard := range max(1, r.Shards[project]) {
		all = append(all, protocol.WorkflowsStream(project, shard))
	}
	return all
}

// reader reads streams to their ends.
type reader struct {
	store   *journal.Store
	objects *objects.Store
}

// pageSize is how many messages one read brings at most.
const pageSize = 1000

// all reads everything of some projects.
func (r reader) all(ctx context.Context, projects []string, shards map[string]int) (*Recorded, error) {
	rec := &Recorded{Projects: projects, Shards: shards, Streams: map[string][]journal.Message{}, Texts: map[string]string{}, States: map[string]json.RawMessage{}}
	for _, p := range projects {
		for _, stream := range rec.workflows(p) {
			if err := r.stream(ctx, rec, stream, protocol.WorkflowSubjects(p)); err != nil {
				return nil, err
			}
		}
		for stream, subject := range map[string]string{
			protocol.KVStream(protocol.SchedulesBucket(p)): protocol.KVSubject(protocol.SchedulesBucket(p), ">"),
			protocol.KVStream(protocol.AgentsBucket(p)):    protocol.KVSubject(protocol.AgentsBucket(p), ">"),
			protocol.KVStream(protocol.DeadBucket(p)):      protocol.KVSubject(protocol.DeadBucket(p), ">"),
			protocol.InboxStream(p):                        protocol.InboxSubjects(p),
		} {
			if err := r.stream(ctx, rec, stream, subject); err != nil {
				return nil, err
			}
		}
		if err := r.stream(ctx, rec, protocol.StreamClock, protocol.ClockSubjectsOf(p)); err != nil {
			return nil, err
		}
	}
	return rec, nil
}

// stream reads all that the leader of a stream had at the beginning.
func (r reader) stream(ctx context.Context, rec *Recorded, stream, subject string) error {
	state, err := r.store.State(ctx, stream)
	if errors.Is(err, journal.ErrNoStream) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	for from := state.First; from <= state.Last; {
		page, _, err := r.store.Page(ctx, stream, subject, from, pageSize)
		if err == nil && len(page) == 0 {
			page, err = r.fromLeader(ctx, stream, subject, from)
		}
		if err != nil {
			return fmt.Errorf("read %s from %d: %w", stream, from, err)
		}
		if len(page) == 0 {
			return nil
		}
		rec.Streams[stream] = append(rec.Streams[stream], page...)
		from = page[len(page)-1].Sequence + 1
	}
	return nil
}

// fromLeader asks for what a replica may not have.
func (r reader) fromLeader(ctx context.Context, stream, subject string, from uint64) ([]journal.Message, error) {
	m, err := r.store.NextFromLeader(ctx, stream, subject, from)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []journal.Message{*m}, nil
}

// text reads a large value that is a text.
func (r reader) text(ctx context.Context, rec *Recorded, project string, o *protocol.Object) error {
	if o == nil || rec.Texts[o.Name] != "" {
		return nil
	}
	raw, err := r.objects.Get(ctx, project, *o)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.Name, err)
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("read %s: %w", o.Name, err)
	}
	rec.Texts[o.Name] = work.Brief(text)
	return nil
}

// texts reads all large values that logs refer to.
func (r reader) texts(ctx context.Context, rec *Recorded) error {
	for _, project := range rec.Projects {
		for _, stream := range rec.workflows(project) {
			for _, m := range rec.Streams[stream] {
				if err := r.textsOf(ctx, rec, project, &m); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r reader) textsOf(ctx context.Context, rec *Recorded, project string, m *journal.Message) error {
	_, class, err := protocol.ParseInstanceSubject(m.Subject)
	if err != nil || class != protocol.ClassLog {
		return nil
	}
	var a protocol.Append
	if json.Unmarshal(m.Data, &a) != nil {
		return nil // told by who folds it
	}
	for _, e := range a.Entries {
		if err := r.text(ctx, rec, project, e.Object); err != nil {
			return err
		}
	}
	return nil
}

// states reads the large states of agents.
func (r reader) states(ctx context.Context, rec *Recorded) error {
	for _, project := range rec.Projects {
		for _, m := range rec.Streams[protocol.KVStream(protocol.AgentsBucket(project))] {
			var record protocol.Record
			if len(m.Data) == 0 || json.Unmarshal(m.Data, &record) != nil || record.StateObject == nil {
				continue
			}
			raw, err := r.objects.Get(ctx, project, *record.StateObject)
			if err != nil {
				return fmt.Errorf("state of %s: %w", m.Subject, err)
			}
			rec.States[record.StateObject.Name] = raw
		}
	}
	return nil
}
