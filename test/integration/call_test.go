package integration

import (
	"time"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// callDeaths kill the runner of an instance that calls another, and that of the other, at their worst moments.
func callDeaths() []protocolTest {
	var all []protocolTest
	for _, d := range []callDeath{
		{parent: testsignal.CallBegun, child: testsignal.RunnerAppended},
		{parent: testsignal.CallCreated, child: testsignal.RunnerProjected},
		{parent: testsignal.RunnerAppended},
		{parent: testsignal.RunnerProjected},
	} {
		all = append(all, protocolTest{"a call, killed at " + d.parent + " and " + d.child, d.run})
	}
	return append(all, protocolTest{"a call that timed out, killed at " + testsignal.CallEnded, timedOutCall})
}

// callDeath is where the runner of the parent dies, and that of the child; empty: it lives on.
type callDeath struct{ parent, child string }

func (d callDeath) run(w *world) {
	w.calls = newWorld(w.t, w.rig, w.name+"-called")
	child := ops(do("x"), do("y"))
	s := ops(do("before"), op{Call: "call", Script: &child}, do("after"))
	victim := w.runner(setup{stopAt: d.parent, workflows: []string{mainWorkflow}})
	w.create("a", s)
	victim.awaitSignal(w.t, d.parent)
	if d.child == "" {
		victim.kill(w.t)
		w.calls.runner(setup{})
	} else {
		other := w.calls.runner(setup{stopAt: d.child})
		if d.parent == testsignal.CallBegun { // it has to be called first
			victim.kill(w.t)
			w.runner(setup{workflows: []string{mainWorkflow}})
			other.awaitSignal(w.t, d.child)
		} else {
			other.awaitSignal(w.t, d.child)
			victim.kill(w.t)
		}
		w.disturb()
		other.kill(w.t)
		w.calls.runner(setup{})
	}
	w.runner(setup{workflows: []string{mainWorkflow}})
	tr := w.finish("a", s)
	w.quiesce()
	w.calls.quiesce()
	w.calls.onlyChild().audit(w.t)
	if n := tr.count(protocol.EntryReceived); n != 1 {
		w.t.Errorf("%d answers were taken", n)
	}
}

// timedOutCall: a call has ended without its child, and its runner dies before it can tell the child so.
func timedOutCall(w *world) {
	w.calls = newWorld(w.t, w.rig, w.name+"-called")
	child := ops(wait("never", "never"))
	s := ops(op{Call: "call", Script: &child, For: time.Second}, do("after"))
	victim := w.runner(setup{stopAt: testsignal.CallEnded, workflows: []string{mainWorkflow}})
	w.calls.runner(setup{})
	w.create("a", s)
	victim.awaitSignal(w.t, testsignal.CallEnded)
	id := w.calls.onlyChild().id
	w.calls.awaitParked(id)
	victim.kill(w.t)
	w.disturb()
	w.runner(setup{workflows: []string{mainWorkflow}})
	w.finish("a", s)
	w.calls.reaches(id, "is terminated", func(s protocol.Status) bool { return s.State == protocol.StateTerminated })
	w.quiesce()
	w.calls.quiesce()
}

// onlyChild is what is stored of the one instance of the project.
func (w *world) onlyChild() (only *trail) {
	w.t.Helper()
	trails := w.trails()
	if len(trails) != 1 {
		w.t.Fatalf("there are %d instances, want one", len(trails))
	}
	for _, tr := range trails {
		only = tr
	}
	return only
}
