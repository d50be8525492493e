package slots

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Slots are those of one workflow.
type Slots struct {
	Store    *journal.Store
	Project  string
	Workflow string
	// Limit is how many instances may execute at a time; 0 is without limit.
	Limit int
	// Nudge stores a wake for an instance that was given a slot; park is where it began to wait.
	Nudge func(ctx context.Context, i protocol.Instance, park uint64) error
	// Queue is what this process knows of those that wait.
	Queue *Queue
}

func (s Slots) bucket() string { return protocol.SlotsBucket(s.Project) }
func (s Slots) stream() string { return protocol.KVStream(s.bucket()) }
func (s Slots) subject(key string) string {
	return protocol.KVSubject(s.bucket(), key)
}

// Take gets a slot for an instance that is about to execute; log is the tail that its claim will follow. It returns
// false if there is none: then the instance must wait (see Wait). Who has a slot already keeps it.
func (s Slots) Take(ctx context.Context, i protocol.Instance, incarnation, log uint64) (bool, error) {
	if s.Limit == 0 {
		return true, nil
	}
	taken, queued := false, false
	err := s.change(ctx, func(row *protocol.Slots) (bool, error) {
		taken, queued = false, false
		at := slices.IndexFunc(row.Holders, func(h protocol.SlotHolder) bool { return holds(h, i, incarnation) })
		if at >= 0 {
			taken = true
			changed := row.Holders[at].Log < log
			row.Holders[at].Log = max(row.Holders[at].Log, log)
			return changed, nil
		}
		if len(row.Holders) >= s.Limit {
			return false, nil
		}
		first, err := s.Queue.oldest(ctx, s)
		if err != nil {
			return false, err
		}
		if first != nil {
			if first.instance(s) != i || first.Incarnation != incarnation { // it was created earlier
				return false, nil
			}
			queued = true
		}
		row.Holders = append(row.Holders, protocol.SlotHolder{
			Shard: i.Shard, ID: i.ID, Incarnation: incarnation, Log: log, Since: time.Now().UTC(),
		})
		taken = true
		return true, nil
	})
	if err == nil && taken && queued {
		err = s.leave(ctx, i, incarnation, log+1)
	}
	return taken, err
}

func holds(h protocol.SlotHolder, i protocol.Instance, incarnation uint64) bool {
	return h.ID == i.ID && h.Shard == i.Shard && h.Incarnation == incarnation
}

// Wait queues an instance that is parked at park for a slot. If one became free meanwhile, it goes to whoever was created
// first.
func (s Slots) Wait(ctx context.Context, i protocol.Instance, created time.Time, incarnation, park uint64) error {
	body, err := json.Marshal(protocol.SlotWait{
		V: protocol.Version, Shard: i.Shard, ID: i.ID, Incarnation: incarnation, Park: park, Created: created,
	})
	if err != nil {
		return err
	}
	if _, err := s.Store.Publish(ctx, s.subject(protocol.SlotWaitKey(i)), nil, body); err != nil {
		return fmt.Errorf("queue %s for a slot: %w", i, err)
	}
	return s.Grant(ctx)
}

// Release gives back the slot of an instance that parked or ended at a sequence of its log, and hands it on. A slot
// that was taken after that, by a newer activation of the instance, stays.
func (s Slots) Release(ctx context.Context, i protocol.Instance, incarnation, at uint64) error {
	return s.release(ctx, func(h protocol.SlotHolder) bool { return holds(h, i, incarnation) && h.Log < at })
}

// Drop gives back whatever an instance had that ended, or was paused, at a sequence of its log. What it got after that,
// because it goes on, stays.
func (s Slots) Drop(ctx context.Context, i protocol.Instance, incarnation, at uint64) error {
	if err := s.leave(ctx, i, incarnation, at); err != nil {
		return err
	}
	return s.Release(ctx, i, incarnation, at)
}

func (s Slots) release(ctx context.Context, which func(protocol.SlotHolder) bool) error {
	err := s.change(ctx, func(row *protocol.Slots) (bool, error) {
		before := len(row.Holders)
		row.Holders = slices.DeleteFunc(row.Holders, which)
		return len(row.Holders) < before, nil
	})
	if err != nil {
		return err
	}
	return s.Grant(ctx)
}

// Grant hands free slots to the queued instances that were created first. It nudges once more whoever was granted one and is still
// queued: the nudge may not have been stored.
func (s Slots) Grant(ctx context.Context) error {
	for {
		var granted *waiting
		err := s.change(ctx, func(row *protocol.Slots) (changed bool, err error) {
			granted, changed, err = s.grant(ctx, row)
			return changed, err
		})
		if granted == nil || err != nil {
			return err
		}
		// First the wake, then the key: after a crash in between, the instance is granted what it has once more.
		if err := s.Nudge(ctx, granted.instance(s), granted.Park); err != nil {
			return err
		}
		if err := s.Store.Purge(ctx, s.stream(), granted.subject, granted.sequence+1); err != nil {
			return err
		}
		s.Queue.forget(granted)
	}
}

// grant chooses who is to be nudged next, and gives a slot to it in the row unless it has one.
func (s Slots) grant(ctx context.Context, row *protocol.Slots) (granted *waiting, changed bool, err error) {
	if s.Limit > 0 {
		if granted, err = s.Queue.granted(ctx, s, row.Holders); granted != nil || err != nil || len(row.Holders) >= s.Limit {
			return granted, false, err
		}
	}
	first, err := s.Queue.oldest(ctx, s)
	if first == nil || err != nil || s.Limit == 0 {
		return first, false, err
	}
	row.Holders = append(row.Holders, protocol.SlotHolder{
		Shard: first.Shard, ID: first.ID, Incarnation: first.Incarnation, Log: first.Park, Since: time.Now().UTC(),
	})
	return first, true, nil
}

// leave takes an instance out of the queue that it entered before a sequence of its log.
func (s Slots) leave(ctx context.Context, i protocol.Instance, incarnation, before uint64) error {
	subject := s.subject(protocol.SlotWaitKey(i))
	m, err := s.Store.Last(ctx, s.stream(), subject)
	if errors.Is(err, journal.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var w protocol.SlotWait
	if json.Unmarshal(m.Data, &w) == nil && (w.Incarnation != incarnation || w.Park >= before) {
		return nil
	}
	return s.Store.Purge(ctx, s.stream(), subject, m.Sequence+1)
}

// Keeps reports whether an instance that stands like this will give its slot back by itself: it executes, or waits for the
// slot, or a wake that ends its park has taken the slot and is about to claim. That wake comes again should its runner have
// died.
func Keeps(s engine.Situation, h protocol.SlotHolder) bool {
	if !s.Exists || s.Incarnation != h.Incarnation {
		return false
	}
	return s.Phase == engine.Running || s.WaitsForSlot() || s.Phase == engine.Parked && s.Tail <= h.Log
}

// Holders are the instances that have a slot.
func (s Slots) Holders(ctx context.Context) ([]protocol.SlotHolder, error) {
	row, _, err := s.row(ctx)
	return row.Holders, err
}

// Oldest is the instance that is first in the queue, and the sequence of its key; ok is false if none waits.
func (s Slots) Oldest(ctx context.Context) (i protocol.Instance, sequence uint64, ok bool, err error) {
	first, err := s.Queue.oldest(ctx, s)
	if first == nil || err != nil {
		return protocol.Instance{}, 0, false, err
	}
	return first.instance(s), first.sequence, true, nil
}

// Forget drops the slot of an instance that does not give it back, unless it was taken anew. It hands none on: that is for
// who knows the limit.
func (s Slots) Forget(ctx context.Context, h protocol.SlotHolder) (dropped bool, err error) {
	err = s.change(ctx, func(row *protocol.Slots) (bool, error) {
		before := len(row.Holders)
		row.Holders = slices.DeleteFunc(row.Holders, func(there protocol.SlotHolder) bool {
			return there.ID == h.ID && there.Shard == h.Shard && there.Incarnation == h.Incarnation && there.Log == h.Log
		})
		dropped = len(row.Holders) < before
		return dropped, nil
	})
	return dropped, err
}

// Check drops the slots of instances that will not give them back, as alive says, and hands free ones on. It is for the
// start of a runner: the limit may have changed, and a grant may have met the end of its instance.
func (s Slots) Check(ctx context.Context, alive func(context.Context, protocol.SlotHolder) (bool, error)) error {
	row, _, err := s.row(ctx)
	if err != nil {
		return err
	}
	for _, h := range row.Holders {
		ok, err := alive(ctx, h)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		i := protocol.Instance{Project: s.Project, Shard: h.Shard, Workflow: s.Workflow, ID: h.ID}
		if err := s.Release(ctx, i, h.Incarnation, h.Log+1); err != nil {
			return err
		}
	}
	return s.Grant(ctx)
}

// row reads the row and the sequence to compare with.
func (s Slots) row(ctx context.Context) (*protocol.Slots, uint64, error) {
	row := &protocol.Slots{V: protocol.Version, Workflow: s.Workflow}
	m, err := s.Store.Last(ctx, s.stream(), s.subject(protocol.SlotHoldersKey(s.Workflow)))
	if errors.Is(err, journal.ErrNotFound) {
		return row, 0, nil
	}
	if err != nil {
		return row, 0, fmt.Errorf("slots of %q: %w", s.Workflow, err)
	}
	if err := json.Unmarshal(m.Data, row); err != nil {
		return row, 0, fmt.Errorf("slots of %q: %w", s.Workflow, err)
	}
	return row, m.Sequence, nil
}

// change changes the row by compare-and-set until it succeeds or change wants nothing.
func (s Slots) change(ctx context.Context, change func(*protocol.Slots) (bool, error)) error {
	for {
		row, sequence, err := s.row(ctx)
		if err != nil {
			return err
		}
		changed, err := change(row)
		if !changed || err != nil {
			return err
		}
		row.ID = uuid.NewString()
		body, err := json.Marshal(row)
		if err != nil {
			return err
		}
		_, err = s.Store.Append(ctx, s.stream(), s.subject(protocol.SlotHoldersKey(s.Workflow)), sequence, body)
		if !errors.Is(err, journal.ErrConflict) {
			return err
		}
	}
}
