package janitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// Sweep takes away large values that nobody needs: those of what has expired, although its log stays for a while; those
// of creates that never came, of turns that failed, of attempts that were not recorded; and the histories of snapshots
// that newer ones have superseded. It returns how many.
//
// A value is needed if its digest stands anywhere in what is stored of the instance that it belongs to, in the history of
// a snapshot of it, or in the record of an agent that has put it; or if it was put within the last day: by then whoever
// has put it has said so, or has dropped its work (P10).
//
// It needs a Cleaner of each shard of the project, in their order.
func Sweep(ctx context.Context, shards []*Cleaner) (int, error) {
	w, err := NewSweeper(ctx, shards)
	if err != nil || w == nil {
		return 0, err
	}
	names, err := w.names(ctx)
	if err != nil {
		return 0, err
	}
	forgotten := 0
	for _, name := range names {
		known, err := w.Unneeded(ctx, name)
		if err == nil && known != nil {
			forgotten++
			err = w.Objects.Forget(ctx, w.Project, known)
		}
		if err != nil {
			return forgotten, err
		}
	}
	if forgotten > 0 {
		w.Log.InfoContext(ctx, "took away large values that nobody needs", logkey.Project, w.Project, logkey.Count, forgotten)
	}
	return forgotten, nil
}

// Sweeper looks for values that nobody needs, by what was settled when it was made.
type Sweeper struct {
	*Cleaner // that of the first shard; of the others only the horizon differs
	horizons []Horizon
	before   time.Time
}

// NewSweeper makes one from a Cleaner of each shard of a project; nil if there are no values.
func NewSweeper(ctx context.Context, shards []*Cleaner) (*Sweeper, error) {
	first := shards[0]
	state, err := first.Store.State(ctx, protocol.ObjectsStream(first.Project))
	if errors.Is(err, journal.ErrNoStream) || err == nil && state.Messages == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := &Sweeper{Cleaner: first}
	for _, c := range shards {
		c.Settings = c.Settings.withDefaults()
		log, err := c.Store.State(ctx, c.stream())
		if err != nil {
			return nil, err
		}
		h, err := c.horizon(ctx, log)
		if err != nil {
			return nil, err
		}
		w.horizons = append(w.horizons, h)
	}
	w.before = state.Now.Add(-first.Settings.Age)
	return w, nil
}

// names are those of all values. They are all listed before any is taken away: pages go by how many there are
// before them.
func (w *Sweeper) names(ctx context.Context) ([]string, error) {
	var names []string
	for offset, total := 0, 1; offset < total; {
		l, err := w.Store.Subjects(ctx, protocol.ObjectsStream(w.Project), protocol.ObjectMetaSubjects(w.Project), offset)
		if err != nil || len(l.Subjects) == 0 {
			return names, err
		}
		for _, subject := range l.Subjects {
			names = append(names, protocol.ObjectNameOf(w.Project, subject))
		}
		offset, total = offset+len(l.Subjects), l.Total
	}
	return names, nil
}

// Unneeded is what is known of a value that nobody needs; nil if somebody may, or if it is no instance's.
func (w *Sweeper) Unneeded(ctx context.Context, name string) (*objects.Known, error) {
	owner, digest, err := protocol.ParseObjectName(w.Project, name)
	if err != nil {
		return nil, nil
	}
	known, err := w.Objects.Known(ctx, w.Project, name)
	if err != nil || known == nil || !known.Put.Before(w.before) {
		return nil, err
	}
	if known.Deleted {
		return known, nil
	}
	needed, err := w.needed(ctx, owner, digest, known)
	if err != nil || needed {
		return nil, err
	}
	return known, nil
}

// needed reports whether something may refer to a value. Who refers to it is looked at in the order in which a reference
// goes from one to the next: an outbox, an input, the log.
func (w *Sweeper) needed(ctx context.Context, owner protocol.ObjectOwner, digest string, known *objects.Known) (bool, error) {
	if kept, err := w.keeps(ctx, known, digest); kept || err != nil {
		return true, err
	}
	i := protocol.Instance{Project: w.Project, Shard: protocol.Shard(owner.ID, len(w.horizons)), Workflow: owner.Workflow, ID: owner.ID}
	messages, err := w.fromLeader(ctx, i)
	if err != nil {
		return true, err
	}
	s := w.sight(i, messages)
	switch {
	case s.create == nil, s.owner() != owner && !s.Garbage:
		return false, nil // its create never came, or it is gone
	case w.decide(s.Facts, w.horizons[i.Shard]) == Drop:
		return false, nil
	}
	return w.refers(ctx, i, digest)
}

// refers reports whether anything that is stored of an instance holds a digest.
func (w *Sweeper) refers(ctx context.Context, i protocol.Instance, digest string) (found bool, err error) {
	for _, subject := range []string{i.InputsSubject(), i.EverySubject()} {
		last := uint64(0)
		for more := true; more && !found; {
			page, _, err := w.Store.Page(ctx, i.Stream(), subject, last+1, pageSize)
			if err == nil && len(page) == 0 {
				page, err = w.nextOf(ctx, i.Stream(), subject, last+1)
			}
			if err != nil {
				return true, err
			}
			for n := range page {
				if last = page[n].Sequence; !found {
					if found, err = w.holds(ctx, &page[n], digest); err != nil {
						return true, err
					}
				}
			}
			more = len(page) > 0
		}
	}
	return found, nil
}

// nextOf asks the leader for what a replica may not have.
func (w *Sweeper) nextOf(ctx context.Context, stream, subject string, from uint64) ([]journal.Message, error) {
	m, err := w.Store.NextFromLeader(ctx, stream, subject, from)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []journal.Message{*m}, nil
}

// holds reports whether a message holds a digest, or the history does that it refers to.
func (w *Sweeper) holds(ctx context.Context, m *journal.Message, digest string) (bool, error) {
	if bytes.Contains(m.Data, []byte(digest)) {
		return true, nil
	}
	var a protocol.Append
	if json.Unmarshal(m.Data, &a) != nil {
		return false, nil
	}
	s := engine.SnapshotOf(&a)
	if s == nil || s.Object == nil {
		return false, nil
	}
	history, err := w.Objects.Get(ctx, w.Project, *s.Object)
	if _, gone := errors.AsType[*objects.MissingError](err); gone {
		return true, nil // nobody can tell what it held
	}
	return err != nil || bytes.Contains(history, []byte(digest)), err
}

// keeps reports whether the record of an agent holds a digest.
func (w *Sweeper) keeps(ctx context.Context, known *objects.Known, digest string) (bool, error) {
	if !known.Keepers || known.Keeper == (objects.Keeper{}) {
		return known.Keepers, nil
	}
	bucket := protocol.AgentsBucket(known.Keeper.Project)
	m, err := w.Store.Last(ctx, protocol.KVStream(bucket), protocol.KVSubject(bucket, known.Keeper.Key))
	switch {
	case errors.Is(err, journal.ErrNotFound), errors.Is(err, journal.ErrNoStream):
		return false, nil
	case err != nil:
		return true, err
	}
	return bytes.Contains(m.Data, []byte(digest)), nil
}
