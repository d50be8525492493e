package engine_test

import (
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
)

// long adds the searches that take a while.
var long = flag.Bool("long", false, "walk through the states within larger bounds, too")

// few is how many states a search goes on from where data races are looked for: those that are the nearest to the beginning.
const few = 5_000

// TestModel walks through all states within bounds and finds nothing wrong.
func TestModel(t *testing.T) {
	t.Parallel()
	type search struct {
		name    string
		program string
		limits  budget
	}
	tests := []search{
		{"no faults, one event", "SEZS", budget{events: 1, strange: 1, repeats: 1}},
		{"no faults, two events", "SEES", budget{events: 2, repeats: 1}},
		{"two crashes", "SEZS", budget{events: 1, crashes: 2, stale: 1}},
		{"crash and redelivery", "SEZS", budget{events: 1, crashes: 1, zombies: 1}},
		{"crash and redelivery, stale reads", "SES", budget{events: 1, crashes: 1, zombies: 1, stale: 2}},
		{"two timers", "SZZ", budget{crashes: 2, twice: 1}},
		{"a race", "RS", budget{events: 1, crashes: 1, zombies: 1}},
		{"a race, and an event for who comes next", "SRE", budget{events: 2, crashes: 1}},
		{"a race, stale reads, unknown outcomes", "RS", budget{events: 1, stale: 1, ambiguous: 1}},
		{"unknown outcomes", "SES", budget{events: 1, crashes: 1, ambiguous: 2}},
		{"lost consumer state", "SES", budget{events: 1, crashes: 1, resets: 2}},
		{"going on after a park", "SES", budget{events: 1, revivals: 1, crashes: 1}},
		{"going on after a park, stale reads", "E", budget{events: 1, revivals: 1, crashes: 1, stale: 1}},
		{"going on after a park, unknown outcomes", "ES", budget{events: 1, revivals: 1, ambiguous: 1}},
		{"going on after a park, twice", "ES", budget{events: 1, revivals: 2}},
		{"going on in memory", "SES", budget{events: 1, memories: 1, crashes: 1}},
		{"going on in memory, redelivery", "ES", budget{events: 1, memories: 1, zombies: 1}},
		{"going on in memory, a timer", "ZS", budget{memories: 1, crashes: 1}},
		{"going on in memory, unknown outcomes", "ES", budget{events: 1, memories: 1, ambiguous: 1}},
		{"going on in memory, pause and resume", "E", budget{events: 1, memories: 2, pauses: 1, resumes: 1}},
		{"going on in memory, cleaning", "ES", budget{events: 1, memories: 1, cleanings: 1}},
		{"pause and resume", "SE", budget{events: 1, pauses: 1, resumes: 1}},
		{"pause and resume, a crash", "S", budget{pauses: 1, resumes: 1, crashes: 1}},
		{"pause and resume, unknown outcomes", "S", budget{pauses: 1, resumes: 1, ambiguous: 1}},
		{"terminate", "SE", budget{events: 1, terminates: 1, crashes: 1}},
		{"restart", "SE", budget{events: 1, restarts: 1, crashes: 1}},
		{"restart, redelivery", "S", budget{restarts: 1, crashes: 1, zombies: 1}},
		{"restart from a step", "SE", budget{events: 1, partly: 1, crashes: 1}},
		{"restart after the end", "S", budget{terminates: 1, restarts: 1, crashes: 1}},
		{"delete, and another instance of the id", "SE", budget{events: 1, deletes: 1, creates: 1}},
		{"cleaning", "ES", budget{events: 1, cleanings: 1, creates: 1}},
		{"cleaning twice", "E", budget{events: 1, cleanings: 2}},
		{"cleaning and restart", "S", budget{cleanings: 1, restarts: 1, creates: 1}},
		{"cleaning and delete", "S", budget{cleanings: 2, deletes: 1, creates: 1}},
	}
	if *long {
		tests = append(tests, []search{
			{"crash and redelivery, more events", "SES", budget{events: 2, crashes: 1, zombies: 1}},
			{"crash and redelivery, two waits", "EES", budget{events: 2, crashes: 1, zombies: 1}},
			{"crash and redelivery, an end to the wait", "STS", budget{events: 1, crashes: 1, zombies: 1}},
			{"timers", "ZS", budget{crashes: 1, zombies: 1, stale: 1, twice: 1, early: 1}},
			{"unknown outcomes and redelivery", "SZS", budget{crashes: 1, zombies: 1, ambiguous: 1}},
			{"going on after a park, redelivery", "E", budget{events: 1, revivals: 1, crashes: 1, zombies: 1}},
			{"going on in memory, two waits", "EES", budget{events: 2, memories: 2, crashes: 1}},
			{"going on in memory, crash and redelivery", "ES", budget{events: 1, memories: 1, crashes: 1, zombies: 1, stale: 1}},
			{"going on after a park, a timer", "ZS", budget{revivals: 1, crashes: 1}},
			{"pause and resume, crash and redelivery", "S", budget{pauses: 1, resumes: 1, crashes: 1, zombies: 1}},
			{"pause and resume, an event and a crash", "SES", budget{events: 1, pauses: 1, resumes: 1, crashes: 1}},
			{"pause and resume, repeated", "S", budget{pauses: 2, resumes: 1, doubles: 1}},
			{"pause and resume, a timer", "SZ", budget{pauses: 1, resumes: 1, zombies: 1}},
			{"terminate, crash and redelivery", "SES", budget{events: 1, terminates: 1, crashes: 1, zombies: 1}},
			{"terminate, unknown outcomes", "SES", budget{events: 1, terminates: 1, ambiguous: 2, crashes: 1}},
			{"two restarts", "SS", budget{partly: 1, restarts: 1, crashes: 1}},
			{"restart, a timer", "ZS", budget{restarts: 1, crashes: 1, twice: 1}},
			{"restart, lost consumer state", "SZ", budget{restarts: 1, crashes: 1, resets: 1}},
			{"delete, twice", "S", budget{deletes: 1, doubles: 1, creates: 1, crashes: 1, zombies: 1}},
			{"delete, a crash", "SE", budget{events: 1, deletes: 1, creates: 1, crashes: 1}},
			{"delete or restart", "S", budget{deletes: 1, restarts: 1, creates: 1, crashes: 1}},
			{"cleaning, a crash", "SE", budget{events: 1, cleanings: 1, crashes: 1}},
			{"cleaning, redelivery", "SES", budget{events: 1, cleanings: 1, zombies: 1}},
			{"cleaning, a timer", "ZE", budget{events: 1, cleanings: 1, creates: 1}},
			{"cleaning, pause and resume", "S", budget{cleanings: 1, pauses: 1, resumes: 1}},
			{"cleaning and restart, a crash", "S", budget{cleanings: 1, restarts: 1, creates: 1, crashes: 1}},
			{"shutdown", "SES", budget{events: 1, crashes: 1, zombies: 1, told: 1, releases: 1}},
		}...)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(tt.program, tt.limits, sound())
			if raced {
				w.most = few
			}
			r := w.search(true)
			t.Log(r)
			if r.broken != "" {
				t.Fatal("the protocol has a hole")
			}
			if r.ends == 0 && !raced || r.cut > r.states/100 {
				t.Error("the bounds are too tight to tell anything")
			}
		})
	}
}

// table changes the decision table.
func table(change func(v *view, w engine.Wake, a engine.Action) engine.Action) func(*rules) {
	return func(r *rules) {
		r.decide = func(v *view, w engine.Wake, older engine.Older, now time.Time) engine.Action {
			return change(v, w, engine.Decide(v.situation, w, older, now))
		}
	}
}

// instead changes one action into another where a condition holds.
func instead(from, to engine.Action, where func(v *view, w engine.Wake) bool) func(*rules) {
	return table(func(v *view, w engine.Wake, a engine.Action) engine.Action {
		if a == from && where(v, w) {
			return to
		}
		return a
	})
}

func isParked(v *view, _ engine.Wake) bool  { return v.situation.Phase == engine.Parked }
func isRunning(v *view, _ engine.Wake) bool { return v.situation.Phase == engine.Running }
func anywhere(*view, engine.Wake) bool      { return true }

func isPaused(v *view, _ engine.Wake) bool   { return v.situation.Phase == engine.Paused }
func isFinished(v *view, _ engine.Wake) bool { return v.situation.Phase == engine.Finished }

func parkIsLeft(v *view, w engine.Wake) bool {
	return w.Kind == engine.WakeDue && w.Park != v.situation.Park
}

func isNudged(v *view, w engine.Wake) bool { return isParked(v, w) && w.Kind == engine.WakeNudge }

func isConsumed(v *view, w engine.Wake) bool {
	return w.Kind == engine.WakeEvent && v.consumed&(1<<w.Sequence) != 0
}

func newEventForPark(v *view, w engine.Wake) bool {
	return isParked(v, w) && w.Kind == engine.WakeEvent && w.Sequence > v.situation.Park
}

func oldEventForPark(v *view, w engine.Wake) bool {
	return isParked(v, w) && w.Kind == engine.WakeEvent && w.Sequence < v.situation.Park && !isConsumed(v, w) &&
		engine.Matches(v.situation.Waits, w.EventType)
}

// TestEachRuleIsNeeded takes out one rule at a time: the search must find what goes wrong without it.
func TestEachRuleIsNeeded(t *testing.T) {
	t.Parallel()
	const (
		lostWake  = "no wake is left"
		lostEvent = "an event that is there"
		lostTimer = "no timer is left"
	)
	usual := budget{events: 1, crashes: 1, zombies: 1, stale: 1}
	far := []string{"row 8: not for a later park", "events are carried"} // from the beginning: too far if races are looked for
	tests := []struct {
		name    string
		program string
		limits  budget
		without func(*rules)
		want    string
	}{
		{"a read reaches the input", "SES", budget{events: 1, stale: 1}, func(r *rules) { r.ReadReachesInput = false }, lostEvent},
		{"a read reaches the park", "ZS", budget{stale: 1}, func(r *rules) { r.ReadReachesPark = false }, lostTimer},
		{"look at older inputs after parking", "SES", budget{events: 1}, func(r *rules) { r.LookAfterPark = false }, lostEvent},
		{"look at older inputs only", "SES", usual, func(r *rules) { r.OnlyOlderInputs = false }, lostWake},
		{"store before the next body", "SS", budget{}, func(r *rules) { r.StoreBeforeBody = false }, "before what comes before it"},
		{"store before the ack", "S", budget{crashes: 1}, func(r *rules) { r.StoreBeforeAck = false }, lostWake},
		{"arm before the ack", "ZS", budget{crashes: 1}, func(r *rules) { r.ArmBeforeAck = false }, lostTimer},
		{"announce before the ack", "S", budget{crashes: 1}, func(r *rules) { r.AnnounceBeforeAck = false }, "nobody is told"},
		{"a timer per park", "ZEZS", budget{events: 1, zombies: 1}, func(r *rules) { r.TimerPerPark = false }, lostTimer},
		{"look again after a refusal", "SES", usual, func(r *rules) { r.LookAfterRefusal = false }, lostWake},
		{"a claim names its wake", "SES", usual, func(r *rules) { r.ClaimNamesWake = false }, lostWake},

		{"ask before claiming", "ES", budget{events: 1, revivals: 1}, func(r *rules) { r.AskBeforeClaim = false }, "but nothing went wrong"},
		{"say that nothing began", "S", budget{releases: 1}, func(r *rules) { r.SayNothingBegan = false }, "counted as lost"},
		{"go on under the wake that came", "ZS", budget{memories: 1, crashes: 1}, func(r *rules) { r.ClaimToGoOn = false }, lostWake},
		{"a nudge to revive", "ZS", budget{revivals: 1, crashes: 1}, func(r *rules) { r.NudgeToRevive = false }, lostWake},

		{"row 2: the holder announces", "S", budget{crashes: 1}, instead(engine.Project, engine.Ack, anywhere), "nobody is told"},
		{"row 4: the holder claims", "S", budget{crashes: 1, told: 1}, instead(engine.Claim, engine.Ack, isRunning), lostWake},
		{"row 4: though its event is consumed", "SES", usual, instead(engine.Claim, engine.Ack, isConsumed), lostWake},
		{"row 4: though its park is left", "ZS", usual, instead(engine.Claim, engine.Ack, parkIsLeft), lostWake},
		{"row 5: others do not claim", "SES", budget{events: 1}, instead(engine.Poke, engine.Claim, anywhere), "a body begins twice"},
		{"row 6: the holder takes older inputs", "SES", usual, instead(engine.LookOlder, engine.Arm, anywhere), lostEvent},
		{"row 6: the holder arms", "ZS", usual, instead(engine.Arm, engine.Ack, anywhere), lostTimer},
		{"row 7: newer events claim", "SES", usual, instead(engine.Claim, engine.Ack, newEventForPark), lostEvent},
		{"row 7: nudges claim", "ZS", budget{revivals: 1, crashes: 1, stale: 1}, instead(engine.Claim, engine.Ack, isNudged), lostWake},
		{"row 8: a timer claims", "ZS", budget{}, instead(engine.Claim, engine.Ack, isParked), lostTimer},
		{"row 8: not before it is due", "ZS", budget{early: 1}, instead(engine.Keep, engine.Ack, anywhere), lostTimer},
		{"row 8: not for a later park", "ZZS", budget{crashes: 1, zombies: 1, twice: 1}, table(laterParkToo), lostWake},
		{"row 9: older events do not claim", "SES", usual, instead(engine.Ack, engine.Claim, oldEventForPark), lostWake},

		{"who was beaten is given nothing", "RS", budget{events: 1}, func(r *rules) { r.Withhold = false }, "was beaten"},

		{"row 1: controls are obeyed", "E", budget{terminates: 1}, instead(engine.Obey, engine.Ack, anywhere), "not obeyed"},
		{"row 2: others stay away from the end", "S", budget{terminates: 1}, instead(engine.Ack, engine.Claim, isFinished), "after the end"},
		{"row 3: others stay away from what is paused", "S", budget{pauses: 1}, instead(engine.Ack, engine.Claim, isPaused), "while paused"},
		{"all controls up to one", "S", budget{pauses: 1, resumes: 1}, func(r *rules) { r.ObeyAll = false }, "is not obeyed"},
		{"controls are obeyed once", "S", budget{restarts: 1, crashes: 1}, func(r *rules) { r.MarkControls, r.NameControls = false, false }, "obeyed twice"},
		{"repeated controls are void", "S", budget{restarts: 1, doubles: 1}, func(r *rules) { r.NameControls = false }, "obeyed twice"},
		{"a purge has a bound", "S", budget{deletes: 1, creates: 1, zombies: 1}, func(r *rules) { r.BoundPurge = false }, "of an instance that is gone"},
		{"the delete stays", "S", budget{deletes: 1, creates: 1}, func(r *rules) { r.Tombstone = false }, "of an instance that is gone"},
		{"a delete takes a carried create", "E", budget{deletes: 1, cleanings: 1}, func(r *rules) { r.PurgeCarried = false }, "still there"},
		{"no wake is cleaned away", "S", budget{cleanings: 1, crashes: 1, told: 1}, func(r *rules) { r.AckFloor = false }, "nobody is told"},
		{"what is cleaned away is old", "S", budget{deletes: 1, creates: 1, cleanings: 1}, func(r *rules) { r.AgedHorizon = false }, "of an instance that is gone"},
		{"events are carried", "ZE", budget{events: 1, cleanings: 1}, func(r *rules) { r.CarryEvents = false }, lostEvent},
		{"the create is carried", "E", budget{cleanings: 1, creates: 1}, func(r *rules) { r.CarryCreate = false }, "a living instance is gone"},
		{"what is carried is verified", "E", budget{events: 1, cleanings: 1, creates: 1}, func(r *rules) { r.VerifyCarried = false }, "over a living instance"},
		{"a snapshot is appended like the rest", "ES", budget{events: 1, cleanings: 1}, func(r *rules) { r.CompareSnapshot = false }, "a body begins twice"},
		{"go on over what is known only", "SES", budget{events: 1, cleanings: 1, zombies: 1}, func(r *rules) { r.GoOnExactly = false }, "has two outcomes"},
		{"expired is final", "S", budget{cleanings: 1, restarts: 1, creates: 1}, func(r *rules) { r.ExpiredIsFinal = false }, "of an instance that is gone"},
	}
	for _, tt := range tests {
		if raced && slices.Contains(far, tt.name) {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			r := sound()
			tt.without(&r)
			found := newWorld(tt.program, tt.limits, r).search(false)
			t.Logf("%d states: %v", found.states, found)
			if !strings.Contains(found.broken, tt.want) {
				t.Errorf("found %q, want %q", found.broken, tt.want)
			}
		})
	}
}

func laterParkToo(v *view, w engine.Wake, a engine.Action) engine.Action {
	if isParked(v, w) && w.Kind == engine.WakeDue && w.Park < v.situation.Park {
		return engine.Claim
	}
	return a
}

// TestStability changes the table such that it claims under a wake that it let go before. That is wrong whatever comes
// of it, and much easier to find.
func TestStability(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		program string
		limits  budget
		without func(*rules)
	}{
		{"older events claim", "SES", budget{events: 1}, instead(engine.Ack, engine.Claim, oldEventForPark)},
		{"an early timer is acked", "ZS", budget{early: 1}, instead(engine.Keep, engine.Ack, anywhere)},
		{"a timer claims for a later park", "ZZS", budget{twice: 1}, table(laterParkToo)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := sound()
			tt.without(&r)
			found := newWorld(tt.program, tt.limits, r).search(true)
			t.Logf("%d states: %v", found.states, found)
			if !strings.Contains(found.broken, "is let go at") {
				t.Errorf("found %q, want a wake that is let go and claims", found.broken)
			}
		})
	}
}
