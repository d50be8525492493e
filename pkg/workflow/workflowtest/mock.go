package workflowtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// Step says what comes of the attempts of a step, in every instance, in place of its body. What is said first is used
// first; when it is used up, the body runs.
type Step struct {
	env      *Env
	outcomes []outcome
}

type outcome struct {
	times int // -1: always
	run   func(context.Context) (any, error)
}

// Step begins to say what comes of the steps of a name.
func (e *Env) Step(name string) *Step {
	e.t.Helper()
	if err := protocol.CheckStep(name); err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.steps[name] == nil {
		e.steps[name] = &Step{env: e}
	}
	return e.steps[name]
}

func (s *Step) add(o outcome) *Step {
	s.env.mu.Lock()
	defer s.env.mu.Unlock()
	s.outcomes = append(s.outcomes, o)
	return s
}

// Return lets every further attempt succeed with a result, which must encode as the step's own type does.
func (s *Step) Return(result any) *Step {
	return s.Run(func(context.Context) (any, error) { return result, nil })
}

// Run lets every further attempt run a function in place of the body.
func (s *Step) Run(f func(ctx context.Context) (any, error)) *Step {
	return s.add(outcome{-1, f})
}

// Fail lets so many attempts fail with an error.
func (s *Step) Fail(err error, times int) *Step {
	return s.add(outcome{times, func(context.Context) (any, error) { return nil, err }})
}

// TimeOut lets so many attempts end as if their timeout had come.
func (s *Step) TimeOut(times int) *Step {
	return s.add(outcome{times, func(context.Context) (any, error) {
		return nil, &protocol.Failure{Name: protocol.FailureTimeout, Message: "the attempt timed out, as the test asked for"}
	}})
}

// next takes the next outcome; nil if the body is to run.
func (e *Env) outcome(name string) func(context.Context) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.steps[name]
	if s == nil || len(s.outcomes) == 0 {
		return nil
	}
	o := &s.outcomes[0]
	run := o.run
	if o.times > 0 {
		if o.times--; o.times == 0 {
			s.outcomes = s.outcomes[1:]
		}
	}
	return run
}

// body runs an attempt of a step.
func (e *Env) body(ctx context.Context, a *execution.Attempt, body execution.Body) (json.RawMessage, error) {
	run := e.outcome(a.Name)
	if run == nil || a.Op != protocol.OpDo {
		return body(ctx)
	}
	result, err := run(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// Wait says what comes of the waits for events of a name.
type Wait struct {
	env   *Env
	times int
}

// Wait begins to say what comes of the waits of a name.
func (e *Env) Wait(name string) *Wait {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waits[name] == nil {
		e.waits[name] = &Wait{env: e}
	}
	return e.waits[name]
}

// TimeOut lets so many waits end without an event as soon as they begin. An event that is there already is not taken.
func (w *Wait) TimeOut(times int) {
	w.env.mu.Lock()
	defer w.env.mu.Unlock()
	w.times += times
}

func (e *Env) expires(k protocol.Key) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.waits[k.Name]
	if k.Op != protocol.OpEvent || w == nil || w.times == 0 {
		return false
	}
	w.times--
	return true
}

// crash is a death of the runner that is to come.
type crash struct {
	step string
	done bool
}

// CrashAfter lets the runner of an instance die, once, right after the outcome of a step of this name is stored. Another
// run of the instance follows, as after kill -9.
func (e *Env) CrashAfter(step string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.crashes = append(e.crashes, &crash{step: step})
}

// stored is told of what was stored and says whether the runner dies.
func (e *Env) stored(entries []protocol.Entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.crashes {
		if !c.done && slices.ContainsFunc(entries, func(x protocol.Entry) bool { return ends(x, c.step) }) {
			c.done = true
			return true
		}
	}
	return false
}

func ends(e protocol.Entry, step string) bool {
	if e.Step == nil || e.Step.Name != step {
		return false
	}
	switch e.Kind {
	case protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntrySlept, protocol.EntryReceived, protocol.EntryTimedOut:
		return true
	}
	return false
}

// pending names the crashes that did not happen: their tests prove nothing.
func (e *Env) pending() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, c := range e.crashes {
		if !c.done {
			errs = append(errs, fmt.Errorf("CrashAfter(%q): the step had no outcome that was stored", c.step))
		}
	}
	return errors.Join(errs...)
}
