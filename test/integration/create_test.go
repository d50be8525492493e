package integration

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// createdByMany has 50 goroutines create one instance, over several connections. One wins, and its params count.
func createdByMany(w *world) {
	const creators, connections = 50, 5
	var bindings [connections]workflow.Bound[script, []string]
	for i := range bindings {
		p, err := project.Open(w.t.Context(), w.project.Config, project.Conn(w.connect(w.t)))
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(p.Close)
		bindings[i] = workflow.Bind[script, []string](mainWorkflow).In(p)
	}
	var winner, exists atomic.Int64
	winner.Store(-1)
	begin := make(chan struct{})
	var group sync.WaitGroup
	for i := range creators {
		group.Go(func() {
			<-begin
			_, err := bindings[i%connections].Create(w.t.Context(), ops(do(fmt.Sprint("step of ", i))), workflow.ID("a"))
			switch e, ok := errors.AsType[*workflow.ExistsError](err); {
			case err == nil && !winner.CompareAndSwap(-1, int64(i)):
				w.t.Errorf("creators %d and %d both won", winner.Load(), i)
			case err != nil && (!ok || *e != workflow.ExistsError{Workflow: mainWorkflow, ID: "a"}):
				w.t.Errorf("creator %d got %v", i, err)
			case err != nil:
				exists.Add(1)
			}
		})
	}
	close(begin)
	w.disturb()
	group.Wait()
	if winner.Load() < 0 || exists.Load() != creators-1 {
		w.t.Errorf("%d creators were told that the instance exists, want all but one", exists.Load())
	}
	w.runner(setup{})
	w.finish("a", ops(do(fmt.Sprint("step of ", winner.Load()))))
}

// backlog creates instances while no runner is there.
func backlog(w *world) {
	w.redeliverAfter(lostAfter) // no run must look lost because a busy machine holds up its runner
	s := ops(do("one"), do("two"))
	const instances = 100
	for i := range instances {
		w.create(fmt.Sprint(i), s)
	}
	if s := w.status("7"); s.State != protocol.StateQueued {
		w.t.Errorf("state is %s, want queued", s.State)
	}
	w.runner(setup{slots: 8})
	w.disturb()
	w.runner(setup{slots: 8})
	if lost := w.finishAll(instances, s); lost != 0 {
		w.t.Errorf("%d lost runs", lost)
	}
	w.quiesce()
}

// moreThanSlots has more instances than the runner has slots. What is parked needs none.
func moreThanSlots(w *world) {
	const slots, waiting, working = 2, 4, 5
	patient := ops(wait("answer", "answer"), do("after"))
	for i := range waiting {
		w.create(fmt.Sprint("patient-", i), patient)
	}
	w.runner(setup{slots: slots})
	for i := range waiting {
		w.awaitParked(fmt.Sprint("patient-", i))
	}
	s := ops(gated("work"))
	gate := w.gate("*", "work")
	for i := range working {
		w.create(fmt.Sprint("busy-", i), s)
	}
	first := []arrival{gate.await(), gate.await()}
	// A slot that is taken for a third body would be taken while the two wait here.
	eventually(w.t, patience, "the runner holds what waits for a slot", func() bool { return w.unacked() >= 2*slots })
	gate.none("all slots are taken")
	for _, a := range first {
		a.open(w.t)
	}
	for range working - len(first) {
		gate.await().open(w.t)
	}
	for i := range working {
		w.finish(fmt.Sprint("busy-", i), s)
	}
	for i := range waiting {
		id := fmt.Sprint("patient-", i)
		w.send(id, "answer", "yes")
		w.finish(id, patient)
	}
	w.quiesce()
}

// unknownWorkflow creates an instance for which the only runner has no code. One that has it takes it over.
func unknownWorkflow(w *world) {
	w.workflow = rareWorkflow
	s := ops(do("one"))
	ignorant := w.runner(setup{workflows: []string{mainWorkflow}})
	w.create("a", s)
	ignorant.awaitLog(w.t, "this runner has no code for a workflow")
	w.runner(setup{workflows: []string{rareWorkflow}})
	tr := w.finish("a", s)
	if tr.lost() != 0 {
		w.t.Errorf("%d lost runs, although nothing ran before", tr.lost())
	}
	w.quiesce()
}
