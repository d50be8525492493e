package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// subscribed: who subscribes while runners are killed and leaders move is told everything, once and in order; in the own
// project and from another one, with one subscription and with one after the other.
func subscribed(w *world) {
	s := ops(do("before"), gated("middle"), sleep("nap", 3*time.Second), wait("answer", "answer"),
		sideBySide(inTurn(do("x"), do("y")), inTurn(do("z"))), do("after"))
	gate := w.gate("a", "middle")
	victim := w.runner(setup{})
	w.create("a", s)
	own, foreign := w.handles("a")
	subscriptions := []*subscription{w.subscribe(own, 0), w.subscribe(foreign, 0), w.subscribe(own, 4), w.subscribe(foreign, 4)}
	gate.await()
	w.disturb()
	w.runner(setup{})
	victim.kill(w.t)
	second := gate.await()
	w.disturb()
	second.open(w.t)
	w.awaitParked("a")
	w.send("a", "answer", "yes")
	w.finish("a", s)
	var want []string
	for n, err := range own.Subscribe(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		want = append(want, text(n))
	}
	for i, sub := range subscriptions {
		if got := sub.await(w); !slices.Equal(got, want) {
			w.t.Errorf("subscription %d was told\n%q, want\n%q", i, got, want)
		}
	}
	count := 0
	for n, err := range foreign.Subscribe(w.t.Context(), workflow.Only(workflow.NoticeStepCompleted)) {
		if err != nil {
			w.t.Fatal(err)
		}
		if n.Step != nil {
			count++
		}
	}
	if count != 6 {
		w.t.Errorf("%d steps have completed, want 6", count)
	}
	w.quiesce()
}

// handles are two to the same instance: of its own project, and of another.
func (w *world) handles(id string) (own, foreign *workflow.Instance[[]string]) {
	w.t.Helper()
	config := project.Config{Name: w.name + "-reader", Workflows: []project.Workflow{
		{Name: w.workflow, ClassName: "Script", ScriptName: w.name},
	}}
	p, err := project.Open(w.t.Context(), config, project.Conn(w.nc))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	if own, err = w.scripts().Get(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	if foreign, err = workflow.Bind[script, []string](w.workflow).In(p).Get(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	return own, foreign
}

// subscription collects what is told of an instance.
type subscription struct {
	done chan struct{}
	mu   sync.Mutex
	told []string
	err  error
}

// subscribe begins to collect. With most, each subscription ends after so many notices, and another goes on.
func (w *world) subscribe(i *workflow.Instance[[]string], most int) *subscription {
	s := &subscription{done: make(chan struct{})}
	ctx := w.t.Context()
	go func() {
		defer close(s.done)
		var after workflow.Cursor
		for more := true; more; {
			after, more = s.collect(ctx, i, after, most)
		}
	}()
	return s
}

func (s *subscription) collect(ctx context.Context, i *workflow.Instance[[]string], after workflow.Cursor, most int) (workflow.Cursor, bool) {
	n := 0
	for notice, err := range i.Subscribe(ctx, workflow.After(after)) {
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.mu.Unlock()
			return after, false
		}
		s.told = append(s.told, text(notice))
		s.mu.Unlock()
		after = notice.Cursor
		if n++; n == most {
			return after, true
		}
	}
	return after, false
}

func (s *subscription) await(w *world) []string {
	w.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.mu.Lock()
		defer s.mu.Unlock()
		w.t.Fatalf("a subscription does not end; it was told %q", s.told)
	}
	if s.err != nil {
		w.t.Errorf("a subscription ended with %v", s.err)
	}
	return s.told
}

func text(n protocol.Notice) string {
	body, err := json.Marshal(n)
	return fmt.Sprint(string(body), err)
}
