package engine_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Controls as messages hold them: the action, an id, and whether the control came when the instance had expired.
const (
	actionBits = 1<<4 - 1
	idShift    = 4
	lateBit    = 1 << 10
)

var actions = [...]protocol.Control{
	{Action: protocol.ActionPause}, {Action: protocol.ActionResume}, {Action: protocol.ActionTerminate},
	{Action: protocol.ActionRestart}, {Action: protocol.ActionRestart}, {Action: protocol.ActionDelete},
	{Action: protocol.ActionCompact},
}

// partly is the restart from the second op, compact what a cleaning asks for.
const (
	partly  = 4
	compact = 6
)

// expiry is when everything that ended has expired.
const expiry = 50

// control is the control that a message is about.
func (w *world) control(sequence uint8, m message) engine.Control {
	n := m.what & actionBits
	c := engine.Control{Sequence: uint64(sequence), Stored: noon, Control: actions[n]}
	if c.Input = fmt.Sprint(m.what >> idShift & 15); !w.rules.NameControls {
		c.Input = fmt.Sprint(sequence)
	}
	if n == partly {
		c.From = new(w.key(1))
	}
	if m.what&lateBit != 0 && w.rules.ExpiredIsFinal {
		c.Stored = clock(expiry)
	}
	return c
}

// key is the key of an op of the program.
func (w *world) key(op int) protocol.Key {
	ops := map[byte]protocol.Op{'S': protocol.OpDo, 'E': protocol.OpEvent, 'T': protocol.OpEvent, 'Z': protocol.OpSleep}
	return protocol.Key{Op: ops[w.program[op]], Name: fmt.Sprint(op), Count: 1}
}

// order is the append that obeys controls, and what follows it; no append if they are in vain.
type order struct {
	what uint16
	then uint8
}

// action asks the table, and once more if it turns out that the wake is a control in vain.
func (w *world) action(s *state, v *view, id wakeID, older engine.Older, now time.Time) (engine.Action, order) {
	wake := w.wake(s, id)
	action := w.rules.decide(v, wake, older, now)
	if action != engine.Obey {
		return action, order{}
	}
	o := w.order(v, id)
	if wake.Vain = o.what == 0; wake.Vain {
		action = w.rules.decide(v, wake, older, now)
	}
	return action, o
}

// order is what a control makes of what a prefix of the stream says.
func (w *world) order(v *view, id wakeID) order {
	if o, ok := v.orders[id]; ok {
		return o
	}
	controls := w.controls(v)
	if !w.rules.ObeyAll {
		controls = slices.DeleteFunc(controls, func(c engine.Control) bool { return c.Sequence != uint64(id) })
	}
	h := w.fold(&v.messages, uint8(v.situation.Incarnation), v.upTo, false)
	entries, epoch, snapshot := h.Obey(id.name(), controls, noon)
	a := protocol.Append{Incarnation: h.Incarnation, Holder: id.name(), Mark: uint64(id), Epoch: epoch, Entries: entries}
	o := order{then: thenDecide}
	if snapshot {
		var inputs []engine.Input
		if w.rules.CarryEvents {
			inputs = append(h.Carried[:len(h.Carried):len(h.Carried)], events(&v.messages, h.CarriedTo+1, v.upTo)...)
		}
		e, err := h.Snapshot(inputs, uint64(id))
		if err != nil {
			panic(err)
		}
		a.Holder, a.Mark, a.Epoch, a.Entries, o.then = h.Holder, h.Mark, h.Epoch, []protocol.Entry{e}, thenAck
	}
	if len(a.Entries) > 0 {
		o.what = w.number(a)
	}
	if v.orders == nil {
		v.orders = map[wakeID]order{}
	}
	v.orders[id] = o
	return o
}

func (w *world) controls(v *view) []engine.Control {
	var all []engine.Control
	for i := uint8(1); i <= v.upTo; i++ {
		if m := v.messages[i]; m.kind == controlMessage {
			all = append(all, w.control(i, m))
		}
	}
	return all
}

// matters reports whether one of the controls up to a wake changes something.
func (w *world) matters(v *view, id wakeID) bool {
	h := w.fold(&v.messages, uint8(v.situation.Incarnation), v.upTo, false)
	entries, _, _ := h.Obey(id.name(), w.controls(v), noon)
	return len(entries) > 0
}

// steer lets controls arrive.
func (x *step) steer(s0 *state) {
	s := *s0
	for n, left := range [...]*uint8{
		&s.left.pauses, &s.left.resumes, &s.left.terminates, &s.left.restarts, &s.left.partly, &s.left.deletes,
	} {
		if *left == 0 {
			continue
		}
		*left--
		what := uint16(n) | uint16(s.n+1)<<idShift
		if s.expired {
			what |= lateBit
		}
		s.store(message{kind: controlMessage, what: what})
		x.emit(&s, "control %d: "+string(actions[n].Action), s.n)
		s = *s0
	}
	if last := s.newest(s.n, controlMessage); last > 0 && s.left.doubles > 0 {
		s.left.doubles--
		s.store(s.messages[last])
		x.emit(&s, "control %d repeats control %d", s.n, last)
	}
}

// create lets somebody create an instance of the same id.
func (x *step) create(s0 *state) {
	if s0.left.creates == 0 || s0.newest(s0.n, createMessage) != 0 {
		return
	}
	s := *s0
	s.left.creates--
	if v := x.world.truth(s0); v.situation.Phase != engine.Finished {
		x.broken = "a create is accepted over a living instance"
	}
	s.store(message{kind: createMessage})
	s.bodies, s.expired = [maxOps]uint8{}, false
	x.emit(&s, "create %d", s.n)
	x.broken = ""
}

// deleted reports whether an entry of the log is the end of a deleted instance.
func (w *world) deleted(s *state, at uint8) bool {
	entries := w.appends[s.messages[at].what].Entries
	return len(entries) > 0 && entries[len(entries)-1].Kind == protocol.EntryDeleted
}

// purge takes away what a deleted instance leaves: its inputs, then the rest.
func (x *step) purge(s0 *state, r uint8) {
	s := *s0
	a := &s.runners[r]
	bound := a.tail - 1
	if !x.world.rules.BoundPurge {
		bound = s.n
	}
	for i := uint8(1); i <= bound; i++ {
		isInput := s.messages[i].kind <= nudgeMessage
		if isInput == (a.op == 0) {
			s.gone |= 1 << i
		}
	}
	if c := s.newest(s.n, createMessage); a.op == 0 && x.world.rules.PurgeCarried && s.messages[c].what == uint16(a.born) {
		s.gone |= 1 << c
	}
	if a.op == 1 && !x.world.rules.Tombstone {
		s.gone |= 1 << a.tail
	}
	s.goneAt = s.n
	if a.op++; a.op == 2 {
		a.op, a.phase = 0, acking
	}
	x.emit(&s, "R%d purges what the delete at %d leaves", r, a.tail)
}
