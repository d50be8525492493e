package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// races kill the runner of a race of an event and a time, around the moment at which it is decided.
func races() []protocolTest {
	return []protocolTest{
		{"a race, killed when it has parked", raceKilledParked},
		{"a race, killed when one branch has its event", func(w *world) { raceKilledInBody(w, "x") }},
		{"a race, killed when it is decided", func(w *world) { raceKilledInBody(w, "after") }},
		{"races in a storm", racesInAStorm},
	}
}

// raceScript races an answer with a nap. Whoever wins: the answer ends one wait, and so does what comes after it.
func raceScript(nap time.Duration, x, after op) script {
	return ops(do("before"), race("race", inTurn(wait("answer", "answer"), x), inTurn(sleep("nap", nap), do("y"))), after, wait("next", "answer"))
}

func raceKilledParked(w *world) {
	s := raceScript(4*time.Second, do("x"), do("after"))
	victim := w.runner(setup{stopAt: testsignal.RunnerAppended})
	w.create("a", s)
	victim.awaitSignal(w.t, testsignal.RunnerAppended)
	w.send("a", "answer", "1")
	victim.kill(w.t)
	w.disturb()
	w.runner(setup{}) // it comes when both are there
	// If the nap wins, the first one ends the instance.
	w.sendWhileItLives("a", "answer", "2")
	w.finishRace("a", s)
	w.quiesce()
}

// raceKilledInBody kills the runner while a body runs: that of the branch that has the event, before the race is decided, or
// that of the step after the race. By the time that another takes over, the nap is over, too. It tries again with a longer
// nap if a busy machine took so long that the race was decided before.
func raceKilledInBody(w *world, body string) {
	for i, nap := range []time.Duration{4 * time.Second, 16 * time.Second, time.Minute} {
		if w.raceKilled(fmt.Sprint(i), body, nap) {
			return
		}
	}
	w.t.Error("the race was decided before the runner was killed, in all tries")
}

// raceKilled reports whether the runner died in the right place.
func (w *world) raceKilled(id, body string, nap time.Duration) bool {
	w.t.Helper()
	x, after := do("x"), do("after")
	if body == "x" {
		x = gated("x")
	} else {
		after = gated("after")
	}
	s := raceScript(nap, x, after)
	gate := w.gate(id, body)
	victim := w.runner(setup{})
	w.create(id, s)
	w.send(id, "answer", "1")
	if body == "x" { // the nap may win before the answer is taken, and the body of that branch not run
		eventually(w.t, patience, "a body comes to the gate, or the race is decided", func() bool {
			return len(gate.arrivals) > 0 || len(w.trail(id).winners()) > 0
		})
	} else {
		gate.await()
	}
	heir := w.runner(setup{})
	victim.kill(w.t)
	decided := w.trail(id).winners()
	w.disturb()
	if body == "x" { // it may be that the nap wins meanwhile, and nobody comes here again
		w.reaches(id, "is decided", func(protocol.Status) bool {
			for len(gate.arrivals) > 0 {
				gate.await().open(w.t)
			}
			return len(w.trail(id).winners()) > 0
		})
	} else {
		gate.await().open(w.t)
	}
	w.sendWhileItLives(id, "answer", "2")
	w.sendWhileItLives(id, "answer", "3")
	tr := w.finishRace(id, s)
	w.quiesce()
	heir.terminate(w.t)
	now := tr.winners()
	if body == "x" {
		return len(decided) == 0
	}
	if !slices.Equal(now, decided) {
		w.t.Errorf("the winners are %v, when the runner was killed they were %v", now, decided)
	}
	return true
}

// winners are the winners that the log records.
func (tr *trail) winners() (all []int) {
	for _, e := range tr.entries() {
		if e.Winner != nil {
			all = append(all, *e.Winner)
		}
	}
	return all
}

// finishRace is finish for an instance with one race.
func (w *world) finishRace(id string, s script) *trail {
	w.t.Helper()
	tr := w.finish(id, s)
	if n := len(tr.winners()); n != 1 {
		w.t.Errorf("%d winners are recorded", n)
	}
	return tr
}

// racesInAStorm kills runners at random while instances race answers with naps of about the same time. What is recorded is
// audited, and that each event ended one wait at most and that none is missing: the last wait of each instance gets one.
func racesInAStorm(w *world) {
	const instances = 12
	loop := func(i int) op {
		return race(fmt.Sprint("race ", i), inTurn(wait(fmt.Sprint("answer ", i), "answer"), do(fmt.Sprint("x", i))), inTurn(sleep(fmt.Sprint("nap ", i), 2500*time.Millisecond)))
	}
	s := ops(loop(1), do("between"), loop(2), wait("last", "last"))
	runners := []*process{w.runner(setup{}), w.runner(setup{})}
	for i := range instances {
		w.create(fmt.Sprint(i), s)
	}
	for range 3 {
		pause(w.t.Context(), time.Second+rand.N(2*time.Second))
		for i := range instances {
			if rand.N(2) == 0 {
				w.send(fmt.Sprint(i), "answer", "yes")
			}
		}
		k := rand.N(len(runners))
		runners[k].kill(w.t)
		runners[k] = w.runner(setup{})
	}
	for i := range instances {
		w.send(fmt.Sprint(i), "last", "end")
	}
	w.finishAll(instances, s)
	for id, tr := range w.trails() {
		if n := tr.winners(); len(n) != 2 || tr.count(protocol.EntryDeleted) != 0 {
			w.t.Errorf("%v: the winners are %v", id, n)
		}
	}
	w.quiesce()
}
