package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// maxTogether bounds how many wakes one read serves: two subjects each, below the server's 1,024.
const maxTogether = 256

// decide reads and decides about wakes as they come until ctx ends, those that came together with one read.
func (r *Runner) decide(ctx, work context.Context) {
	for {
		var together []*held
		select {
		case <-ctx.Done():
			return
		case h := <-r.incoming:
			together = append(together, h)
		}
		for more := true; more && len(together) < maxTogether; {
			select {
			case h := <-r.incoming:
				together = append(together, h)
			default:
				more = false
			}
		}
		byStream := map[string][]*held{}
		for _, h := range together {
			byStream[h.instance.Stream()] = append(byStream[h.instance.Stream()], h)
		}
		for stream, wakes := range byStream {
			r.decideTogether(ctx, work, stream, wakes)
		}
	}
}

// decideTogether decides about wakes of instances of one stream. It reads while reading lasts, and acts beyond it.
func (r *Runner) decideTogether(reading, ctx context.Context, stream string, wakes []*held) {
	filters := make([]string, 0, 2*len(wakes))
	for _, h := range wakes {
		filters = append(filters, h.instance.CreateSubject(), h.instance.LogSubject())
	}
	asked := time.Now()
	batch, err := r.Store.LastOfMany(reading, stream, filters)
	switch {
	case reading.Err() != nil && err != nil:
		for _, h := range wakes {
			r.work.Go(func() { r.giveBackUntouched(ctx, h) })
		}
		return
	case err != nil:
		for _, h := range wakes {
			r.failed(ctx, h, err)
		}
		return
	case batch.Cut && len(wakes) > 1:
		r.decideTogether(reading, ctx, stream, wakes[:len(wakes)/2])
		r.decideTogether(reading, ctx, stream, wakes[len(wakes)/2:])
		return
	}
	sights := map[protocol.Instance]*sight{}
	var broken map[protocol.Instance]error
	for _, m := range batch.Messages {
		instance, class, err := protocol.ParseInstanceSubject(m.Subject)
		if err != nil {
			continue
		}
		if sights[instance] == nil {
			sights[instance] = &sight{at: asked, upTo: batch.UpTo}
		}
		if err := sights[instance].add(class, m); err != nil {
			if broken == nil {
				broken = map[protocol.Instance]error{}
			}
			broken[instance] = fmt.Errorf("%s: %w", m.Subject, err)
		}
	}
	for _, h := range wakes {
		if err := broken[h.instance]; err != nil {
			r.failed(ctx, h, err)
			continue
		}
		s := sights[h.instance]
		if !s.counts(h) {
			r.decideFromLeader(ctx, h)
			continue
		}
		r.act(ctx, h, *s, engine.OlderUnknown)
	}
}

// reach is the sequence that a read must include to count for the wake: its own, for a timer that of its park. One that
// reaches a control says what there is before it: that is all that the control is about.
func (h *held) reach() uint64 {
	if h.Kind == engine.WakeDue {
		return h.Park
	}
	return h.Sequence
}

// counts reports whether what any replica has said is enough to decide about a wake: it reaches the message that the wake is about. Of a
// timer it must have the log itself up to the park, or the leader is asked: a timer that is acked because its instance does not seem to be
// parked yet never comes again.
func (s *sight) counts(h *held) bool {
	return s != nil && s.upTo >= h.reach() && (h.Kind != engine.WakeDue || s.tailAt >= h.Park)
}

// lostAfter is after how many deliveries of a wake the leader is believed that it does not have it: then it has lost what it had
// acknowledged.
const lostAfter = 5

// lookFor is look for the holder of a wake. The leader can be behind the replica that delivered it, and what it does not have yet
// would pass for what is gone.
func (r *Runner) lookFor(ctx context.Context, h *held) (sight, error) {
	s, err := r.look(ctx, h.instance)
	if err != nil || max(s.tailAt, s.createAt) >= h.reach() {
		return s, err
	}
	err = r.Store.AwaitStored(ctx, h.instance.Stream(), h.reach())
	if errors.Is(err, journal.ErrBehind) && h.deliveries > lostAfter {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return r.look(ctx, h.instance)
}

// decideFromLeader decides about one wake from what the stream's leader holds.
func (r *Runner) decideFromLeader(ctx context.Context, h *held) {
	s, err := r.lookFor(ctx, h)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	r.act(ctx, h, s, engine.OlderUnknown)
}

// failed leaves a wake to be delivered again: nothing was decided about it.
func (r *Runner) failed(ctx context.Context, h *held, err error) {
	if ctx.Err() == nil {
		r.Log.WarnContext(ctx, "cannot decide about a wake now", logkey.Instance, h.instance.String(),
			logkey.Wake, h.Wake.Wake.String(), logkey.Error, err)
	}
	r.later(h, retryDelay)
}

// act does what the table says. What takes time or needs a slot goes into a goroutine of its own.
func (r *Runner) act(ctx context.Context, h *held, s sight, older engine.Older) {
	situation := s.situation(h.instance.Stream())
	switch action := engine.Decide(situation, h.Wake, older, r.Now()); action {
	case engine.Ack:
		switch incarnation, before := s.remains(h); {
		case before > 0:
			r.work.Go(func() { r.eraseAgain(ctx, h, incarnation, before) })
			return
		case r.mayHaveSlot(h, situation), s.mayBeUntold(h, situation):
			r.work.Go(func() { r.leaveAgain(ctx, h, s, situation) })
			return
		}
		r.ack(h)
	case engine.Keep:
		// Not for long: it may be this runner's clock that is wrong.
		r.later(h, min(time.Until(h.Due), retryDelay))
	case engine.Poke:
		r.poke(h)
		r.ack(h)
	case engine.Arm:
		r.work.Go(func() { r.armAgain(ctx, h, s, situation) })
	case engine.Project:
		r.work.Go(func() { r.projectAgain(ctx, h, s) })
	case engine.LookOlder:
		r.work.Go(func() { r.lookOlder(ctx, h, s) })
	case engine.Obey:
		r.work.Go(func() { r.obey(ctx, h, s) })
	case engine.Start, engine.Claim:
		if !r.toExecute(h) {
			r.later(h, h.patience())
			return
		}
		r.work.Go(func() { r.activate(ctx, h, s) })
	}
}

func (r *Runner) armAgain(ctx context.Context, h *held, s sight, at engine.Situation) {
	if err := errors.Join(
		r.leaveSlotAgain(ctx, h.instance, s.create.Created, at), r.arm(ctx, h.instance, at.Incarnation, at.Park, at.Until), r.informAt(ctx, h.instance, s),
	); err != nil {
		r.failed(ctx, h, err)
		return
	}
	r.ack(h)
}

func (r *Runner) projectAgain(ctx context.Context, h *held, s sight) {
	history, err := r.load(ctx, h.instance, s)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	if done, ok := history.Done(); ok {
		if err = r.informAt(ctx, h.instance, s); err == nil {
			err = r.projectEnd(ctx, h, history, done)
		}
	}
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	r.ack(h)
}

// projectEnd does what follows from an end that is in the log. All of it may be repeated.
func (r *Runner) projectEnd(ctx context.Context, h *held, history *engine.History, done protocol.Done) error {
	if h.Vain { // whoever waits for what the control changes learns that the end is final
		done.Mark = max(done.Mark, h.Sequence)
	}
	if err := errors.Join(
		r.announce(ctx, h.instance, done), r.dropSlot(ctx, h.instance, done.Incarnation, done.Log),
	); err != nil {
		return err
	}
	err := r.tellFamily(ctx, h.instance, history.Create, done, history.Orphans())
	if err != nil || done.State != protocol.StateDeleted {
		return err
	}
	if err := r.Objects.DeleteInstance(ctx, protocol.OwnerOf(h.instance, history.Create.Input)); err != nil {
		return err
	}
	return r.erase(ctx, h.instance, done.Incarnation, done.Log)
}

// lookOlder finds out whether an input older than the park is there that one of its waits would take.
func (r *Runner) lookOlder(ctx context.Context, h *held, s sight) {
	history, err := r.load(ctx, h.instance, s)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	inputs, err := r.inputs(ctx, addressed(h.instance, history), 0)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	older := engine.OlderNone
	if engine.NewMachine(history).WouldTake(history.Park, history.Waits, inputs) {
		older = engine.OlderSome
	}
	if history.Tail != s.tailAt { // the log went on meanwhile: what was found may be about another park
		r.decideFromLeader(ctx, h)
		return
	}
	r.act(ctx, h, s, older)
}
