package integration

import (
	"fmt"
	"slices"
	"testing"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// queuedInOrder: instances of a workflow that one may run of at a time wait for each other. All runners are killed, and the
// leader moves: the queue stands, and others go on with it in the order of creation.
func queuedInOrder(w *world) {
	w.limit, w.workflow = 1, rareWorkflow
	gate := w.gate("*", "work")
	runners := []*process{w.runner(setup{}), w.runner(setup{})}
	s := ops(gated("work"), sleep("nap", tenths), gated("work"))
	const instances = 6
	want := []string{"0"}
	w.create("0", s)
	gate.await()
	for n := 1; n < instances; n++ {
		id := fmt.Sprint(n)
		want = append(want, id)
		w.create(id, s)
		w.reaches(id, "is queued", func(s protocol.Status) bool { return s.State == protocol.StateQueued && s.Log > 0 })
		eventually(w.t, patience, id+" has its place in the queue", func() bool { return w.hasPlace(id) })
	}
	for _, p := range runners {
		p.kill(w.t)
	}
	w.disturb()
	w.runner(setup{})
	w.runner(setup{})
	w.runner(setup{})
	var began []string
	eventually(w.t, patience, "all have ended", func() bool {
		for len(gate.arrivals) > 0 {
			body := gate.await()
			if id := body.instance(); !slices.Contains(began, id) {
				began = append(began, id)
			}
			body.open(w.t)
		}
		return w.ended() == instances
	})
	if !slices.Equal(began, want) {
		w.t.Errorf("began in the order %q, want %q", began, want)
	}
	w.finishAll(instances, s)
	w.quiesce()
	checkLimit(w.t, w.trails(), rareWorkflow, 1)
}

// hasPlace reports whether an instance stands in the queue for a slot: it is put there after its log says that it waits.
func (w *world) hasPlace(id string) bool {
	bucket := protocol.SlotsBucket(w.name)
	_, err := w.store.Last(w.t.Context(), protocol.KVStream(bucket), protocol.KVSubject(bucket, protocol.SlotWaitKey(w.instance(id))))
	return err == nil
}

// statusOfAnothers: a project asks for an instance of another one. Any runner of that answers; if none is left, the
// ends of what is stored tell state and output.
func statusOfAnothers(w *world) {
	bound := w.fromAnother()
	s := ops(do("before"), wait("answer", "answer"))
	first, second := w.runner(setup{}), w.runner(setup{})
	i, err := bound.Create(w.t.Context(), s, workflow.ID("a"))
	if err != nil {
		w.t.Fatal(err)
	}
	is := func(what string, cond func(workflow.Status) bool) {
		w.t.Helper()
		tells(w.t, i, what, cond)
	}
	waits := func(s workflow.Status) bool { return s.State == workflow.Waiting && len(s.Steps) == 2 }
	is("one of two runners tells", waits)
	first.kill(w.t)
	w.disturb()
	is("the other one tells", waits)
	second.kill(w.t)
	is("the tail tells", func(s workflow.Status) bool { return s.State == workflow.Waiting && s.Steps == nil })
	if err := i.SendEvent(w.t.Context(), "answer", "yes"); err != nil {
		w.t.Fatal(err)
	}
	third := w.runner(setup{})
	output, err := i.Result(w.t.Context())
	if err != nil || len(output) != 2 || output[1] != "yes" {
		w.t.Errorf("the result is %q, %v", output, err)
	}
	third.kill(w.t)
	is("the tail tells the output", func(s workflow.Status) bool {
		return s.State == workflow.Complete && len(s.Output) > 0 && s.Steps == nil
	})
}

// fromAnother are the instances of the world as a project sees them that does not own them.
func (w *world) fromAnother() workflow.Bound[script, []string] {
	w.t.Helper()
	p, err := project.Open(w.t.Context(), project.Config{Name: w.name + "-asks", Workflows: []project.Workflow{
		{Name: mainWorkflow, ClassName: "Script", ScriptName: w.name},
	}}, project.Conn(w.connect(w.t)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return workflow.Bind[script, []string](mainWorkflow).In(p)
}

// tells waits until the status of an instance, as its owner or another project sees it, is as cond wants it.
func tells(t *testing.T, i *handle, what string, cond func(workflow.Status) bool) (s workflow.Status) {
	t.Helper()
	eventually(t, patience, what, func() (ok bool) {
		var err error
		s, err = i.Status(t.Context())
		return err == nil && cond(s)
	})
	return s
}
