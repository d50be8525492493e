package sim

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// delivery is what a consumer knows of a message.
type delivery struct {
	wake     protocol.Wake
	message  *message
	instance protocol.Instance
	count    int
	acked    bool
	holder   *runner   // the newest to get it
	notUntil time.Time // it was given back for a while
	due      time.Time // of a timer that fired
}

// alarm is a timer that is armed.
type alarm struct {
	subject string
	target  string
	due     time.Time
	body    []byte
}

// storedTimer arms or disarms a timer: a subject has one at most. What it fires is a wake.
func (w *world) storedTimer(m *message) {
	if instance, _, err := protocol.ParseDueSubject(m.subject); err == nil {
		var t protocol.Timer
		decode(m.data, &t)
		w.deliveries = append(w.deliveries, &delivery{
			wake: protocol.Wake{Stream: timers, Sequence: m.sequence}, message: m, instance: instance, due: t.Due,
		})
		return
	}
	w.alarms = slices.DeleteFunc(w.alarms, func(a *alarm) bool {
		return a.subject == m.subject || !w.rules.TimerPerPark
	})
	schedule := m.header.Get(protocol.HeaderSchedule)
	if schedule == "" {
		return
	}
	due, err := time.Parse("@at "+time.RFC3339Nano, schedule)
	if err != nil {
		panic(err)
	}
	w.alarms = append(w.alarms, &alarm{subject: m.subject, target: m.header.Get(protocol.HeaderScheduleTarget), due: due, body: m.data})
}

// fire lets a timer fire.
func (w *world) fire(a *alarm, again bool) {
	if !again {
		w.alarms = slices.DeleteFunc(w.alarms, func(o *alarm) bool { return o == a })
	}
	w.tell("%s fires", a.subject)
	w.server.streams[timers].put(&message{subject: a.target, data: a.body, time: w.now})
}

// deliver gives a wake to a runner.
func (w *world) deliver(d *delivery, r *runner) {
	d.count++
	d.holder = r
	w.tell("%s gets %v (%s), delivery %d", r.id, d.wake, d.message.subject, d.count)
	if h := r.inHand[d.wake]; h != nil {
		h.delivery = d
		return
	}
	h := readWake(d)
	r.inHand[d.wake] = h
	w.spawn(r.id+"/"+d.wake.String(), r, func() { r.decide(h) })
}

// held is a wake that a runner has in hand.
type held struct {
	engine.Wake
	instance protocol.Instance
	again    bool
	action   protocol.Action
	delivery *delivery // nil if it was not delivered here
	end      bool
}

// readWake makes a wake of a delivery.
func readWake(d *delivery) *held {
	h := &held{instance: d.instance, again: d.count > 1, delivery: d}
	h.Wake.Wake = d.wake
	if _, park, err := protocol.ParseDueSubject(d.message.subject); err == nil {
		var t protocol.Timer
		decode(d.message.data, &t)
		h.Kind, h.Park, h.Incarnation, h.Due = engine.WakeDue, park, t.Incarnation, t.Due
		return h
	}
	_, class, err := protocol.ParseInstanceSubject(d.message.subject)
	if err != nil {
		panic(err)
	}
	switch class {
	case protocol.ClassCreate:
		var c protocol.Create
		if decode(d.message.data, &c); c.Carried != 0 {
			h.Kind = engine.WakeCarried
		}
	case protocol.ClassEvent:
		h.Kind, h.EventType = engine.WakeEvent, readEvent(d.message.sequence, d.message.data).Type
	case protocol.ClassNudge:
		h.Kind = engine.WakeNudge
	case protocol.ClassControl:
		var c protocol.Control
		decode(d.message.data, &c)
		h.Kind, h.action = engine.WakeControl, c.Action
	}
	return h
}

func readEvent(sequence uint64, body []byte) engine.Input {
	var e protocol.Event
	decode(body, &e)
	return engine.Input{Sequence: sequence, ID: e.Input, Type: e.Type, Payload: json.RawMessage(e.Payload), Sent: e.Sent}
}

// reach is the sequence that a read must include to count for the wake.
func (h *held) reach() uint64 {
	if h.Kind == engine.WakeDue {
		return h.Park
	}
	return h.Sequence
}

// settle takes a wake out of the hands of its runner.
func (r *runner) settle(h *held) {
	h.end = true
	if r.inHand[h.Wake.Wake] == h {
		delete(r.inHand, h.Wake.Wake)
	}
}

// ack drops a wake. The ack may get lost, or come late.
func (r *runner) ack(h *held) {
	if d := h.delivery; !h.end && d != nil {
		switch {
		case !r.w.fault(15):
			d.acked = true
		case r.w.chance(2):
			r.w.lateAcks = append(r.w.lateAcks, d)
		}
	}
	r.w.checker.letGo(h)
	r.w.tell("acks %v", h.Wake.Wake)
	r.settle(h)
}

// later gives a wake back for a while.
func (r *runner) later(h *held, delay time.Duration) {
	if d := h.delivery; !h.end && d != nil && d.holder == r {
		d.holder, d.notUntil = nil, r.w.now.Add(delay)
	}
	r.w.tell("gives %v back for %v", h.Wake.Wake, delay)
	r.settle(h)
}

// drop forgets a wake. The server delivers it again.
func (r *runner) drop(h *held) {
	r.w.tell("drops %v", h.Wake.Wake)
	if d := h.delivery; d != nil && d.holder == r {
		d.holder = nil
	}
	r.settle(h)
}
