package janitor

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// sight is what was read of an instance: the newest message of each of its subjects.
type sight struct {
	Facts
	instance protocol.Instance
	create   *journal.Message
	body     protocol.Create
	tailAt   uint64
	tail     *protocol.Append
	doneAt   uint64
	done     protocol.Done
}

// owner is whom the values of the instance belong to.
func (s *sight) owner() protocol.ObjectOwner { return protocol.OwnerOf(s.instance, s.body.Input) }

// sights reads what is newest of some instances, at least up to the end that the stream had.
func (c *Cleaner) sights(ctx context.Context, instances []protocol.Instance, h Horizon) ([]*sight, error) {
	filters := make([]string, 0, 2*len(instances))
	for _, i := range instances {
		filters = append(filters, i.EverySubject(), i.InputsSubject())
	}
	batch, err := c.Store.LastOfMany(ctx, c.stream(), filters)
	if err != nil {
		return nil, err
	}
	if batch.Cut && len(instances) > 1 {
		half := len(instances) / 2
		first, err := c.sights(ctx, instances[:half], h)
		if err != nil {
			return nil, err
		}
		second, err := c.sights(ctx, instances[half:], h)
		return append(first, second...), err
	}
	seen := map[protocol.Instance][]journal.Message{}
	for _, m := range batch.Messages {
		if i, _, err := protocol.ParseInstanceSubject(m.Subject); err == nil {
			seen[i] = append(seen[i], m)
		}
	}
	all := make([]*sight, 0, len(instances))
	for _, i := range instances {
		messages := seen[i]
		if batch.UpTo < h.Last { // a replica that lacks something, or an answer that does
			if messages, err = c.fromLeader(ctx, i); err != nil {
				return nil, err
			}
		}
		all = append(all, c.sight(i, messages))
	}
	return all, nil
}

// sight makes facts of what is newest of an instance.
func (c *Cleaner) sight(i protocol.Instance, messages []journal.Message) *sight {
	s := &sight{instance: i}
	for n := range messages {
		s.add(&messages[n])
	}
	if s.create != nil {
		s.judge(i.Stream())
	}
	return s
}

// fromLeader reads the newest message of each subject of an instance, tail before create: the create that is read with
// a tail may belong to an instance that is newer, but never to an older one.
func (c *Cleaner) fromLeader(ctx context.Context, i protocol.Instance) ([]journal.Message, error) {
	var all []journal.Message
	for _, subject := range []string{
		i.LogSubject(), i.DoneSubject(), i.CreateSubject(), i.EventSubject(), i.NudgeSubject(), i.ControlSubject(),
	} {
		m, err := c.Store.Last(ctx, i.Stream(), subject)
		if errors.Is(err, journal.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, *m)
	}
	return all, nil
}

func (s *sight) add(m *journal.Message) {
	_, class, err := protocol.ParseInstanceSubject(m.Subject)
	if err != nil {
		return
	}
	switch class {
	case protocol.ClassCreate:
		s.create, s.Create = m, m.Sequence
		s.Garbage = json.Unmarshal(m.Data, &s.body) != nil
		s.Newer = s.Newer || s.body.V > protocol.Version
	case protocol.ClassLog:
		s.tailAt, s.tail = m.Sequence, &protocol.Append{}
		s.Newer = s.Newer || json.Unmarshal(m.Data, s.tail) != nil || engine.Readable(s.tail) != nil
	case protocol.ClassEvent, protocol.ClassNudge:
		s.Input = max(s.Input, m.Sequence)
	case protocol.ClassControl:
		s.Control = m.Sequence
		var control protocol.Control
		if json.Unmarshal(m.Data, &control) == nil && control.Action == protocol.ActionCompact {
			s.Asked = m.Sequence
		}
	case protocol.ClassDone:
		if json.Unmarshal(m.Data, &s.done) == nil {
			s.doneAt = m.Sequence
		}
	}
}

// judge finds out how the instance stands.
func (s *sight) judge(stream string) {
	incarnation := s.body.Incarnation(s.create.Sequence)
	s.Carried = s.body.Carried != 0
	s.Situation = engine.Situate(stream, incarnation, s.tailAt, s.tail)
	if s.Newer || !s.Begun {
		return
	}
	status, err := engine.Glance(stream, incarnation, s.body, s.tailAt, s.tail)
	if err != nil {
		s.Newer = true
		return
	}
	s.Deleted, s.Expires, s.ByTimer = status.State == protocol.StateDeleted, status.Expires, s.Holder.Stream != stream
	if s.Phase == engine.Finished && s.done.Incarnation == incarnation && s.done.Epoch == s.tail.Epoch {
		s.Announced = s.doneAt
	}
}

// search finds out what of the instance is after the horizon.
func (c *Cleaner) search(ctx context.Context, s *sight, h Horizon) (err error) {
	if s.Snapshot, err = c.snapshot(ctx, s, h); err != nil {
		return err
	}
	if s.Phase != engine.Finished && s.doneAt > h.Sequence && s.done.Incarnation == s.Incarnation {
		s.Misleading, err = c.misleading(ctx, s, h)
	}
	return err
}

// snapshot looks for a snapshot after the horizon that holds all that is before it, the events too.
func (c *Cleaner) snapshot(ctx context.Context, s *sight, h Horizon) (uint64, error) {
	if s.tailAt <= h.Sequence {
		return 0, nil
	}
	if holdsAll(s.tail, s.Incarnation, h) {
		return s.tailAt, nil
	}
	found := uint64(0)
	err := c.each(ctx, s.instance.LogSubject(), h.Sequence+1, func(m *journal.Message) {
		var a protocol.Append
		if json.Unmarshal(m.Data, &a) == nil && holdsAll(&a, s.Incarnation, h) {
			found = m.Sequence
		}
	})
	return found, err
}

func holdsAll(a *protocol.Append, incarnation uint64, h Horizon) bool {
	return engine.SnapshotOf(a) != nil && a.Incarnation == incarnation && a.Entries[0].Input >= h.Sequence
}

// misleading reports whether the newest announcement would pass for that of the newest end: what began the instance again
// after it would go, and the announcement, which came late, would stay.
func (c *Cleaner) misleading(ctx context.Context, s *sight, h Horizon) (bool, error) {
	misleading := true
	err := c.each(ctx, s.instance.ControlSubject(), h.Sequence+1, func(m *journal.Message) {
		var control protocol.Control
		if json.Unmarshal(m.Data, &control) == nil && control.Action == protocol.ActionRestart && m.Sequence > s.done.Mark {
			misleading = false
		}
	})
	return misleading, err
}

// pageSize is how many messages of one instance one read brings: they are scattered, and a long read holds up appends.
const pageSize = 16

// each calls f with the messages of a subject from a sequence on, as far as the replica knows them that answers: they
// prove that something is there, and never that it is not.
func (c *Cleaner) each(ctx context.Context, subject string, from uint64, f func(*journal.Message)) error {
	for more := true; more; {
		page, again, err := c.Store.Page(ctx, c.stream(), subject, from, pageSize)
		if err != nil {
			return err
		}
		for n := range page {
			f(&page[n])
			from = page[n].Sequence + 1
		}
		more = again
	}
	return nil
}
