package doctor

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestDiagnose: what is missing is wrong only if nobody is about to see to it.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	until := time.Now()
	begun := engine.Situation{Exists: true, Begun: true, Tail: 9}
	in := func(phase engine.Phase) engine.Situation {
		s := begun
		s.Phase = phase
		return s
	}
	sleeps, queued, waits := in(engine.Parked), in(engine.Parked), in(engine.Parked)
	sleeps.Park, sleeps.Until = 9, &until
	queued.Park, queued.Waits = 9, []protocol.Wait{{Key: protocol.Key{Op: protocol.OpSlot}}}
	waits.Park, waits.Waits = 9, []protocol.Wait{{Key: protocol.Key{Op: protocol.OpEvent}, Type: "go"}}
	for name, x := range map[string]struct {
		facts    facts
		evidence evidence
		want     Kind // if the holder is acknowledged
	}{
		"executes":                 {facts{Situation: in(engine.Running)}, evidence{}, NoWake},
		"has not begun":            {facts{Situation: engine.Situation{Exists: true}}, evidence{}, NoWake},
		"is carried":               {facts{Situation: engine.Situation{Exists: true}, carried: true}, evidence{}, EmptyCreate},
		"has ended":                {facts{Situation: in(engine.Finished)}, evidence{}, EndNotTold},
		"has ended and is told":    {facts{Situation: in(engine.Finished), told: true}, evidence{}, ""},
		"is deleted":               {facts{Situation: in(engine.Finished), deleted: true, told: true}, evidence{}, HalfDeleted},
		"sleeps":                   {facts{Situation: sleeps}, evidence{}, NoTimer},
		"sleeps with a timer":      {facts{Situation: sleeps}, evidence{timer: true}, ""},
		"waits for a slot":         {facts{Situation: queued}, evidence{}, NotQueued},
		"is queued":                {facts{Situation: queued}, evidence{queued: true}, ""},
		"is paused":                {facts{Situation: in(engine.Paused)}, evidence{}, ""},
		"has an event":             {facts{Situation: waits, event: 12}, evidence{event: settled, debt: runner.Debt{Tail: 9, Event: true}}, LostInput},
		"has an event on its way":  {facts{Situation: waits, event: 12}, evidence{event: open, debt: runner.Debt{Tail: 9, Event: true}}, ""},
		"has an event, it may be":  {facts{Situation: waits, event: 12}, evidence{event: unknown, debt: runner.Debt{Tail: 9, Event: true}}, ""},
		"has one that it ignores":  {facts{Situation: waits, event: 12}, evidence{event: settled, debt: runner.Debt{Tail: 9}}, ""},
		"has moved since":          {facts{Situation: waits, event: 12}, evidence{event: settled, debt: runner.Debt{Tail: 10, Event: true}}, ""},
		"is nudged":                {facts{Situation: sleeps, nudge: 12}, evidence{nudge: open}, ""},
		"is steered":               {facts{Situation: in(engine.Running), control: 12}, evidence{control: open}, ""},
		"was steered in vain":      {facts{Situation: in(engine.Running), control: 12}, evidence{control: settled}, NoWake},
		"is asked for a snapshot":  {facts{Situation: in(engine.Running), control: 12, steer: protocol.Control{Action: protocol.ActionCompact}}, evidence{control: open}, NoWake},
		"was steered, and nothing": {facts{Situation: in(engine.Paused), control: 12}, evidence{control: settled, debt: runner.Debt{Control: 12}}, LostControl},
	} {
		for _, holder := range []wakeState{settled, open, unknown} {
			want := x.want
			if holder != settled && want != LostControl {
				want = ""
			}
			x.evidence.holder = holder
			if got, _ := diagnose(x.facts, x.evidence); got != want {
				t.Errorf("%s, holder %s: %q, want %q", name, holder, got, want)
			}
		}
	}
}
