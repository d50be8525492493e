package integration

import (
	"context"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// diverged: a version of the code that lacks a step gets instances whose runner was killed. Each is held, and everybody is
// told of both sides, also when no runner is left. Then each goes on by another way out.
func diverged(w *world) {
	reserve := op{Do: "reserve", LeftOut: "v2"}
	s, without := ops(do("before"), reserve, wait("answer", "answer"), do("after")), ops(do("before"), wait("answer", "answer"), do("after"))
	all := []string{"fixed", "restarted", "accepted"}
	old := w.runner(setup{version: "v1"})
	for _, id := range all {
		w.create(id, s)
	}
	for _, id := range all {
		w.awaitParked(id)
	}
	old.kill(w.t)
	w.disturb()
	lacking := w.runner(setup{version: "v2"})
	for _, id := range all {
		w.send(id, "answer", "yes")
	}
	for _, id := range all {
		checkHeld(w, id, w.awaitState(id, protocol.StateHeld))
		checkHeld(w, id, w.seenHeld(id, "a runner tells", func(s workflow.Status) bool { return len(s.Steps) == 3 }))
	}
	w.quiesce() // nobody has work with what is held
	lacking.kill(w.t)
	w.disturb()
	for _, id := range all {
		checkHeld(w, id, w.seenHeld(id, "the tail tells", func(s workflow.Status) bool { return s.Steps == nil }))
	}

	w.steer("restarted", func(i *handle, ctx context.Context) error {
		return i.Restart(ctx, workflow.FromStep(workflow.StepDo, "reserve", 1))
	})
	w.steer("accepted", func(i *handle, ctx context.Context) error { return i.Resume(ctx, workflow.AcceptDivergence()) })
	lacking = w.runner(setup{version: "v2"})
	w.finish("restarted", without)
	w.finish("accepted", without)
	lacking.kill(w.t)
	w.disturb()
	w.steer("fixed", resumeIt)
	w.runner(setup{version: "v3"})
	tr := w.finish("fixed", s)
	w.quiesce()
	if n := tr.count(protocol.EntryHeld); n != 1 {
		w.t.Errorf("it was held %d times", n)
	}
	for id, version := range map[string]string{"fixed": "v3", "restarted": "v2", "accepted": "v2"} {
		if s := w.status(id); s.Version != version || s.Divergence != nil || s.Error != nil || s.Runs[0].Version != "v1" {
			w.t.Errorf("%s ended on %q with %+v, %v; its runs are %+v", id, s.Version, s.Divergence, s.Error, s.Runs)
		}
	}
}

// seenHeld is what another project is told of an instance that is held.
func (w *world) seenHeld(id, who string, cond func(workflow.Status) bool) workflow.Status {
	w.t.Helper()
	i, err := w.fromAnother().Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return tells(w.t, i, who+" that "+id+" is held", func(s workflow.Status) bool { return s.State == workflow.Held && cond(s) })
}

// checkHeld looks for both sides in a status.
func checkHeld(w *world, id string, s protocol.Status) {
	w.t.Helper()
	const told = `the log holds step "reserve", but the code called wait "answer" without calling it first`
	if s.Error == nil || s.Error.Name != protocol.FailureDivergence || !strings.Contains(s.Error.Message, told) {
		w.t.Errorf("%s: the error is %v, want %s", id, s.Error, told)
	}
	d := s.Divergence
	if d == nil || !slices.Equal(d.Recorded, []protocol.Key{do("reserve").key(1)}) || d.Called == nil || *d.Called != wait("answer", "answer").key(1) {
		w.t.Errorf("%s: both sides are %+v", id, d)
	}
	if s.Version != "v2" {
		w.t.Errorf("%s: held by %q", id, s.Version)
	}
}
