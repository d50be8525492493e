package janitor

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// longPage is how many messages that follow each other one read brings.
	longPage = 256
	// maxChunk bounds the bytes of the messages of a chunk: they are in memory together.
	maxChunk = 16 << 20
	// weight is what a message takes beside its text.
	weight = 100
	// again is how many chunks are weighed again in one round.
	again = 32
)

func size(subject string, body int) int64 { return int64(len(subject) + body + weight) }

// survey weighs what has become old enough since the last time, and again what was weighed long ago. It returns whether
// there is more.
func (c *Cleaner) survey(ctx context.Context, state journal.State, h Horizon) (more bool, err error) {
	for len(c.segments) > 0 && c.segments[0].to < state.First { // somebody else has purged them
		c.segments = c.segments[1:]
	}
	old := state.Now.Add(-c.Settings.Age)
	for left := again; left > 0; left-- {
		i := c.stalest(old)
		if i < 0 {
			break
		}
		s := c.segments[i]
		chunk, err := c.read(ctx, s.from, s.to, old, s.messages)
		if err == nil {
			c.segments[i], err = c.weigh(ctx, chunk, s, state.Now, h)
		}
		if err != nil {
			return false, err
		}
	}
	for range c.Settings.AtOnce {
		from := state.First
		if n := len(c.segments); n > 0 {
			from = c.segments[n-1].to + 1
		}
		added, err := c.extend(ctx, from, old, state.Now, h)
		if err != nil || !added {
			return false, err
		}
	}
	return true, nil
}

// stalest is the index of a segment that was weighed before a moment, and has something of which nobody knew how long it
// would be needed; -1 if there is none.
func (c *Cleaner) stalest(before time.Time) int {
	for i, s := range c.segments {
		if s.stays > 0 && s.weighed.Before(before) {
			return i
		}
	}
	return -1
}

// extend weighs the chunk that begins at a sequence, together with the one before it if that is not full. It returns
// whether a full one was added.
func (c *Cleaner) extend(ctx context.Context, from uint64, old, now time.Time, h Horizon) (bool, error) {
	n := len(c.segments)
	if n > 0 && !c.segments[n-1].full {
		next, err := c.read(ctx, from, h.Sequence, old, 1)
		if err != nil || len(next.messages) == 0 {
			return false, err
		}
		from = c.segments[n-1].from
		n--
	}
	chunk, err := c.read(ctx, from, h.Sequence, old, c.Settings.Chunk)
	if err != nil || len(chunk.messages) == 0 {
		return false, err
	}
	s, err := c.weigh(ctx, chunk, segment{from: from, to: chunk.messages[len(chunk.messages)-1].Sequence, full: chunk.full}, now, h)
	if err == nil {
		c.segments = append(c.segments[:n], s)
	}
	return s.full, err
}

// chunk is messages that follow each other in a stream.
type chunk struct {
	messages []journal.Message
	full     bool // there was no room for the next
}

// read reads the messages from a sequence on, up to another one or to one that is not old. It lacks none: a replica
// that has a message has all before it, and what no replica has is asked of the leader.
func (c *Cleaner) read(ctx context.Context, from, upTo uint64, old time.Time, limit int) (chunk, error) {
	var all chunk
	bytes := int64(0)
	for {
		page, more, err := c.Store.Page(ctx, c.stream(), ">", from, min(longPage, limit+1))
		if err == nil && len(page) == 0 {
			page, err = c.next(ctx, from)
			more = len(page) > 0
		}
		if err != nil || len(page) == 0 {
			return all, err
		}
		for _, m := range page {
			if m.Sequence > upTo || m.Time.After(old) {
				return all, nil
			}
			n := size(m.Subject, len(m.Data))
			if len(all.messages) == limit || bytes+n > maxChunk && bytes > 0 {
				all.full = true
				return all, nil
			}
			all.messages, bytes, from = append(all.messages, m), bytes+n, m.Sequence+1
		}
		if !more {
			page, err := c.next(ctx, from)
			if err != nil || len(page) == 0 {
				return all, err
			}
		}
	}
}

// next asks the leader for the next message.
func (c *Cleaner) next(ctx context.Context, from uint64) ([]journal.Message, error) {
	m, err := c.Store.NextFromLeader(ctx, c.stream(), ">", from)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []journal.Message{*m}, nil
}

// instances are those that messages are of, in the order in which they come.
func (c chunk) instances() []protocol.Instance {
	var all []protocol.Instance
	seen := map[protocol.Instance]bool{}
	for _, m := range c.messages {
		if i, _, err := protocol.ParseInstanceSubject(m.Subject); err == nil && !seen[i] {
			seen[i] = true
			all = append(all, i)
		}
	}
	return all
}

// lookTogether is how many instances one read looks at.
const lookTogether = 64

// weigh finds out what a segment takes, and what cleaning it would store again: of each instance whose create is there,
// the create, a snapshot of what the log holds there, and the announcement of its end. What an instance has after its
// create goes: it is in the snapshot.
func (c *Cleaner) weigh(ctx context.Context, chunk chunk, s segment, now time.Time, h Horizon) (segment, error) {
	w := segment{from: s.from, to: s.to, messages: len(chunk.messages), full: s.full, weighed: now}
	parts := map[protocol.Instance][]*journal.Message{}
	for n := range chunk.messages {
		m := &chunk.messages[n]
		w.size += size(m.Subject, len(m.Data))
		if i, class, err := protocol.ParseInstanceSubject(m.Subject); err == nil && class == protocol.ClassLog {
			parts[i] = append(parts[i], m)
		}
	}
	h.Sequence = s.to
	instances := chunk.instances()
	for len(instances) > 0 {
		n := min(lookTogether, len(instances))
		sights, err := c.sights(ctx, instances[:n], h)
		if err != nil {
			return w, err
		}
		for _, x := range sights {
			if x.create == nil || x.Create < s.from || x.Create > s.to {
				continue
			}
			if fate := c.decide(x.Facts, h); fate == Drop || fate == Remove {
				continue
			}
			needed := x.takes(parts[x.instance], c.stream())
			until := x.Expires
			if until != nil {
				until = new(until.Add(c.Settings.Margin))
			}
			w.add(needed, until, max(c.Settings.Age/24, time.Millisecond))
		}
		instances = instances[n:]
	}
	return w, nil
}

// takes is what an instance takes when it is brought over a horizon, as far as a part of its log tells.
func (s *sight) takes(log []*journal.Message, stream string) int64 {
	n := size(s.create.Subject, len(s.create.Data))
	if s.Announced > 0 {
		n += size(s.instance.DoneSubject(), 300+len(s.done.Output))
	}
	return n + size(s.instance.LogSubject(), s.snapshotSize(log, stream))
}

// snapshotSize is how large a snapshot of a part of a log is, without the values that are in objects.
func (s *sight) snapshotSize(log []*journal.Message, stream string) int {
	all := 0
	fold := engine.Fold{History: engine.NewHistory(stream, s.Incarnation, s.body)}
	for _, m := range log {
		all += len(m.Data)
		var a protocol.Append
		if json.Unmarshal(m.Data, &a) != nil || fold.Add(m.Sequence, &a) != nil {
			return all + weight
		}
	}
	snapshot, err := fold.History.Snapshot(nil, 0)
	if err != nil {
		return all + weight
	}
	return len(snapshot.Snapshot.History) + 2*weight
}
