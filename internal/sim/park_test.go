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
	if x.dropped || r.stopping || !w.chance(6) {
		return false
	}
	return x.revive()
}

// goOn takes the instance back after the park.
func (x *execution) goOn(inputs []engine.Input) bool {
	x.m.Record(protocol.Entry{Kind: protocol.EntryClaimed, Wake: &x.wake})
	if !x.flush(x.m.Position()) {
		x.r.refused(x.h)
		return false
	}
	x.parked = false
	x.m.Deliver(inputs)
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
