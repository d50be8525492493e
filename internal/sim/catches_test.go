package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
)

// instead changes what the decision table says, from one action to another, where a condition holds.
func instead(from, to engine.Action, where func(s engine.Situation, w engine.Wake) bool) func(*rules) {
	return func(r *rules) {
		r.decide = func(s engine.Situation, w engine.Wake, older engine.Older, now time.Time) engine.Action {
			if a := engine.Decide(s, w, older, now); a != from || !where(s, w) {
				return a
			}
			return to
		}
	}
}

func anywhere(engine.Situation, engine.Wake) bool      { return true }
func isRunning(s engine.Situation, _ engine.Wake) bool { return s.Exists && s.Phase == engine.Running }
func isParked(s engine.Situation, _ engine.Wake) bool  { return s.Phase == engine.Parked }
func isPaused(s engine.Situation, _ engine.Wake) bool  { return s.Phase == engine.Paused }
func isNudge(_ engine.Situation, w engine.Wake) bool   { return w.Kind == engine.WakeNudge }

func newEvent(s engine.Situation, w engine.Wake) bool {
	return isParked(s, w) && w.Kind == engine.WakeEvent && w.Sequence > s.Park
}

func oldEvent(s engine.Situation, w engine.Wake) bool {
	return isParked(s, w) && w.Kind == engine.WakeEvent && w.Sequence < s.Park && engine.Matches(s.Waits, w.EventType)
}

func laterPark(s engine.Situation, w engine.Wake) bool {
	return isParked(s, w) && w.Kind == engine.WakeDue && w.Park < s.Park && w.Incarnation == s.Incarnation
}

// enough is how many games it takes at most to see that a rule is missing, soon how many where games take long.
const (
	enough = 20_000
	soon   = 100
)

// TestCheckerCatches takes out one rule at a time: some game shows what goes wrong without it. To save time it begins
// with one that does; from there on it looks for another if the games have changed since.
func TestCheckerCatches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		without func(*rules)
		from    uint64
	}{
		{"the server compares", func(r *rules) { r.CompareAndAppend = false }, 1},
		{"a read reaches what made it necessary", func(r *rules) { r.ReadReaches = false }, 330},
		{"look again after a refusal", func(r *rules) { r.LookAfterRefusal = false }, 186},
		{"store before the next body", func(r *rules) { r.StoreBeforeBody = false }, 0},
		{"store before the ack", func(r *rules) { r.StoreBeforeAck = false }, 429},
		{"arm before the ack", func(r *rules) { r.ArmBeforeAck = false }, 32},
		{"project before the ack", func(r *rules) { r.ProjectBeforeAck = false }, 2},
		{"look at older inputs after parking", func(r *rules) { r.LookAfterPark = false }, 343},
		{"look at older inputs only", func(r *rules) { r.OnlyOlderInputs = false }, 2647},
		{"read before a timeout", func(r *rules) { r.ReadBeforeTimeout = false }, 250},
		{"a timer per park", func(r *rules) { r.TimerPerPark = false }, 2},
		{"a nudge to revive", func(r *rules) { r.NudgeToRevive = false }, 5},
		{"a claim to go on", func(r *rules) { r.ClaimToGoOn = false }, 6},
		{"who goes on knows all of the log", func(r *rules) { r.GoOnAtTail = false }, 2},
		{"release before giving back", func(r *rules) { r.ReleaseBeforeNak = false }, 873},
		{"all controls up to one", func(r *rules) { r.ObeyAll = false }, 3},
		{"controls are marked", func(r *rules) { r.MarkControls = false }, 31},
		{"the delete stays", func(r *rules) { r.Tombstone = false }, 1065},
		{"a purge has a bound", func(r *rules) { r.BoundPurge = false }, 37},
		{"a delete takes a carried create", func(r *rules) { r.EraseCarried = false }, 2798},
		{"events are carried", func(r *rules) { r.CarryEvents = false }, 288},
		{"the create is carried", func(r *rules) { r.CarryCreate = false }, 2},
		{"what is carried is verified", func(r *rules) { r.VerifyCarried = false }, 2},
		{"no wake is cleaned away", func(r *rules) { r.AckFloor = false }, 4066},
		{"go on over what is known only", func(r *rules) { r.GoOnExactly = false }, 20038},
		{"what is kept is of one epoch", func(r *rules) { r.KeepPerEpoch = false }, 4881},
		{"an interrupted delete is finished", func(r *rules) { r.FinishErase = false }, 2449},
		{"repetitions are void", func(r *rules) { r.RepetitionsVoid = false }, 21},
		{"lost runs are counted", func(r *rules) { r.CountLostRuns = false }, 3},
		{"a start is stored after a lost run", func(r *rules) { r.HardStart = false }, 4},
		{"a winner stays", func(r *rules) { r.KeepWinner = false }, 12},
		{"the first error of a group stays", func(r *rules) { r.KeepFailed = false }, 972},
		{"who was beaten is given nothing", func(r *rules) { r.Withhold = false }, 215},
		{"row 1: controls are obeyed", instead(engine.Obey, engine.Ack, anywhere), 1},
		{"row 2: the holder announces", instead(engine.Project, engine.Ack, anywhere), 1},
		{"row 3: others stay away from what is paused", instead(engine.Ack, engine.Claim, isPaused), 11},
		{"row 4: the holder claims", instead(engine.Claim, engine.Ack, isRunning), 3},
		{"row 5: others do not claim", instead(engine.Poke, engine.Claim, anywhere), 1},
		{"row 6: the holder takes older inputs", instead(engine.LookOlder, engine.Arm, anywhere), 403},
		{"row 6: the holder arms", instead(engine.Arm, engine.Ack, anywhere), 71},
		{"row 7: newer events claim", instead(engine.Claim, engine.Ack, newEvent), 14},
		{"row 7: nudges claim", instead(engine.Claim, engine.Ack, isNudge), 62},
		{"row 8: a timer claims", instead(engine.Claim, engine.Ack, isParked), 2},
		{"row 8: not before it is due", instead(engine.Keep, engine.Ack, anywhere), 327},
		{"row 8: not for a later park", instead(engine.Ack, engine.Claim, laterPark), 2},
		{"row 9: older events do not claim", instead(engine.Ack, engine.Claim, oldEvent), 20},
	} {
		if raced && tt.from > soon {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := sound()
			tt.without(&r)
			c := newCrew()
			defer c.dismiss()
			for n := tt.from; n < tt.from+enough; n++ {
				if wrong := newWorld(n, r, c).play(); wrong != "" {
					first, _, _ := strings.Cut(wrong, "\n")
					t.Logf("seed %d: %s", n, first)
					return
				}
			}
			t.Errorf("nothing goes wrong in %d games", enough)
		})
	}
}
