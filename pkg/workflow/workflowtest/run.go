package workflowtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Run is an instance under test, with the methods of the instance that it embeds. Those take a context: Result and
// Status of the Run itself do not.
type Run[R any] struct {
	*workflow.Instance[R]
	env   *Env
	class string
}

// Start starts an instance of the workflow of a class, or with [Load] of a binding. R is the type of its result.
func Start[R any](e *Env, class string, params any, options ...workflow.CreateOption) *Run[R] {
	e.t.Helper()
	instance, err := workflow.Bind[any, R](class).In(e.Project).Create(e.t.Context(), params, options...)
	if err != nil {
		e.t.Fatalf("workflowtest: start %q: %v", class, err)
	}
	return &Run[R]{Instance: instance, env: e, class: class}
}

// Find is an instance that somebody else has started: an agent, or another instance.
func Find[R any](e *Env, class, id string) *Run[R] {
	e.t.Helper()
	e.settle()
	instance, err := workflow.Bind[any, R](class).In(e.Project).Get(e.t.Context(), id)
	if err != nil {
		e.t.Fatalf("workflowtest: find %q of %q: %v", id, class, err)
	}
	return &Run[R]{Instance: instance, env: e, class: class}
}

// Result lets the clock go on until the instance has ended and returns its result, or its error as a
// [*workflow.InstanceError]. It fails the test if the instance waits for what will not come.
func (r *Run[R]) Result() (R, error) {
	r.env.t.Helper()
	r.Until("has ended", func(s workflow.Status) bool { return s.State.Finished() })
	return r.Instance.Result(r.env.t.Context())
}

// Until lets the clock go on until the status of the instance is as cond wants it, what says in words. It fails the
// test if nothing is left that could bring it about.
func (r *Run[R]) Until(what string, cond func(workflow.Status) bool) workflow.Status {
	e := r.env
	e.t.Helper()
	for {
		e.settle()
		s := r.Status()
		if cond(s) {
			return s
		}
		next, ok := e.next()
		if !ok {
			e.t.Fatalf("workflowtest: instance %q of %q %s: that will not be. %s. Nothing else is planned: %s", r.ID(), r.class, what, told(s), e.stuck())
		}
		e.jump(next)
	}
}

// Status is what is known of the instance when nothing moves; the clock stands still.
func (r *Run[R]) Status() workflow.Status {
	r.env.t.Helper()
	r.env.settle()
	s, err := r.Instance.Status(r.env.t.Context())
	if err != nil {
		r.env.t.Fatalf("workflowtest: status of %q: %v", r.ID(), err)
	}
	return s
}

// Send sends an event to the instance.
func (r *Run[R]) Send(eventType string, payload any) {
	r.env.t.Helper()
	if err := r.SendEvent(r.env.t.Context(), eventType, payload); err != nil {
		r.env.t.Fatalf("workflowtest: %v", err)
	}
}

// told says where an instance stands.
func told(s workflow.Status) string {
	if s.Error != nil {
		return fmt.Sprintf("It is %s: %s", s.State, s.Error.Message)
	}
	return fmt.Sprintf("It is %s", s.State)
}

// stuck says what all instances wait for.
func (e *Env) stuck() string {
	var lines []string
	for instance, s := range e.situations() {
		if s.Phase == engine.Finished {
			continue
		}
		var waits []string
		for _, w := range s.Waits {
			waits = append(waits, describe(w))
		}
		line := fmt.Sprintf("%s is %v", instance, s.Phase)
		if len(waits) > 0 {
			line += " and waits for " + strings.Join(waits, ", ")
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return "all instances have ended"
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

func describe(w protocol.Wait) string {
	if w.Type != "" {
		return fmt.Sprintf("%v (type %q)", w.Key, w.Type)
	}
	return w.Key.String()
}
