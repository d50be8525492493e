package integration

import (
	"slices"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// givingUp are the ways in which a wait is given up: its group fails, its race is decided, the code ends its context. In
// each, the other branch comes to its end when the test lets it.
func givingUp() []protocolTest {
	first, other := inTurn(do("x"), op{Hold: "hold"}), inTurn(wait("given up", "answer"), do("y"))
	var all []protocolTest
	for _, g := range []givenUp{
		{"a group that fails", op{Group: [][]op{append(slices.Clone(first), op{Fail: "on purpose"}), other}, Fails: "on purpose"}, protocol.EntryGroupFailed},
		{"a race", race("race", first, other), protocol.EntryStepCompleted},
		{"a context that ends", op{Group: [][]op{first, other}, Ends: true}, protocol.EntryGivenUp},
	} {
		all = append(all, protocolTest{"given up by " + g.by + ", killed before and after", g.run})
	}
	return all
}

// givenUp is a wait that is given up, and the entry that says so.
type givenUp struct {
	by     string
	within op
	entry  protocol.EntryKind
}

// run kills the runner when the wait is about to be given up and nothing says so, and the next one when that is stored. The
// event that comes then is for who waits for it afterwards, also if the wait stands there for a while in the replay.
func (g givenUp) run(w *world) {
	s := ops(g.within, gated("next"), wait("later", "answer"), do("last"))
	hold, next := w.gate("a", "hold"), w.gate("a", "next")
	victim := w.runner(setup{stopAt: testsignal.GivingUp})
	w.create("a", s)
	code := hold.await()
	w.reaches("a", "has come so far", func(s protocol.Status) bool {
		return stateOf(s, "x") == "completed" && stateOf(s, "given up") != ""
	})
	code.open(w.t)
	victim.awaitSignal(w.t, testsignal.GivingUp)
	if n := g.stored(w.trail("a")); n != 0 {
		w.t.Fatalf("it is given up already, %d times", n)
	}
	victim.kill(w.t)
	w.disturb()

	victim = w.runner(setup{})
	hold.await().open(w.t)
	next.await()
	before := w.trail("a")
	if g.stored(before) != 1 {
		w.t.Fatalf("the next step runs, and it is given up %d times: %+v", g.stored(before), before.entries())
	}
	victim.kill(w.t)
	w.send("a", "answer", "yes")
	w.disturb()

	w.runner(setup{})
	hold.await().open(w.t)
	next.await().open(w.t)
	tr := w.finish("a", s)
	w.quiesce()
	if g.stored(tr) != 1 {
		w.t.Errorf("it is given up %d times", g.stored(tr))
	}
	for _, e := range tr.entries() {
		if e.Kind == protocol.EntryReceived && e.Step.Name != "later" {
			w.t.Errorf("the event went to %v", e.Step)
		}
	}
	if state := stateOf(w.status("a"), "given up"); state != "canceled" {
		w.t.Errorf("the wait is %s", state)
	}
}

// stateOf is that of a step in a status, empty if it has not got the step.
func stateOf(s protocol.Status, name string) string {
	i := slices.IndexFunc(s.Steps, func(s protocol.StepStatus) bool { return s.Name == name })
	if i < 0 {
		return ""
	}
	return s.Steps[i].State
}

// stored is how often the log says that the wait is given up.
func (g givenUp) stored(tr *trail) int {
	n := 0
	for _, e := range tr.entries() {
		if e.Kind == g.entry && (g.within.Race == "" || e.Step.Op == protocol.OpRace) {
			n++
		}
	}
	return n
}
