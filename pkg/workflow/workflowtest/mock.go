package workflowtest

import (
	"context"
	"encoding/json"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// Step says what comes of the attempts of a step, in every instance, in place of its body. What is said first is used
// first; when it is used up, the body runs.
type Step struct {
	env      *Env
	key      protocol.Key
	outcomes []*outcome
	unused   bool // they need not be used
}

type outcome struct {
	what  string
	times int // -1: always
	used  int
	run   func(context.Context) (any, error)
}

// Step begins to say what comes of the steps of a name.
func (e *Env) Step(name string) *Step {
	e.t.Helper()
	return e.step(protocol.Key{Op: protocol.OpDo, Name: name})
}

// Compensation begins to say what comes of undoing the steps of a name.
func (e *Env) Compensation(step string) *Step {
	e.t.Helper()
	return e.step(protocol.Key{Op: protocol.OpRollback, Name: step})
}

func (e *Env) step(key protocol.Key) *Step {
	e.t.Helper()
	if err := protocol.CheckStep(key.Name); err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.steps[key] == nil {
		e.steps[key] = &Step{env: e, key: key}
	}
	return e.steps[key]
}

func (s *Step) add(what string, times int, run func(context.Context) (any, error)) *Step {
	s.env.t.Helper()
	if times == 0 || times < -1 {
		s.env.t.Fatalf("workflowtest: %s.%s: so many attempts: %d; allowed is 1 and more", s, what, times)
	}
	s.env.mu.Lock()
	defer s.env.mu.Unlock()
	if n := len(s.outcomes); n > 0 && s.outcomes[n-1].times < 0 {
		s.env.t.Fatalf("workflowtest: %s.%s comes after %s, which is for every further attempt", s, what, s.outcomes[n-1].what)
	}
	s.outcomes = append(s.outcomes, &outcome{what: what, times: times, run: run})
	return s
}

// Return lets every further attempt succeed with a result, which must encode as the step's own type does.
func (s *Step) Return(result any) *Step {
	s.env.t.Helper()
	return s.add("Return", -1, func(context.Context) (any, error) { return result, nil })
}

// Run lets every further attempt run a function in place of the body.
func (s *Step) Run(f func(ctx context.Context) (any, error)) *Step {
	s.env.t.Helper()
	return s.add("Run", -1, f)
}

// Fail lets so many attempts fail with an error.
func (s *Step) Fail(err error, times int) *Step {
	s.env.t.Helper()
	return s.add("Fail", times, func(context.Context) (any, error) { return nil, err })
}

// TimeOut lets so many attempts end as if their timeout had come.
func (s *Step) TimeOut(times int) *Step {
	s.env.t.Helper()
	return s.add("TimeOut", times, func(context.Context) (any, error) {
		return nil, &protocol.Failure{Name: protocol.FailureTimeout, Message: "the attempt timed out, as the test asked for"}
	})
}

// Maybe lets what is said of the step go unused: without it, the test fails if it is.
func (s *Step) Maybe() *Step {
	s.env.mu.Lock()
	defer s.env.mu.Unlock()
	s.unused = true
	return s
}

// outcome takes the next outcome of an attempt; nil if the body is to run.
func (e *Env) outcome(of protocol.Key) func(context.Context) (any, error) {
	of.Count = 0
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen[of] = true
	s := e.steps[of]
	if s == nil {
		return nil
	}
	for _, o := range s.outcomes {
		if o.times < 0 || o.used < o.times {
			o.used++
			return o.run
		}
	}
	return nil
}

// body runs an attempt of a step.
func (e *Env) body(ctx context.Context, a *execution.Attempt, body execution.Body) (json.RawMessage, error) {
	run := e.outcome(a.Key)
	if run == nil {
		return body(ctx)
	}
	result, err := run(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// Wait says what comes of the waits for events of a name, and of the calls of that name.
type Wait struct {
	env    *Env
	name   string
	times  int
	used   int
	unused bool
}

// Wait begins to say what comes of the waits, or calls, of a name.
func (e *Env) Wait(name string) *Wait {
	e.t.Helper()
	if err := protocol.CheckStep(name); err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waits[name] == nil {
		e.waits[name] = &Wait{env: e, name: name}
	}
	return e.waits[name]
}

// TimeOut lets so many waits end without an event as soon as they begin. An event that is there already is not taken. A
// call ends without its child, which is terminated.
func (w *Wait) TimeOut(times int) *Wait {
	w.env.t.Helper()
	if times < 1 {
		w.env.t.Fatalf("workflowtest: Wait(%q).TimeOut: so many waits: %d; allowed is 1 and more", w.name, times)
	}
	w.env.mu.Lock()
	defer w.env.mu.Unlock()
	w.times += times
	return w
}

// Maybe lets what is said of the waits go unused: without it, the test fails if it is.
func (w *Wait) Maybe() *Wait {
	w.env.mu.Lock()
	defer w.env.mu.Unlock()
	w.unused = true
	return w
}

// expires is asked when a wait begins.
func (e *Env) expires(k protocol.Key) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	k.Count = 0
	e.seen[k] = true
	w := e.waits[k.Name]
	if w == nil || w.used == w.times {
		return false
	}
	w.used++
	return true
}
