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

// List tells of the instances of a workflow what their creates and the ends of their logs say, in the order of their creates
// in the stream, after a place in it. Instances that are created while it goes on are left out, and what is gone.
func (r Reader) List(ctx context.Context, workflow string, after uint64) iter.Seq2[protocol.Status, error] {
	return func(yield func(protocol.Status, error) bool) {
		newest, err := r.Store.Last(ctx, r.stream(), protocol.WorkflowSubjects(r.Project))
		if errors.Is(err, journal.ErrNotFound) {
			return
		}
		if err != nil {
			yield(protocol.Status{}, err)
			return
		}
		l := lister{Reader: r, creates: protocol.CreateSubjects(r.Project, workflow), place: after, upTo: newest.Sequence, seen: map[uint64]bool{}}
		for !l.done {
			listed, err := l.next(ctx)
			for _, s := range listed {
				if !yield(s, nil) {
					return
				}
			}
			if err != nil {
				yield(protocol.Status{}, err)
				return
			}
		}
	}
}

// lister goes through the creates of a workflow.
type lister struct {
	Reader
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
}

// next tells of the next instances.
func (l *lister) next(ctx context.Context) ([]protocol.Status, error) {
	var found []listed
	l.done = true
	err := l.read(ctx, l.creates, l.place+1, 0, func(m *journal.Message) error {
		if len(found) == listTogether {
			l.done = false
			return errEnough
		}
		l.place = m.Sequence
		instance, _, err := protocol.ParseInstanceSubject(m.Subject)
		if err != nil {
			return nil // nobody can reach it
		}
		f := listed{Instance: instance, cursor: m.Sequence}
		if err := f.add(protocol.ClassCreate, *m); err != nil {
			return fmt.Errorf("%s: %w", m.Subject, err)
		}
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
	if err := l.lookAt(ctx, found); err != nil {
		return nil, err
	}
	return l.tell(found)
}

// lookAt reads the ends of logs, of half as many at a time if one answer cannot hold them.
func (l *lister) lookAt(ctx context.Context, found []listed) error {
	if len(found) == 0 {
		return nil
	}
	subjects, at := make([]string, len(found)), map[string]int{}
	for n, f := range found {
		subjects[n] = f.LogSubject()
		at[subjects[n]] = n
	}
	batch, err := l.Store.LastOfMany(ctx, l.stream(), subjects)
	if err != nil {
		return err
	}
	if batch.Cut && len(found) > 1 {
		return errors.Join(l.lookAt(ctx, found[:len(found)/2]), l.lookAt(ctx, found[len(found)/2:]))
	}
	for _, m := range batch.Messages {
		f := &found[at[m.Subject]]
		if err := f.add(protocol.ClassLog, m); err != nil {
			return fmt.Errorf("%s: %w", m.Subject, err)
		}
	}
	return nil
}

func (l *lister) tell(found []listed) ([]protocol.Status, error) {
	var all []protocol.Status
	for _, f := range found {
		if f.tail != nil && f.tail.Incarnation > f.created {
			continue // another has the id since
		}
		s, err := l.glance(f.Instance, f.sight)
		switch {
		case errors.Is(err, journal.ErrNotFound):
		case err != nil:
			return all, fmt.Errorf("instance %s: %w", f.Instance, err)
		default:
			s.Cursor = f.cursor
			all = append(all, s)
		}
	}
	return all, nil
}
