package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/slots"
	"github.com/skein-run/skein/pkg/protocol"
)

// limited is what limits the concurrency of a workflow.
func (r *Runner) limited(workflow string) slots.Slots {
	queue, ok := r.queues.Load(workflow)
	if !ok {
		queue, _ = r.queues.LoadOrStore(workflow, &slots.Queue{})
	}
	return slots.Slots{
		Store: r.Store, Project: r.Project, Workflow: workflow, Limit: r.Concurrency[workflow], Queue: queue.(*slots.Queue),
		Nudge: func(ctx context.Context, i protocol.Instance, park uint64) error {
			_, err := r.nudge(ctx, i, park)
			return err
		},
	}
}

// checkSlots hands on what free slots there are when a runner begins: limits change between runs.
func (r *Runner) checkSlots(ctx context.Context) error {
	for workflow := range r.Code {
		err := r.limited(workflow).Check(ctx, func(ctx context.Context, h protocol.SlotHolder) (bool, error) {
			i := protocol.Instance{Project: r.Project, Shard: h.Shard, Workflow: workflow, ID: h.ID}
			s, err := r.look(ctx, i)
			if err != nil {
				return true, err
			}
			return slots.Keeps(s.situation(i.Stream()), h), nil
		})
		if err != nil {
			return fmt.Errorf("check the slots of workflow %q: %w", workflow, err)
		}
	}
	return nil
}

// footing is what an append to a log that says that its instance waits for a slot rests on, and when that was created.
type footing struct {
	created                 time.Time
	incarnation, tail, mark uint64
	epoch                   int
	version                 string
}

// footingOf is the newest message of a log.
func footingOf(s sight) footing {
	return footing{s.create.Created, s.created, s.tailAt, s.tail.Mark, s.tail.Epoch, s.tail.Version}
}

// takeSlot gets a slot for an instance that is about to execute. If there is none, the instance is parked until it is
// given one, and the wake is acked: waits is true.
func (r *Runner) takeSlot(ctx context.Context, h *held, on footing) (waits bool, err error) {
	limit := r.limited(h.instance.Workflow)
	if limit.Limit == 0 {
		return false, nil
	}
	taken, err := limit.Take(ctx, h.instance, on.incarnation, on.tail)
	if taken || err != nil {
		return false, err
	}
	body, err := json.Marshal(protocol.Append{
		V: protocol.Version, ID: r.nextID(), Incarnation: on.incarnation, Holder: h.Wake.Wake, Runner: r.ID,
		Time: r.Now().UTC(), Mark: on.mark, Epoch: on.epoch, Version: on.version,
		Entries: []protocol.Entry{{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpSlot}}}}},
	})
	if err != nil {
		return false, err
	}
	park, err := r.Store.Append(ctx, h.instance.Stream(), h.instance.LogSubject(), on.tail, body)
	if err != nil {
		return false, err
	}
	if err := limit.Wait(ctx, h.instance, on.created, on.incarnation, park); err != nil {
		return false, errors.Join(errNotQueued, err)
	}
	r.ack(h)
	return true, nil
}

// errNotQueued says that an instance is parked until it gets a slot, and is not queued for one: the wake comes again.
var errNotQueued = errors.New("parked, but not queued for a slot")

// releaseSlot gives back the slot of an instance that parked or ended at a sequence of its log.
func (r *Runner) releaseSlot(ctx context.Context, i protocol.Instance, incarnation, at uint64) error {
	limit := r.limited(i.Workflow)
	if limit.Limit == 0 {
		return nil
	}
	return limit.Release(ctx, i, incarnation, at)
}

// dropSlot gives back the slot, or the place in the queue, of an instance that somebody ended or paused at a sequence of
// its log.
func (r *Runner) dropSlot(ctx context.Context, i protocol.Instance, incarnation, at uint64) error {
	limit := r.limited(i.Workflow)
	if limit.Limit == 0 {
		return nil
	}
	return limit.Drop(ctx, i, incarnation, at)
}

// leaveSlotAgain does once more what follows from a park: the instance waits for a slot, or gives its own back.
func (r *Runner) leaveSlotAgain(ctx context.Context, i protocol.Instance, created time.Time, s engine.Situation) error {
	if s.WaitsForSlot() {
		return r.limited(i.Workflow).Wait(ctx, i, created, s.Incarnation, s.Park)
	}
	return r.releaseSlot(ctx, i, s.Incarnation, s.Park)
}

// mayHaveSlot reports whether a wake that is to be acked may have left a slot with an instance that does not execute: the
// wake that it was stopped under, should its runner have died before it gave the slot back, or one that came with a slot.
func (r *Runner) mayHaveSlot(h *held, s engine.Situation) bool {
	return r.Concurrency[h.instance.Workflow] > 0 &&
		(h.Kind == engine.WakeNudge || h.Kind == engine.WakeControl || s.Holder == h.Wake.Wake)
}

// leaveAgain acks a wake, after what may not have followed from the end or pause of its instance: the instance gives its
// slot back, and its agent is told.
func (r *Runner) leaveAgain(ctx context.Context, h *held, s sight, at engine.Situation) {
	var err error
	if at.Exists && (at.Phase == engine.Finished || at.Phase == engine.Paused) {
		if err = r.dropSlot(ctx, h.instance, at.Incarnation, at.Tail); errors.Is(err, journal.ErrNotFound) {
			err = nil
		}
	}
	if err == nil && s.mayBeUntold(h, at) {
		err = r.informAt(ctx, h.instance, s)
	}
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	r.ack(h)
}
