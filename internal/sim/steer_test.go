package sim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

func (r *runner) controls(i protocol.Instance, from, upTo uint64) []engine.Control {
	var all []engine.Control
	r.read(i.ControlSubject(), from, upTo, func(m *journal.Message) {
		c := engine.Control{Sequence: m.Sequence, Stored: m.Time}
		decode(m.Data, &c.Control)
		c.Input = r.inputID(c.Input, m.Sequence)
		all = append(all, c)
	})
	return all
}

// obedience is what controls make of an instance.
type obedience struct {
	entries []protocol.Entry
	epoch   int
	compact bool
}

func (o obedience) vain() bool { return len(o.entries) == 0 && !o.compact }

func (r *runner) weigh(h *held, history *engine.History) obedience {
	controls := r.controls(h.instance, history.Incarnation, h.Sequence)
	if !r.w.rules.ObeyAll {
		controls = slices.DeleteFunc(controls, func(c engine.Control) bool { return c.Sequence < h.Sequence && c.Sequence > history.Mark })
	}
	var o obedience
	o.entries, o.epoch, o.compact = history.Obey(h.Wake.Wake, controls, r.now())
	return o
}

// obey applies the controls up to the wake, or has whoever executes the instance make room for it.
func (r *runner) obey(h *held, s sight) {
	history := r.load(h.instance, s)
	if history.Tail != s.tailAt {
		r.act(h, r.look(h.instance), engine.OlderUnknown)
		return
	}
	o := r.weigh(h, history)
	if o.vain() {
		h.Vain = true
		r.act(h, s, engine.OlderUnknown)
		return
	}
	if x := r.w.executing(h.instance); !o.compact && history.Phase == engine.Running && x != nil && r.w.chance(2) && !r.w.calm {
		x.control = max(x.control, h.Sequence)
		r.later(h, retryDelay)
		return
	}
	sequence, s, err := r.carryOut(h, s, history, o)
	switch {
	case errors.Is(err, journal.ErrConflict):
		r.act(h, r.look(h.instance), engine.OlderUnknown)
	case o.compact:
		if done, ok := history.Done(); ok {
			done.Mark = max(done.Mark, h.Sequence)
			r.publish(&nats.Msg{Subject: h.instance.DoneSubject(), Data: encode(done)})
		}
		r.ack(h)
	default:
		must(sequence, err)
		r.act(h, s, engine.OlderUnknown)
	}
}

// carryOut appends what controls make of an instance.
func (r *runner) carryOut(h *held, s sight, history *engine.History, o obedience) (uint64, sight, error) {
	a := &protocol.Append{Incarnation: history.Incarnation, Holder: h.Wake.Wake, Mark: h.Sequence, Epoch: o.epoch, Entries: o.entries}
	if !r.w.rules.MarkControls {
		a.Mark = 0
	}
	expected := history.Tail
	if o.compact {
		var inputs []engine.Input
		if r.w.rules.CarryEvents {
			inputs = append(slices.Clone(history.Carried), r.inputs(h.instance, history, history.CarriedTo+1)...)
		}
		a.Holder, a.Mark, a.Epoch = history.Holder, history.Mark, history.Epoch
		a.Entries = []protocol.Entry{r.snapshot(history, inputs, h.Sequence)}
	}
	for i := range a.Entries {
		if a.Entries[i].Kind == protocol.EntryTerminated {
			a.Entries[i].Expires = new(r.now().Add(kept))
		}
	}
	sequence, err := r.append(h.instance, expected, a)
	if err != nil {
		return 0, s, err
	}
	s.tailAt, s.tail, s.upTo = sequence, a, sequence
	if o.compact && len(history.Carried) > 0 {
		r.w.crew.saw["carried events twice"]++
	}
	if history.Phase == engine.Parked && !o.compact {
		r.disarm(h.instance, history.Park)
	}
	return sequence, s, nil
}

// snapshot stands for a log. The history of every other one is in an object.
func (r *runner) snapshot(history *engine.History, inputs []engine.Input, upTo uint64) protocol.Entry {
	e := must(history.Snapshot(inputs, upTo))
	if upTo%2 == 0 {
		return e
	}
	name := fmt.Sprintf("%x", sha256.Sum256(e.Snapshot.History))
	r.w.objects[name] = object{history: e.Snapshot.History, put: r.w.now}
	if err := history.PutOut(e.Snapshot, &protocol.Object{Name: name}); err != nil {
		panic(err)
	}
	return e
}

// fetch puts the history of a snapshot in its place that is in an object.
func (r *runner) fetch(s *protocol.Snapshot) error {
	o, ok := r.w.objects[s.Object.Name]
	if !ok {
		return fmt.Errorf("the object %s is gone", s.Object.Name)
	}
	r.w.crew.saw["snapshot fetched"]++
	engine.PutIn(s, o.history)
	return nil
}

// yielded obeys a control for which an execution made room, whoever has it in hand.
func (r *runner) yielded(h *held, control uint64) {
	c := &held{instance: h.instance, again: true}
	c.Wake = engine.Wake{Wake: protocol.Wake{Stream: workflows, Sequence: control}, Kind: engine.WakeControl}
	s := r.look(h.instance)
	if situation := s.situation(); situation.Exists && situation.Mark < control {
		history := r.load(h.instance, s)
		if o := r.weigh(c, history); !o.vain() {
			if _, s, err := r.carryOut(c, s, history, o); err == nil {
				if r.inHand[c.Wake.Wake] == nil {
					r.inHand[c.Wake.Wake] = c
				}
				r.act(c, s, engine.OlderUnknown)
			}
		}
	}
	r.act(h, r.look(h.instance), engine.OlderUnknown)
}

// projectEnd does what follows from an end that is in the log.
func (r *runner) projectEnd(h *held, done protocol.Done) {
	if h.Vain {
		done.Mark = max(done.Mark, h.Sequence)
	}
	r.publish(&nats.Msg{Subject: h.instance.DoneSubject(), Data: encode(done)})
	if done.State == protocol.StateDeleted {
		r.erase(h.instance, done.Incarnation, done.Log)
	}
}

// erase removes what is left of an instance that was deleted, but not the entry that says so.
func (r *runner) erase(i protocol.Instance, incarnation, before uint64) {
	if !r.w.rules.Tombstone {
		before++
	}
	purge := func(subject string, before uint64) {
		if !r.w.rules.BoundPurge {
			before = r.w.stream().last() + 1
		}
		if err := r.store.Purge(context.Background(), workflows, subject, before); err != nil {
			panic(err)
		}
	}
	purge(i.InputsSubject(), before)
	m, err := r.store.Last(context.Background(), workflows, i.CreateSubject())
	if !errors.Is(err, journal.ErrNotFound) && r.w.rules.EraseCarried {
		var c protocol.Create
		if decode(must(m, err).Data, &c); c.Carried != 0 && c.Carried == incarnation {
			purge(i.CreateSubject(), m.Sequence+1)
		}
	}
	for _, subject := range []string{i.DoneSubject(), i.LogSubject(), i.ControlSubject()} {
		purge(subject, before)
	}
}

// remains is what must still be erased of an instance, if h is the control that deleted it.
func (s sight) remains(h *held) (incarnation, before uint64) {
	switch {
	case h.action != protocol.ActionDelete || s.tail == nil:
		return 0, 0
	case s.created > h.Sequence:
		return 0, min(s.created, s.tailAt)
	case s.created == 0 && s.tail.Entries[len(s.tail.Entries)-1].Kind == protocol.EntryDeleted:
		return s.tail.Incarnation, s.tailAt
	}
	return 0, 0
}
