package doctor

import (
	"fmt"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// diagnose says what is wrong with an instance: invariant 5 of ARCHITECTURE.md, and rules P8 and P9 of docs/protocol.md.
// The kind is empty if nothing is, or if nobody can tell.
func diagnose(f facts, e evidence) (Kind, string) {
	if f.control > f.Mark {
		switch {
		case e.control != settled && f.steer.Action != protocol.ActionCompact:
			return "", "" // it is about to be obeyed
		case e.control == settled && e.debt.Control > 0:
			return LostControl, fmt.Sprintf("control %d is acknowledged, and nobody has obeyed it", e.debt.Control)
		}
	}
	switch {
	case f.Phase == engine.Parked:
		return diagnoseParked(f, e)
	case f.Phase == engine.Paused:
		if f.control == f.Mark && f.steer.Source.Kind == sourceKind && f.steer.Action == protocol.ActionPause {
			return LeftPaused, "it was paused by a repair that did not come to its end"
		}
		return "", ""
	case e.holder != settled:
		return "", ""
	case f.carried && !f.Begun:
		return EmptyCreate, "cleaning has published its create again, and nothing else of it is left"
	case f.Phase == engine.Running && !f.Begun:
		return NoWake, "it has not begun, and its create is acknowledged: nobody will begin it"
	case f.Phase == engine.Running:
		return NoWake, fmt.Sprintf("it executes under wake %v, which is acknowledged or gone: nobody goes on if its runner dies, or has died", f.Holder)
	case f.deleted:
		return HalfDeleted, "it is deleted, but its create is still there, and nobody will take it away"
	case !f.told:
		return EndNotTold, "it has ended, and that is not announced: whoever waits for it is not told"
	}
	return "", ""
}

func diagnoseParked(f facts, e evidence) (Kind, string) {
	switch {
	case f.nudge > f.Park && e.nudge == settled:
		return LostInput, fmt.Sprintf("nudge %d is acknowledged, and it is parked since %d still", f.nudge, f.Park)
	case e.holder != settled, f.nudge > f.Park, f.event > 0 && e.event != settled:
		return "", "" // the parker, or an input, is about to see to it
	case e.debt.Event && e.debt.Tail == f.Tail:
		return LostInput, "an event is there that it waits for, and no wake that says so"
	case f.Until != nil && !e.timer:
		return NoTimer, fmt.Sprintf("it waits until %s, and has no timer for that", f.Until.UTC().Format("2006-01-02T15:04:05Z07:00"))
	case f.WaitsForSlot() && !e.queued:
		return NotQueued, "it waits for a slot, and is not queued for one"
	}
	return "", ""
}
