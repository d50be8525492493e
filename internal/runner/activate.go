package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// staleAfter is how old a sight may be when a slot is free. Older ones are looked at again: a body that starts under
// an old decision may start after the end.
const staleAfter = 500 * time.Millisecond

// activate executes an instance under a wake, from slot to ack.
func (r *Runner) activate(ctx context.Context, h *held, s sight) {
	tail, incarnation := s.tailAt, s.created
	code := r.Code[h.instance.Workflow]
	if code == nil {
		r.unknown(ctx, h)
		return
	}
	select {
	case r.slots <- struct{}{}:
	case <-r.stopping.Done():
		r.giveBackUntouched(ctx, h)
		return
	}
	slot := &slot{r: r, taken: true}
	defer slot.free()
	if r.stopping.Err() != nil {
		r.giveBackUntouched(ctx, h)
		return
	}
	if time.Since(s.at) > staleAfter {
		fresh, err := r.lookFor(ctx, h)
		if err != nil {
			r.failed(ctx, h, err)
			return
		}
		s = fresh
	}
	if s.tailAt == tail && s.created == incarnation && r.goOn(ctx, h, s, slot) {
		return
	}
	if s.unreadable != nil {
		code = unreadable(s.unreadable)
	}
	history, err := r.load(ctx, h.instance, s)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	left := history.Situation
	if left.Tail != tail || left.Incarnation != incarnation {
		// The log went on since the decision, or is gone: what is appended must rest on what was decided about.
		slot.free()
		r.decideFromLeader(ctx, h)
		return
	}
	if left.Begun && left.Phase == engine.Running && !history.Released() && r.executedElsewhere(ctx, h) {
		r.drop(h)
		return
	}
	if err := errors.Join(
		r.informAt(ctx, h.instance, s), r.endChildren(ctx, h.instance, history.Incarnation, history.Untold),
	); err != nil {
		r.failed(ctx, h, err)
		return
	}
	history.Untold = nil
	if left.Begun && left.Phase == engine.Running && r.steeredFirst(ctx, h, history, slot) {
		return
	}
	if waits, err := r.takeSlot(ctx, h, footing{
		history.Create.Created, history.Incarnation, history.Tail, history.Mark, history.Epoch, history.Version(),
	}); waits || err != nil {
		slot.free()
		if err != nil {
			r.refused(ctx, h, err)
		}
		return
	}
	if left.Begun || h.again {
		if err := r.claim(ctx, h, history); err != nil {
			r.refused(ctx, h, err)
			return
		}
	}
	if left.Phase == engine.Parked && h.Kind != engine.WakeDue {
		r.disarm(h.instance, left.Park, left.Until)
	}
	r.execute(ctx, h, history, code, slot)
}

// slot is the right to execute. A parked execution gives it back; one that is revived goes on without.
type slot struct {
	r     *Runner
	taken bool
}

func (s *slot) free() {
	if s.taken {
		s.taken = false
		<-s.r.slots
	}
}

// unreadable is the code of an instance whose create is none: it ends with an error that people can see.
func unreadable(err error) Code {
	return func(context.Context, protocol.Create) (json.RawMessage, error) {
		return nil, &protocol.Failure{Name: protocol.FailureEncoding, Message: fmt.Sprintf("create: %v", err), Terminal: true}
	}
}

func (r *Runner) unknown(ctx context.Context, h *held) {
	r.mu.Lock()
	first := !r.warned[h.instance.Workflow]
	r.warned[h.instance.Workflow] = true
	r.mu.Unlock()
	if first {
		r.Log.WarnContext(ctx, "this runner has no code for a workflow, its instances wait for another runner",
			"workflow", h.instance.Workflow, logkey.Instance, h.instance.String())
	}
	r.untouched(ctx, h)
	r.later(h, retryDelay)
}

// claim takes the instance for the wake: from here on, whoever executed it before is refused.
func (r *Runner) claim(ctx context.Context, h *held, history *engine.History) error {
	a := protocol.Append{
		V: protocol.Version, ID: r.nextID(), Incarnation: history.Incarnation, Holder: h.Wake.Wake, Runner: r.ID,
		Time: r.Now().UTC(), Entries: []protocol.Entry{history.ClaimEntry(h.Wake.Wake)},
		Mark: history.Mark, Epoch: history.Epoch, Version: r.Version,
	}
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	sequence, err := r.Store.Append(ctx, h.instance.Stream(), h.instance.LogSubject(), history.Tail, body)
	if err != nil {
		return err
	}
	return history.Apply(sequence, &a)
}

// refused reads again and asks the table again: a refusal alone decides nothing.
func (r *Runner) refused(ctx context.Context, h *held, err error) {
	if !errors.Is(err, journal.ErrConflict) {
		r.failed(ctx, h, err)
		return
	}
	s, err := r.lookFor(ctx, h)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	if situation := s.situation(h.instance.Stream()); situation.Phase == engine.Running && situation.Holder == h.Wake.Wake {
		r.drop(h) // somebody else claimed under the same wake: it is theirs to ack
		return
	}
	r.act(ctx, h, s, engine.OlderUnknown)
}

// execute runs the code and follows what becomes of it. The order is always the same: append, project, ack.
func (r *Runner) execute(ctx context.Context, h *held, history *engine.History, code Code, slot *slot) {
	instance, to := h.instance, addressed(h.instance, history) // before the execution changes the history
	x := follow(execution.Start(ctx, execution.Config{
		Settings: r.Settings, Store: r.Store, Instance: instance, Runner: r.ID, Version: r.Version, History: history, Wake: h.Wake.Wake,
		Log: r.Log, NextID: r.nextID, Objects: r.Objects, MaxValue: r.MaxValueSize,
		Inputs: func(ctx context.Context, from uint64) ([]engine.Input, error) {
			return r.inputs(ctx, to, from)
		},
		Nudge: func(ctx context.Context, park uint64) (protocol.Wake, error) { return r.nudge(ctx, instance, park) },
		Once:  r.Concurrency[instance.Workflow] > 0, Limits: r.Limits[instance.Workflow],
		KeptUntil: func(success bool, end time.Time) *time.Time { return r.expires(history.Create, success, end) },
		EndChild: func(ctx context.Context, c engine.Call) error {
			return r.endChild(ctx, instance, history.Incarnation, c)
		},
		Inform:   r.informer(instance, history.Create),
		EndStray: func(ctx context.Context, c engine.Call) { r.endStray(ctx, instance, history.Incarnation, c) },
	}, func(ctx context.Context) (json.RawMessage, error) { return code(ctx, history.Create) }))
	r.enter(instance, x)
	defer r.leave(instance, x)
	defer func() { r.again(ctx, x.pass(passAll)) }()
	defer context.AfterFunc(r.stopping, func() { r.release(x.Execution) })()
	e := <-x.Events()
	for {
		switch e.Kind {
		case execution.Finished:
			testsignal.At(testsignal.RunnerAppended)
			err := errors.Join(
				r.announce(ctx, instance, *e.Done), r.releaseSlot(ctx, instance, history.Incarnation, e.Sequence),
			)
			if err == nil {
				slot.free() // what is left may take time
				err = r.tellFamily(ctx, instance, history.Create, *e.Done, e.Orphans)
			}
			if err != nil {
				r.failed(ctx, h, err)
				return
			}
			testsignal.At(testsignal.RunnerProjected)
			r.ack(h)
			return
		case execution.Parked:
			if r.park(ctx, h, to, x.Execution, e) {
				slot.free()
				var left bool
				if h, e, left = r.linger(ctx, x, h, slot, e); left {
					return
				}
				continue
			}
			r.again(ctx, x.pass(e.Sequence))
		case execution.Revived:
			r.ack(h) // if the park did not: the claim under the nudge takes the instance from it for good
			h = r.revived(h, e.Wake)
		case execution.Held:
			r.Log.WarnContext(ctx, "an instance is held", logkey.Instance, instance.String(), logkey.Error, e.Err)
			if err := r.releaseSlot(ctx, instance, history.Incarnation, e.Sequence); err != nil {
				r.failed(ctx, h, err)
				return
			}
			r.ack(h)
			return
		case execution.Yielded:
			r.yielded(ctx, h, e.Sequence)
			return
		case execution.Dropped:
			r.dropped(ctx, h, e.Err)
			return
		}
		e = <-x.Events()
	}
}

// park projects a park and acks. It returns false if the code runs again, or is over, and the wake is still held.
func (r *Runner) park(ctx context.Context, h *held, to addressee, x *execution.Execution, e execution.Event) bool {
	testsignal.At(testsignal.RunnerAppended)
	if waitsForEvents(e.Park.Waits) {
		inputs, err := r.inputs(ctx, to, x.Seen()+1)
		if err != nil {
			x.Drop(err)
			return false
		}
		if x.Older(e.Sequence, e.Park.Waits, inputs) {
			if x.Reclaim() {
				x.Deliver(inputs)
			}
			return false // refused, the wake may be what somebody else holds the instance under: no ack
		}
	}
	if err := errors.Join(
		r.arm(ctx, h.instance, to.incarnation, e.Sequence, e.Park.Until), r.releaseSlot(ctx, h.instance, to.incarnation, e.Sequence),
	); err != nil {
		x.Drop(err)
		return false
	}
	testsignal.At(testsignal.RunnerProjected)
	r.ack(h)
	return true
}

// nudge stores a new wake for an instance that was parked too early.
func (r *Runner) nudge(ctx context.Context, instance protocol.Instance, park uint64) (protocol.Wake, error) {
	body, err := json.Marshal(protocol.Nudge{V: protocol.Version, Runner: r.ID, Park: park})
	if err != nil {
		return protocol.Wake{}, err
	}
	sequence, err := r.Store.Publish(ctx, instance.NudgeSubject(), nil, body)
	return protocol.Wake{Stream: instance.Stream(), Sequence: sequence}, err
}

// revived takes the nudge in hand under which the execution goes on, although it may not be delivered yet: when it is,
// here, it can be marked and acked. Delivered elsewhere, it comes again until the instance is parked or finished.
func (r *Runner) revived(old *held, wake protocol.Wake) *held {
	h := &held{Wake: engine.Wake{Wake: wake, Kind: engine.WakeNudge}, instance: old.instance, again: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold(h)
	return h
}

func waitsForEvents(waits []protocol.Wait) bool {
	return engine.Situation{Waits: waits}.WaitsForEvents()
}

// dropped ends an execution that has no outcome.
func (r *Runner) dropped(ctx context.Context, h *held, err error) {
	switch {
	case errors.Is(err, execution.ErrReleased), errors.Is(err, execution.ErrDied):
		r.giveBack(h)
	case errors.Is(err, execution.ErrSuperseded):
		r.Log.DebugContext(ctx, "an execution was overtaken", logkey.Instance, h.instance.String(), logkey.Error, err)
		r.endStrays(ctx, h.instance)
		r.refused(ctx, h, journal.ErrConflict)
	default:
		r.failed(ctx, h, err)
	}
}

// enter makes x the execution of the instance in this process; an older one, parked and lingering, is over.
func (r *Runner) enter(instance protocol.Instance, x *active) {
	r.mu.Lock()
	older := r.active[instance]
	r.active[instance] = x
	r.mu.Unlock()
	if older != nil {
		older.Drop(execution.ErrSuperseded)
	}
}

func (r *Runner) leave(instance protocol.Instance, x *active) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active[instance] == x {
		delete(r.active, instance)
	}
}
