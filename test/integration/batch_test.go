package integration

import (
	"errors"
	"fmt"
	"slices"

	"github.com/skein-run/skein/pkg/workflow"
)

// manyAtATime: a batch makes each instance once although leaders move, a list has each once, and all can be
// ended and taken away by what they are.
func manyAtATime(w *world) {
	const n = 40
	var items []workflow.BatchItem[script]
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("b%02d", i))
		items = append(items, workflow.Item(ops(do("before"), wait("answer", "answer")), workflow.ID(ids[i])))
	}
	for range 2 { // the second time all are there
		made := make(chan error, 1)
		go func() {
			batch, err := w.scripts().CreateBatch(w.t.Context(), items)
			made <- errors.Join(err, batch.Err())
		}()
		w.disturb()
		if err := <-made; err != nil {
			w.t.Fatal(err)
		}
	}
	if got := w.list(); !sameSet(got, ids) {
		w.t.Errorf("listed is %q", got)
	}
	w.runner(setup{})
	eventually(w.t, patience, "all wait", func() bool { return len(w.list(workflow.States(workflow.Waiting))) == n })
	steered := 0
	for s, err := range w.scripts().TerminateAll(w.t.Context()) {
		if err != nil || s.Err != nil {
			w.t.Fatal(s.Err, err)
		}
		if steered++; steered == n/2 {
			w.disturb()
		}
	}
	eventually(w.t, patience, "all are terminated", func() bool { return len(w.list(workflow.States(workflow.Terminated))) == n })
	for s, err := range w.scripts().DeleteAll(w.t.Context()) {
		if err != nil || s.Err != nil {
			w.t.Fatal(s.Err, err)
		}
	}
	eventually(w.t, patience, "all are gone", func() bool { return len(w.list()) == 0 })
	w.quiesce()
}

func (w *world) list(options ...workflow.ListOption) (ids []string) {
	w.t.Helper()
	for s, err := range w.scripts().List(w.t.Context(), options...) {
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, s.ID)
	}
	return ids
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
