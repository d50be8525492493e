package sim

import (
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// leave stores what the code waits for.
func (x *execution) leave() over {
	x.park = x.m.Park()
	if !x.flush(x.m.Position()) {
		return superseded
	}
	return waits
}

// projectPark looks at older inputs, arms the timer and acks. It returns whether the code runs again.
func (x *execution) projectPark() bool {
	r, w := x.r, x.r.w
	x.parked = true
	if !w.rules.ArmBeforeAck {
		r.ack(x.h)
	}
	if (engine.Situation{Waits: x.park.Waits}).WaitsForEvents() && w.rules.LookAfterPark {
		inputs := r.inputs(x.h.instance, x.history, x.m.Seen()+1)
		park := x.expected
		if !w.rules.OnlyOlderInputs {
			park = 1 << 60
		}
		if x.m.WouldTake(park, x.park.Waits, inputs) {
			w.crew.saw["took an older event"]++
			return x.goOn(inputs)
		}
	}
	r.arm(x.h.instance, x.history.Incarnation, x.expected, x.park.Until)
	r.ack(x.h)
	switch came := x.pass(); {
	case x.dropped || r.stopping:
		r.again(came)
	case len(came) > 0:
		r.again(came[1:])
		return x.goOnUnder(came[0])
	case w.chance(6):
		return x.revive()
	default:
		r.memory[x.h.instance] = x
	}
	return false
}

// pass takes the wakes that came while a park was projected, and no more of them.
func (x *execution) pass() []*held {
	came := x.wakes
	x.wakes, x.passed = nil, true
	return came
}

// again decides anew about wakes that an execution was handed and has not taken.
func (r *runner) again(came []*held) {
	for _, h := range came {
		r.w.spawn(r.id+"/"+h.Wake.Wake.String()+" again", r, func() { r.act(h, r.look(h.instance), engine.OlderUnknown) })
	}
}

// handOver gives a wake that claims a parked instance to the execution that has parked it, if that is in memory still.
func (r *runner) handOver(h *held, s sight) bool {
	stands := func(x *execution) bool {
		known := x.history.Incarnation == s.created && x.parked && (x.expected == s.tailAt || !r.w.rules.GoOnAtTail)
		return s.situation().Phase == engine.Parked && known && !x.dropped
	}
	if x := r.active[h.instance]; x != nil && stands(x) && !x.passed {
		r.w.crew.saw["handed over before the ack"]++
		x.wakes = append(x.wakes, h)
		return true
	}
	x := r.memory[h.instance]
	if x == nil || r.w.chance(4) { // it has lingered for long enough
		return false
	}
	delete(r.memory, h.instance)
	if !stands(x) {
		return false
	}
	if !r.w.rules.GoOnAtTail {
		x.expected = s.tailAt
	}
	if x.goOnUnder(h) {
		x.follow()
	}
	return true
}

// goOnUnder goes on in memory under a wake that ends the park.
func (x *execution) goOnUnder(h *held) bool {
	r, park := x.r, x.expected
	r.w.tell("goes on in memory under %v", h.Wake.Wake)
	x.h = h
	if r.w.rules.ClaimToGoOn {
		x.wake = h.Wake.Wake
		x.m.Claim(x.wake)
	}
	if _, forEvent := x.m.Waiting(); forEvent {
		x.refresh()
	}
	if x.m.EventDue(r.now()) {
		r.w.checker.timesOut(x)
	}
	x.m.Due(r.now())
	if !x.claimed() {
		return false
	}
	r.w.crew.saw["went on in memory"]++
	if h.Kind == engine.WakeDue {
		r.w.crew.saw["went on in memory by a timer"]++
	} else {
		r.disarm(h.instance, park)
	}
	return true
}

// goOn takes the instance back after the park.
func (x *execution) goOn(inputs []engine.Input) bool {
	x.m.Claim(x.wake)
	if !x.claimed() {
		return false
	}
	x.m.Deliver(inputs)
	return true
}

// claimed stores the claim, and what is to be stored with it.
func (x *execution) claimed() bool {
	if !x.flush(x.m.Position()) {
		x.r.refused(x.h)
		return false
	}
	x.parked, x.passed, x.loaded = false, false, false
	return true
}

// revive lets a goroutine call in that nobody counted: the code goes on under a new wake.
func (x *execution) revive() bool {
	r := x.r
	if r.w.pause(pausing); x.dropped || r.stopping {
		return false
	}
	if r.w.rules.NudgeToRevive {
		body := encode(protocol.Nudge{V: protocol.Version, Runner: r.id, Park: x.expected})
		x.wake = protocol.Wake{Stream: workflows, Sequence: r.publish(&nats.Msg{Subject: x.h.instance.NudgeSubject(), Data: body})}
	}
	r.w.crew.saw["revived"]++
	x.h = &held{Wake: engine.Wake{Wake: x.wake, Kind: engine.WakeNudge}, instance: x.h.instance, again: true}
	r.inHand[x.wake] = x.h
	return x.goOn(nil)
}

// release stores what there is and gives the instance back to the log.
func (x *execution) release() over {
	for _, l := range x.lines {
		if l.body {
			x.r.w.pause(computing)
			x.endBody(l)
		}
	}
	if x.r.w.rules.ReleaseBeforeNak {
		x.m.Record(protocol.Entry{Kind: protocol.EntryReleased})
	}
	if !x.flush(x.m.Position()) {
		return superseded
	}
	if x.control > 0 {
		x.r.w.crew.saw["yielded"]++
		return yields
	}
	return released
}
