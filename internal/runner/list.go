package runner

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// listTogether is how many instances are looked at with one read of their logs' ends.
const listTogether = 64

// UnreadableError says that an instance cannot be told of: what is stored of it makes no sense to this version.
type UnreadableError struct {
	protocol.Instance
	Err error
}

func (e *UnreadableError) Error() string { return fmt.Sprintf("instance %s: %v", e.Instance, e.Err) }

// Unwrap gives the reason.
func (e *UnreadableError) Unwrap() error { return e.Err }

// List tells of the instances of a workflow what their creates and the ends of their logs say, shard by shard, and in each in the
// order of their creates in the stream, after a place in it (protocol.ListCursor). Instances that are created while it goes on
// are left out, and what is gone. With an *UnreadableError come the names and the Cursor of an instance, and then what follows it; any other error is the last.
func (r Reader) List(ctx context.Context, workflow string, after uint64) iter.Seq2[protocol.Status, error] {
	return func(yield func(protocol.Status, error) bool) {
		listers, err := r.listers(ctx, workflow, after)
		if err != nil {
			yield(protocol.Status{}, err)
			return
		}
		for _, l := range listers {
			for !l.done {
				found, err := l.next(ctx)
				if err != nil {
					yield(protocol.Status{}, err)
					return
				}
				if !l.tell(found, yield) {
					return
				}
			}
		}
	}
}

// listers are those of the shards that a list goes through after a place, in their order, up to where their streams end now.
func (r Reader) listers(ctx context.Context, workflow string, after uint64) ([]*lister, error) {
	var all []*lister
	first, place := protocol.ParseListCursor(after)
	for shard := first; shard < r.Shards; shard++ {
		l := &lister{Reader: r, shard: shard, stream: protocol.WorkflowsStream(r.Project, shard), creates: protocol.CreateSubjects(r.Project, workflow), seen: map[uint64]bool{}}
		if shard == first {
			l.place = place
		}
		newest, err := r.Store.Last(ctx, l.stream, protocol.WorkflowSubjects(r.Project))
		if errors.Is(err, journal.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l.upTo = newest.Sequence
		all = append(all, l)
	}
	return all, nil
}

// lister goes through the creates of a workflow in one shard.
type lister struct {
	Reader
	shard   int
	stream  string
	creates string
	place   uint64 // up to where it has come
	upTo    uint64 // where the stream ended when it began
	seen    map[uint64]bool
	done    bool
}

// listed is an instance, and where a list goes on after it.
type listed struct {
	protocol.Instance
	sight
	cursor uint64
	// broken is why nothing can be told of it.
	broken error
}

// see adds what was read of the instance.
func (f *listed) see(class protocol.Class, m journal.Message) {
	if err := f.add(class, m); err != nil && f.broken == nil {
		f.broken = fmt.Errorf("%s: %w", m.Subject, err)
	}
}

// next looks at the next instances.
func (l *lister) next(ctx context.Context) ([]listed, error) {
	var found []listed
	l.done = true
	err := l.read(ctx, l.stream, l.creates, l.place+1, 0, func(m *journal.Message) error {
		if len(found) == listTogether {
			l.done = false
			return errEnough
		}
		l.place = m.Sequence
		instance, _, err := protocol.ParseInstanceSubject(m.Subject)
		if err != nil {
			return nil // nobody can reach it
		}
		f := listed{Instance: instance, cursor: protocol.ListCursor(l.shard, m.Sequence)}
		f.see(protocol.ClassCreate, *m)
		// Cleaning may have published the create again since it was seen.
		if f.created <= l.upTo && !l.seen[f.created] {
			l.seen[f.created] = true
			found = append(found, f)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return found, l.lookAt(ctx, found)
}

// lookAt reads the ends of logs, of half as many at a time if one answer cannot hold them. A replica that lacks what was
// there when the list began may take for ended what has begun again since: then the leader is asked.
func (l *lister) lookAt(ctx context.Context, found []listed) error {
	if len(found) == 0 {
		return nil
	}
	subjects, at := make([]string, len(found)), map[string]int{}
	for n, f := range found {
		subjects[n] = f.LogSubject()
		at[subjects[n]] = n
	}
	// An answer without any message does not say up to where it reaches: one create is asked for, too.
	batch, err := l.Store.LastOfMany(ctx, l.stream, append(subjects, found[0].CreateSubject()))
	switch {
	case err != nil:
		return err
	case batch.Cut && len(found) > 1:
		return errors.Join(l.lookAt(ctx, found[:len(found)/2]), l.lookAt(ctx, found[len(found)/2:]))
	case batch.UpTo < l.upTo:
		return l.askLeader(ctx, found)
	}
	for _, m := range batch.Messages {
		if n, ok := at[m.Subject]; ok {
			found[n].see(protocol.ClassLog, m)
		}
	}
	return nil
}

// askLeader reads the ends of logs one by one.
func (l *lister) askLeader(ctx context.Context, found []listed) error {
	for n := range found {
		m, err := l.Store.Last(ctx, l.stream, found[n].LogSubject())
		switch {
		case errors.Is(err, journal.ErrNotFound):
		case err != nil:
			return err
		default:
			found[n].see(protocol.ClassLog, *m)
		}
	}
	return nil
}

// tell yields what is there; false if no more is wanted.
func (l *lister) tell(found []listed, yield func(protocol.Status, error) bool) bool {
	for _, f := range found {
		if f.tail != nil && f.tail.Incarnation > f.created {
			continue // another has the id since
		}
		s, err := protocol.Status{}, f.broken
		if err == nil {
			s, err = l.glance(f.Instance, f.sight)
		}
		switch {
		case errors.Is(err, journal.ErrNotFound):
			continue
		case err != nil:
			s = protocol.Status{Workflow: f.Workflow, ID: f.ID, Incarnation: f.created}
			err = &UnreadableError{Instance: f.Instance, Err: err}
		}
		s.Cursor = f.cursor
		if !yield(s, err) {
			return false
		}
	}
	return true
}
