package execution

import (
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// quiet looks whether nothing moves but durable waits, and if so arranges to park soon. x.mu is held.
func (x *Execution) quiet() {
	x.stir()
	if len(x.gates) > 0 {
		x.openGates()
	}
	waits, _ := x.m.Waiting()
	waits += x.recall.waits()
	if x.phase != running || waits == 0 && len(x.gates) == 0 && len(x.lapsed) == 0 || x.bodies > 0 {
		return
	}
	wait := x.Settle
	for _, l := range x.lanes {
		switch {
		case l.still():
		case !l.root && !x.recall.on: // a branch of a group computes: it will call in
			return
		default: // computing, or blocked elsewhere while goroutines that nobody counted wait here
			wait = x.Idle
		}
	}
	if len(x.lapsed) == 0 && (len(x.gates) > 0 || x.recall.on && !x.hurried()) {
		wait = x.Hold
	}
	seen := x.activity
	if x.timers.settle != nil {
		x.timers.settle.Stop()
	}
	x.timers.settle = time.AfterFunc(wait, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		switch {
		case x.activity != seen:
		case len(x.lapsed) > 0:
			x.letLapse()
		case len(x.gates) > 0 && (!x.recall.on || x.recall.checks):
			x.hold()
		case x.recall.on:
			x.recalled()
		default:
			x.park()
		}
	})
}

// park ends the activity: one append with everything not yet stored. x.mu is held.
func (x *Execution) park() {
	waits, _ := x.m.Waiting()
	if x.phase != running || waits == 0 || x.bodies > 0 || x.flushing || x.m.AnyUntold() {
		return
	}
	if next, ok := x.m.NextDue(); ok && next.Sub(x.Now()) <= x.ShortWait {
		x.armDue()
		return
	}
	x.phase = parking
	e := x.m.Park()
	if !x.flush(x.m.Position()) {
		return
	}
	x.phase = parked
	x.changed.Broadcast()
	x.say(Event{Kind: Parked, Sequence: x.expected, Park: &e})
}

// Older reports whether an input older than the park would end one of its waits. Newer inputs have wakes of their own.
func (x *Execution) Older(park uint64, waits []protocol.Wait, inputs []engine.Input) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.WouldTake(park, waits, inputs)
}

// Seen is the sequence of the newest input that the execution knows.
func (x *Execution) Seen() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.m.Seen()
}

// Deliver hands in events, in order, if the code runs.
func (x *Execution) Deliver(inputs []engine.Input) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phase == running {
		x.signal(x.m.Deliver(inputs))
	}
}

// Refresh reads new inputs and delivers them: something may have come. Hints that come while it reads make it read once
// more, however many they are.
func (x *Execution) Refresh() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hinted = true
	if x.reading {
		return
	}
	x.reading = true
	defer func() { x.reading = false }()
	for x.hinted {
		x.hinted = false
		if _, forEvent := x.m.Waiting(); x.phase == running && forEvent {
			_ = x.refresh() // a hint: the timer that reads inputs comes back
		} else {
			x.loaded = false // who waits next reads what came
		}
	}
}

// refresh reads and delivers inputs; x.mu is held, but not while reading.
func (x *Execution) refresh() error {
	from := x.m.Seen() + 1
	x.activity++
	x.mu.Unlock()
	inputs, err := x.Inputs(x.life, from)
	x.mu.Lock()
	x.activity++
	if err != nil {
		x.quiet()
		return err
	}
	if x.phase != running { // parked meanwhile: newer inputs are their own wakes' business now
		return nil
	}
	x.loaded = true
	x.signal(x.m.Deliver(inputs))
	x.quiet()
	return nil
}

// due ends what has come due. Before a wait for an event times out, inputs are read once more. x.mu is held.
func (x *Execution) due() {
	if x.phase != running {
		return
	}
	if x.m.EventDue(x.Now()) {
		if err := x.refresh(); err != nil || x.phase != running {
			x.armRefresh()
			return
		}
	}
	x.signal(x.m.Due(x.Now()))
	x.armDue()
}

// armDue sets the timer for the next wait that ends in memory. x.mu is held.
func (x *Execution) armDue() {
	next, ok := x.m.NextDue()
	if !ok || x.phase == over { // a timer would keep an execution in memory that is over
		return
	}
	if x.timers.due != nil {
		x.timers.due.Stop()
	}
	x.timers.due = time.AfterFunc(max(next.Sub(x.Now()), 0), func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.due()
	})
}

// armRefresh reads inputs from time to time while a wait for an event is in memory. x.mu is held.
func (x *Execution) armRefresh() {
	if _, forEvent := x.m.Waiting(); !forEvent || x.phase == over || len(x.gates) > 0 { // while nothing moves, hold
		return
	}
	if x.timers.refresh != nil {
		x.timers.refresh.Stop()
	}
	x.timers.refresh = time.AfterFunc(x.Settings.Refresh, func() {
		x.Refresh()
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.phase == running {
			x.due()
			x.armRefresh()
		}
	})
}

// armSoft lets entries go alone if no company comes: those that only inform, and results while other branches or code
// outside of the engine take their time. x.mu is held.
func (x *Execution) armSoft() {
	if !x.m.Buffered() || x.timers.soft != nil || x.phase == over {
		return
	}
	x.timers.soft = time.AfterFunc(x.Gather, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.timers.soft = nil
		if (x.phase == running || x.phase == releasing) && x.m.Buffered() {
			x.flush(x.m.Position())
		}
	})
}
