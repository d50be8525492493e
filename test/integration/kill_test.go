package integration

import (
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// ackWait is after how long the wake of a dead runner is given to another.
const ackWait = 5 * time.Second

// aliveFor is the same where a healthy runner must not be taken for dead, which may stand still for some seconds on a busy
// machine, and a dead one must not hold up the test for long.
const aliveFor = 3 * ackWait

// killedInMidStep: SIGKILL while a body runs. Another runner, with a newer version of the code, runs that body again, and
// only that.
func killedInMidStep(w *world) {
	s := ops(do("before"), gated("middle"), do("after"))
	gate := w.gate("a", "middle")
	victim := w.runner(setup{version: "v1"})
	w.create("a", s)
	first := gate.await()
	if tr := w.trail("a"); tr.count(protocol.EntryStepCompleted) != 1 {
		w.t.Errorf("a body runs and the result before it is not stored: %+v", tr.entries())
	}
	heir := w.runner(setup{version: "v2"})
	victim.kill(w.t)
	w.disturb()
	second := gate.await()
	if first.PID != victim.pid() || second.PID != heir.pid() {
		w.t.Errorf("the body ran in processes %d and %d, want %d and %d", first.PID, second.PID, victim.pid(), heir.pid())
	}
	if first.Key != second.Key || first.Fence >= second.Fence || second.Attempt != first.Attempt+1 {
		w.t.Errorf("the body was told %+v, then %+v", first.call, second.call)
	}
	second.open(w.t)
	tr := w.finish("a", s)
	if tr.lost() != 1 || tr.count(protocol.EntryStepCompleted) != 3 {
		w.t.Errorf("%d lost runs, %d steps completed", tr.lost(), tr.count(protocol.EntryStepCompleted))
	}
	if s := w.status("a"); s.Version != "v2" || len(s.Runs) != 2 || s.Runs[0].Version != "v1" || s.Runs[1].Version != "v2" {
		w.t.Errorf("the version is %q, the runs are %+v", s.Version, s.Runs)
	}
	gate.none("its step is done")
	w.quiesce()
}

// killedWhileUndoing: SIGKILL while a compensation runs. Another runner goes on with that one, and then with those before.
func killedWhileUndoing(w *world) {
	gated := func(name string) op { return op{Do: name, Undo: true, UndoGate: true} }
	s := ops(gated("a"), gated("b"), gated("c"), op{Fail: "as it should"})
	a, b, c := w.gate("a", undoOf("a")), w.gate("a", undoOf("b")), w.gate("a", undoOf("c"))
	victim := w.runner(setup{})
	w.create("a", s)
	c.await().open(w.t)
	first := b.await()
	heir := w.runner(setup{})
	victim.kill(w.t)
	w.disturb()
	second := b.await()
	if first.PID != victim.pid() || second.PID != heir.pid() || first.Key != second.Key || first.Fence >= second.Fence || second.Attempt != 2 {
		w.t.Errorf("the compensation was told %+v, then %+v", first.call, second.call)
	}
	second.open(w.t)
	a.await().open(w.t)
	status := w.reaches("a", "has ended", func(s protocol.Status) bool { return s.State.Finished() })
	if status.State != protocol.StateErrored || status.Error.Message != "as it should" || status.Rollback == nil || status.Rollback.Outcome != "complete" {
		w.t.Errorf("ended as %s with %v, the rollback is %+v", status.State, status.Error, status.Rollback)
	}
	w.quiesce()
	c.none("it is done")
	tr := w.trail("a")
	tr.audit(w.t)
	undoes(w.t, tr, s)
	if tr.lost() != 1 {
		w.t.Errorf("%d lost runs", tr.lost())
	}
}

// deaths are the places between append and ack at which a runner is killed, by what it has just stored.
func deaths() []protocolTest {
	var all []protocolTest
	for _, point := range []string{testsignal.RunnerAppended, testsignal.RunnerProjected} {
		for _, d := range []death{
			{"a sleep", ops(do("before"), sleep("nap", 5*time.Second), do("after")), false},
			{"a wait", ops(do("before"), wait("answer", "answer"), do("after")), true},
			{"a wait that times out", ops(op{Wait: "answer", Type: "answer", For: 5 * time.Second}, do("after")), false},
			{"a group", ops(sideBySide(inTurn(do("x"), sleep("nap", 5*time.Second)), inTurn(wait("answer", "answer"), do("y")))), true},
			{"the end", ops(do("before"), do("after")), false},
		} {
			all = append(all, protocolTest{"killed at " + point + " of " + d.name, func(w *world) { d.run(w, point) }})
		}
	}
	return all
}

// death is a kill of a runner that stands still right after it has stored a park or the end.
type death struct {
	name   string
	script script
	// send is set if an event must end the wait.
	send bool
}

// run tries again if a busy machine spoils the case. The wait may be over before the test looks, and a run may be lost: no
// body was running, but the heir can lose one of its own if it gets no turn to answer who executes the instance.
func (d death) run(w *world, point string) {
	const tries = 5
	for i := range tries {
		if d.once(w, fmt.Sprint(i), point) {
			return
		}
	}
	w.t.Errorf("the wait was over too soon, or runs were lost, in %d tries of %[1]d", tries)
}

// once reports whether the runner died in the right place and no run was lost.
func (d death) once(w *world, id, point string) bool {
	w.t.Helper()
	victim := w.runner(setup{stopAt: point})
	w.create(id, d.script)
	victim.awaitSignal(w.t, point)
	before := w.trail(id)
	tail := before.log[len(before.log)-1]
	inPlace := d.name == "the end" || tail.Entries[len(tail.Entries)-1].Kind == protocol.EntryParked
	if inPlace {
		d.checkPlace(w, point, before)
	}
	victim.kill(w.t)
	w.disturb()
	if d.send {
		w.send(id, "answer", "yes")
	}
	heir := w.runner(setup{})
	tr := w.finish(id, d.script)
	for i, l := range before.log {
		if tr.log[i].ID != l.ID {
			w.t.Error("the log does not go on where the dead runner left it")
		}
	}
	w.quiesce()
	if inPlace && tr.lost() == 0 {
		return true
	}
	w.t.Logf("in place: %v, %d lost runs, although no body was running", inPlace, tr.lost())
	heir.terminate(w.t)
	return false
}

// checkPlace makes sure that the runner stands where it is to die.
func (d death) checkPlace(w *world, point string, tr *trail) {
	w.t.Helper()
	projected := point == testsignal.RunnerProjected
	tail := tr.log[len(tr.log)-1]
	last := tail.Entries[len(tail.Entries)-1]
	switch {
	case terminal(last.Kind):
		if announced := len(tr.done) == 1; announced != projected {
			w.t.Fatalf("at %s the end is announced: %v", point, announced)
		}
	case last.Kind != protocol.EntryParked:
		w.t.Fatalf("the log ends with %s", last.Kind)
	case last.Until != nil:
		_, err := w.store.Last(w.t.Context(), protocol.TimersStream(w.name), w.instance(tr.id).TimerSubject(tail.sequence))
		// Then the timer may have fired.
		late := !time.Now().Before(*last.Until)
		if armed := err == nil; armed != projected && !late {
			w.t.Fatalf("at %s the timer is armed: %v (%v)", point, armed, err)
		}
	}
	if n := w.unacked(); n != 1 {
		w.t.Fatalf("at %s %d wakes are not acked, want 1", point, n)
	}
}

// lostInOneStep has a step that kills its runner every time. It must use up its budget and fail, not loop for ever.
func lostInOneStep(w *world) {
	const budget = 2
	gate := w.gate("a", "deadly")
	victim := w.runner(setup{})
	w.create("a", ops(do("harmless"), op{Do: "deadly", Die: true, LostRuns: budget}, do("never")))
	for range budget + 1 {
		body := gate.await()
		if body.PID != victim.pid() {
			w.t.Fatalf("the body runs in process %d, want %d", body.PID, victim.pid())
		}
		body.open(w.t)
		victim.awaitKilled(w.t)
		victim = w.runner(setup{})
	}
	s := w.reaches("a", "has ended", func(s protocol.Status) bool { return s.State.Finished() })
	if s.State != protocol.StateErrored || s.Error.Name != protocol.FailureLostRuns {
		w.t.Errorf("ended %s with %v, want %s", s.State, s.Error, protocol.FailureLostRuns)
	}
	w.quiesce()
	gate.none("the budget is used up")
	tr := w.trail("a")
	tr.audit(w.t)
	if n := tr.lost(); n != budget+1 {
		w.t.Errorf("%d lost runs are recorded, want %d", n, budget+1)
	}
	for _, step := range s.Steps {
		if step.Name == "harmless" && (step.LostRuns != 0 && !tr.astray() || step.State != "completed") {
			w.t.Errorf("the step before is blamed: %+v", step)
		}
	}
}
