package runner

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// askedAtMost is for how long whoever executes an instance is asked to make room for a control that cannot wait for its
// bodies. One that answers and does not do so is overruled. A control that is old may be new to those who ask, as after an
// outage, and clocks differ: they ask askedOften, too, which takes some six seconds.
const (
	askedAtMost = 10 * time.Second
	askedOften  = 5
)

// overdue reports whether whoever executes the instance was asked long enough.
func (h *held) overdue() bool {
	return h.deliveries > askedOften && time.Since(h.stored) >= askedAtMost
}

// obey applies the controls up to the wake, which is one, or has whoever executes the instance do so. The wake is kept
// until the log says that it counts, or that it never will.
func (r *Runner) obey(ctx context.Context, h *held, s sight) {
	history, err := r.load(ctx, h.instance, s)
	if err != nil {
		r.failed(ctx, h, err)
		return
	}
	if history.Tail != s.tailAt {
		r.decideFromLeader(ctx, h)
		return
	}
	o, err := r.weigh(ctx, h.instance, history, h.Wake.Wake)
	switch {
	case err != nil:
		r.failed(ctx, h, err)
		return
	case o.vain():
		h.Vain = true
		r.act(ctx, h, s, engine.OlderUnknown)
		return
	case o.compact: // whoever executes the instance goes on over a snapshot
	case history.Phase == engine.Running && (o.patient() || !h.overdue()) && r.asked(ctx, h):
		r.later(h, h.patience())
		return
	}
	s, err = r.carryOut(ctx, h, s, history, o)
	switch {
	case errors.Is(err, journal.ErrConflict):
		r.decideFromLeader(ctx, h)
	case err != nil:
		r.failed(ctx, h, err)
	case o.compact:
		r.compacted(ctx, h, history)
	default:
		r.tell(h)
		r.act(ctx, h, s, engine.OlderUnknown)
	}
}

// compacted acks a control that asked for a snapshot, now that there is one. An end is announced once more: what is before
// the snapshot is about to be cleaned away, and with it the announcement that there was.
func (r *Runner) compacted(ctx context.Context, h *held, history *engine.History) {
	if done, ok := history.Done(); ok {
		done.Mark = max(done.Mark, h.Sequence) // all controls up to this one were looked at
		if err := r.announce(ctx, h.instance, done); err != nil {
			r.failed(ctx, h, err)
			return
		}
	}
	r.ack(h)
}

// patience is how long a control waits until somebody asks again what became of it: the longer, the more often
// that was done.
func (h *held) patience() time.Duration {
	return min(100*time.Millisecond<<min(h.deliveries, 10), retryDelay)
}

// carryOut appends what controls make of an instance and returns what there is to see then.
func (r *Runner) carryOut(ctx context.Context, h *held, s sight, history *engine.History, o obedience) (sight, error) {
	if history.Tail != s.tailAt { // what the newest message makes known has to be told first
		return s, journal.ErrConflict
	}
	if err := r.informAt(ctx, h.instance, s); err != nil {
		return s, err
	}
	a := protocol.Append{
		V: protocol.Version, ID: r.nextID(), Incarnation: history.Incarnation, Holder: h.Wake.Wake, Runner: r.ID,
		Time: r.Now().UTC(), Entries: o.entries, Mark: h.Sequence, Epoch: o.epoch,
		Version: history.Version(),
	}
	if o.compact {
		e, err := r.snapshot(ctx, h, history)
		if err != nil {
			return s, err
		}
		a.Holder, a.Mark, a.Epoch, a.Entries = history.Holder, history.Mark, history.Epoch, []protocol.Entry{e}
	}
	for i := range a.Entries {
		if a.Entries[i].Kind == protocol.EntryTerminated {
			a.Entries[i].Expires = r.expires(history.Create, false, a.Time)
		}
	}
	body, err := json.Marshal(a)
	if err != nil {
		return s, err
	}
	s.at = time.Now()
	sequence, err := r.Store.Append(ctx, h.instance.Stream(), h.instance.LogSubject(), history.Tail, body)
	if err != nil {
		return s, err
	}
	testsignal.At(testsignal.RunnerObeyed)
	s.tailAt, s.tail, s.upTo = sequence, &a, sequence
	if history.Phase == engine.Parked && !o.compact {
		r.disarm(h.instance, history.Park, history.Until)
	}
	return s, nil
}

// asked asks whoever executes the instance to make room for a control, and reports whether there is somebody who will. A
// runner that stops does not wait for an answer, and leaves it to others to find out that there is none.
func (r *Runner) asked(ctx context.Context, h *held) bool {
	body, err := json.Marshal(h.steer())
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, r.Hearing)
	defer cancel()
	defer context.AfterFunc(r.stopping, cancel)()
	_, err = r.nc.RequestWithContext(ctx, protocol.PokeSubject(r.Project), body)
	return err == nil || r.stopping.Err() != nil
}

// tell lets whoever still executes the instance know that a control was obeyed without it: a hint, its next append
// would tell it, too.
func (r *Runner) tell(h *held) {
	if body, err := json.Marshal(h.steer()); err == nil {
		_ = r.nc.Publish(protocol.PokeSubject(r.Project), body)
	}
}

func (h *held) steer() protocol.Poke {
	return protocol.Poke{
		V: protocol.Version, Shard: h.instance.Shard, Workflow: h.instance.Workflow, ID: h.instance.ID, Control: h.Sequence,
	}
}

// controlled hears of a control of an instance that is executed here: that it is to be obeyed, if m wants an answer, or
// that it was.
func (r *Runner) controlled(m *nats.Msg, x *execution.Execution, control uint64) {
	asked := strings.HasPrefix(m.Reply, protocol.InboxPrefix)
	if asked { // whoever is alive is given the time that bodies need
		_ = m.Respond(nil)
	}
	if asked && x.Yields(control) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	s, err := r.look(ctx, x.Instance)
	if err != nil {
		return // the control will be heard of again
	}
	if situation := s.situation(x.Instance.Stream()); situation.Incarnation != x.History.Incarnation || situation.Mark >= control {
		x.Overtaken(situation.Incarnation, control)
		return
	}
	if !asked {
		return
	}
	controls, err := r.controls(ctx, x.Instance, max(s.created, s.situation(x.Instance.Stream()).Mark+1), control)
	if err == nil {
		x.Yield(control, patient(controls, control))
	}
}

// patient reports whether the bodies of steps may finish before the controls up to a sequence are obeyed.
func patient(controls []engine.Control, upTo uint64) bool {
	for _, c := range controls {
		switch c.Action {
		case protocol.ActionTerminate, protocol.ActionRestart, protocol.ActionDelete:
			if c.Sequence <= upTo {
				return false
			}
		}
	}
	return true
}

// yielded obeys a control in place of an execution, whoever has it in hand, and goes on with it. The wake that the
// execution had, or was to have, is decided about after that.
func (r *Runner) yielded(ctx context.Context, h *held, control uint64) {
	c := &held{
		Wake:     engine.Wake{Wake: protocol.Wake{Stream: h.instance.Stream(), Sequence: control}, Kind: engine.WakeControl},
		instance: h.instance, again: true, room: forControls,
	}
	s, err := r.obeyYielded(ctx, c)
	switch {
	case errors.Is(err, errVain), errors.Is(err, journal.ErrConflict): // somebody else did
	case err != nil:
		r.failed(ctx, h, err)
		return
	default:
		r.mu.Lock()
		r.hold(c)
		r.mu.Unlock()
		r.act(ctx, c, s, engine.OlderUnknown)
	}
	r.decideFromLeader(ctx, h)
}

// steeredFirst obeys controls that nobody has obeyed before the wake claims a running instance: whoever has them may be as
// dead as whoever executed it, and no body must begin that is to be stopped. If there are any, the wake is decided about.
func (r *Runner) steeredFirst(ctx context.Context, h *held, history *engine.History, slot *slot) bool {
	newest, entries, err := r.pending(ctx, h.instance, history)
	switch {
	case err != nil:
		r.failed(ctx, h, err)
		return true
	case len(entries) == 0:
		return false
	}
	slot.free()
	r.yielded(ctx, h, newest)
	return true
}

// errVain says that there is nothing to obey.
var errVain = errors.New("the control changes nothing")

func (r *Runner) obeyYielded(ctx context.Context, c *held) (sight, error) {
	s, err := r.lookFor(ctx, c)
	if err != nil {
		return s, err
	}
	if situation := s.situation(c.instance.Stream()); !situation.Exists || situation.Mark >= c.Sequence {
		return s, errVain
	}
	history, err := r.load(ctx, c.instance, s)
	if err != nil {
		return s, err
	}
	o, err := r.weigh(ctx, c.instance, history, c.Wake.Wake)
	if err != nil {
		return s, err
	}
	if o.vain() {
		return s, errVain
	}
	return r.carryOut(ctx, c, s, history, o)
}
