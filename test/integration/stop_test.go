package integration

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// handedOver is how long it may take until another runner goes on with what was given back, on a busy machine: less than
// lostAfter, the time after which it would get it anyway in these tests.
const (
	handedOver = 45 * time.Second
	lostAfter  = time.Minute
)

// grace is long enough for a busy machine to store a release in the last quarter of it.
const grace = 32 * time.Second

// releasedAfterTheBody: SIGTERM while a body runs that returns in time. Its result is kept; another runner goes on.
func releasedAfterTheBody(w *world) {
	w.redeliverAfter(lostAfter)
	s := ops(gated("first"), gated("second"))
	first, second := w.gate("a", "first"), w.gate("a", "second")
	leaving := w.runner(setup{})
	w.create("a", s)
	body := first.await()
	heir := w.runner(setup{})
	leaving.signal(w.t, syscall.SIGTERM)
	leaving.awaitLog(w.t, "runner hands back its work")
	body.open(w.t)
	opened := time.Now()
	next := second.await()
	if took := time.Since(opened); took > handedOver || next.PID != heir.pid() {
		w.t.Errorf("process %d went on after %v, want %d at once", next.PID, took, heir.pid())
	}
	leaving.awaitTerminated(w.t)
	next.open(w.t)
	tr := w.finish("a", s)
	tr.checkHandedOver(w.t, 1)
	first.none("its result is recorded")
	w.quiesce()
}

// releasedInTheBody: SIGTERM while a body runs that takes longer than the grace period. It is broken off.
func releasedInTheBody(w *world) {
	w.redeliverAfter(lostAfter)
	s := ops(do("before"), gated("long"))
	gate := w.gate("a", "long")
	leaving := w.runner(setup{grace: grace})
	w.create("a", s)
	gate.await()
	heir := w.runner(setup{})
	terminated := time.Now()
	leaving.terminate(w.t)
	body := gate.await()
	if took := time.Since(terminated); took > grace+handedOver || body.PID != heir.pid() {
		w.t.Errorf("process %d went on after %v, want %d soon after the grace period", body.PID, took, heir.pid())
	}
	body.open(w.t)
	w.finish("a", s).checkHandedOver(w.t, 1)
	w.quiesce()
}

// releasedWhileParked: there is nothing to hand back but what executes.
func releasedWhileParked(w *world) {
	w.redeliverAfter(lostAfter)
	s := ops(wait("answer", "answer"), do("after"))
	leaving := w.runner(setup{})
	w.create("a", s)
	w.awaitParked("a")
	if took := leaving.terminate(w.t); took > handedOver {
		w.t.Errorf("it took %v to stop with nothing to do", took)
	}
	w.runner(setup{})
	sent := time.Now()
	w.send("a", "answer", "yes")
	tr := w.finish("a", s)
	if took := time.Since(sent); took > handedOver {
		w.t.Errorf("it took %v to go on", took)
	}
	tr.checkHandedOver(w.t, 0)
}

// releasedBeforeTheyBegan: SIGTERM of a runner with one slot and a queue. What it never began is no lost run. It tries again
// if one looks lost: a busy machine may have led its wake astray.
func releasedBeforeTheyBegan(w *world) {
	w.redeliverAfter(lostAfter)
	const tries = 3
	for i := range tries {
		if w.handsBackUnbegun(fmt.Sprint(i)) {
			return
		}
	}
	w.t.Errorf("what was never begun is a lost run in %d tries of %[1]d", tries)
}

// handsBackUnbegun reports whether no instance that a leaving runner has not begun looks like a lost run.
func (w *world) handsBackUnbegun(try string) bool {
	w.t.Helper()
	s := ops(gated("first"))
	leaving := w.runner(setup{slots: 1, grace: grace})
	gate := w.gate("*", "first")
	const instances = 4
	ids := make([]string, instances)
	for i := range instances {
		ids[i] = fmt.Sprint(try, "-", i)
		w.create(ids[i], s)
	}
	gate.await() // one of them
	eventually(w.t, patience, "the runner holds the next one", func() bool { return w.unacked() >= 2 })
	terminated := time.Now()
	leaving.terminate(w.t)
	heir := w.runner(setup{})
	for range instances {
		body := gate.await()
		if body.PID != heir.pid() {
			w.t.Errorf("the body runs in process %d, want %d", body.PID, heir.pid())
		}
		body.open(w.t)
	}
	if took := time.Since(terminated); took > grace+handedOver {
		w.t.Errorf("it took %v to begin all", took)
	}
	unbegun := true
	for _, id := range ids {
		tr := w.finish(id, s)
		if lost := tr.lost(); lost != 0 {
			w.t.Errorf("%s: %d lost runs", id, lost)
		}
		unbegun = unbegun && !tr.astray()
	}
	w.quiesce()
	heir.terminate(w.t)
	return unbegun
}

// checkHandedOver looks for the entries of work given back in good order.
func (tr *trail) checkHandedOver(t testing.TB, times int) {
	t.Helper()
	if released, lost := tr.count(protocol.EntryReleased), tr.lost(); released != times || lost != 0 {
		t.Errorf("%d releases and %d lost runs, want %d and none", released, lost, times)
	}
}

// zombie: SIGSTOP of the runner in mid-step for longer than its wake lasts. Another runner finishes, and what the
// first one does when it goes on counts for nothing.
func zombie(w *world) {
	s := ops(do("before"), gated("middle"), do("after"))
	gate, attempts := w.gate("a", "middle"), w.listen("a")
	frozen := w.runner(setup{})
	w.create("a", s)
	stale := gate.await()
	frozen.freeze(w.t)
	heir := w.runner(setup{})
	fresh := gate.await()
	if stale.PID != frozen.pid() || fresh.PID != heir.pid() || fresh.Fence <= stale.Fence {
		w.t.Errorf("the body ran in %d (fence %d), then %d (fence %d)", stale.PID, stale.Fence, fresh.PID, fresh.Fence)
	}
	fresh.open(w.t)
	tr := w.finish("a", s)
	if tr.lost() != 1 {
		w.t.Errorf("%d lost runs, want that of the frozen process", tr.lost())
	}
	stale.open(w.t)
	frozen.thaw(w.t)
	attempts.awaitRefused(tr.log[0].Runner)
	if after := w.trail("a"); len(after.log) != len(tr.log) {
		w.t.Errorf("the log went from %d to %d messages after the end", len(tr.log), len(after.log))
	}
	// It serves others as if nothing had happened.
	heir.terminate(w.t)
	next := ops(do("next"))
	w.create("b", next)
	w.finish("b", next)
	w.quiesce()
}

// zombieOfALivingInstance: the same, but when the first runner goes on the instance is with the second, in mid-step. The
// first must leave the wake alone: the second dies, and its work must come back.
func zombieOfALivingInstance(w *world) {
	w.redeliverAfter(aliveFor)
	s := ops(gated("first"), gated("second"))
	first, second, attempts := w.gate("a", "first"), w.gate("a", "second"), w.listen("a")
	frozen := w.runner(setup{})
	w.create("a", s)
	stale := first.await()
	begun := w.reaches("a", "has begun", func(s protocol.Status) bool { return len(s.Runs) > 0 })
	frozen.freeze(w.t)
	heir := w.runner(setup{})
	first.await().open(w.t)
	body := second.await()
	stale.open(w.t)
	frozen.thaw(w.t)
	attempts.awaitRefused(begun.Runs[0].Runner)
	second.none("another runner is at it")
	if body.PID != heir.pid() {
		w.t.Errorf("the second step runs in process %d, want %d", body.PID, heir.pid())
	}
	heir.kill(w.t)
	again := second.await()
	if again.PID != frozen.pid() || again.Fence <= body.Fence {
		w.t.Errorf("the second step runs in process %d (fence %d after %d), want %d", again.PID, again.Fence, body.Fence, frozen.pid())
	}
	again.open(w.t)
	if tr := w.finish("a", s); tr.lost() != 2 {
		w.t.Errorf("%d lost runs, want that of the frozen runner and that of the dead one", tr.lost())
	}
	w.quiesce()
}

// longBody has a body that takes longer than a wake lasts. Its runner says that it works on it, so that nobody else is
// given the wake.
func longBody(w *world) {
	const lasts = 4 * ackWait // a busy machine may hold up what the runner says
	w.redeliverAfter(lasts)
	s := ops(gated("long"))
	gate := w.gate("a", "long")
	w.runner(setup{})
	w.runner(setup{})
	w.create("a", s)
	body := gate.await()
	pause(w.t.Context(), lasts+2*time.Second)
	if n := w.deliveries(); n != 1 {
		w.t.Errorf("the wake was delivered %d times, want once", n)
	}
	gate.none("a healthy runner is at it")
	body.open(w.t)
	if tr := w.finish("a", s); tr.lost() != 0 {
		w.t.Errorf("%d lost runs", tr.lost())
	}
}

// stoodStill: SIGSTOP of a runner that waits for wakes, for long enough to miss what the server says meanwhile. What was
// delivered to it is there when it goes on: nothing comes a second time, and no run looks lost.
func stoodStill(w *world) {
	w.redeliverAfter(lostAfter)
	s := ops(do("one"))
	runner := w.runner(setup{})
	eventually(w.t, patience, "the runner waits for wakes", func() bool {
		return w.count(protocol.ConsumerWakes, func(c *jetstream.ConsumerInfo) int { return c.NumWaiting }) == w.shardCount()
	})
	runner.freeze(w.t)
	const instances = 20
	for i := range instances {
		w.create(fmt.Sprint(i), s)
	}
	eventually(w.t, patience, "all are delivered", func() bool { return w.unacked() == instances })
	pause(w.t.Context(), 4*time.Second) // as long as the server may be silent
	runner.thaw(w.t)
	if lost := w.finishAll(instances, s); lost != 0 {
		w.t.Errorf("%d lost runs", lost)
	}
	w.quiesce()
	if n := w.deliveries(); n != instances {
		w.t.Errorf("wakes were delivered %d times, want each of %d once", n, instances)
	}
}
