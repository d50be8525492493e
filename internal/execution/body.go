package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Attempt is what the body of a step is told about itself.
type Attempt struct {
	protocol.Key
	Number int
	// IdempotencyKey is the same for every attempt of the step.
	IdempotencyKey string
	// Fence is the log sequence that licensed the body: it rises with every run.
	Fence uint64
}

// AttemptFrom returns the attempt that ctx belongs to, nil outside of a body.
func AttemptFrom(ctx context.Context) *Attempt {
	a, _ := ctx.Value(bodyKey{}).(*Attempt)
	return a
}

// Body is the body of a step. It runs in a goroutine of its own.
type Body func(ctx context.Context) (json.RawMessage, error)

// errTimeout ends the context of an attempt.
var errTimeout = errors.New("the attempt timed out")

// Do runs a step until it is done: its recorded outcome, or its body with retries. The result returns at once; it is
// durable before the next effect. A failure is the last one of the step.
func (s *Scope) Do(ctx context.Context, name string, config protocol.StepConfig, body Body) (json.RawMessage, *protocol.Failure, error) {
	s.enter()
	step, err := s.x.m.Do(s.branch, name, config)
	if err != nil {
		s.leave()
		return nil, nil, err
	}
	for !step.Done {
		if err := s.attempt(ctx, step, body); err != nil {
			s.leave()
			return nil, nil, err
		}
	}
	s.leave()
	return step.Result, step.Error, nil
}

// attempt waits until the next attempt may begin, runs it and records its outcome. x.mu is held before and after. It
// returns an error only if ctx ended: then nothing is recorded.
func (s *Scope) attempt(ctx context.Context, step *engine.Step, body Body) error {
	x := s.x
	if step.Until != nil {
		x.due()
	}
	for step.Until != nil {
		if err := s.block(ctx, step.Key); err != nil {
			return err
		}
	}
	if x.phase != running && !x.wakeUp() {
		s.exit()
	}
	if ctx.Err() != nil {
		x.m.Abandon(step.Key)
		return context.Cause(ctx)
	}
	a := s.begin(step)
	x.bodies++
	x.armSoft()
	x.mu.Unlock()
	result, failure := x.run(ctx, a, time.Duration(step.Config.Timeout), body)
	x.mu.Lock()
	x.bodies--
	x.activity++
	x.changed.Broadcast()
	switch {
	case x.phase == over || x.phase == finishing:
		s.exit()
	case failure == nil:
		x.m.Complete(step, result, s.x.Now().UTC())
		return nil
	case ctx.Err() != nil:
		if x.phase == releasing {
			s.exit()
		}
		x.m.Abandon(step.Key)
		return context.Cause(ctx)
	default:
		x.m.FailAttempt(step, failure, s.x.Now().UTC())
	}
	return nil
}

// begin records the start of an attempt and makes durable what must be before its body runs.
func (s *Scope) begin(step *engine.Step) *Attempt {
	x := s.x
	n := x.m.Begin(step, s.x.Now().UTC())
	need := x.m.Hard()
	if x.m.StartIsHard() {
		need = x.m.Position()
	}
	if !x.flush(need) || x.phase != running && !x.wakeUp() { // meanwhile it may even have parked
		s.exit()
	}
	return &Attempt{
		Key: step.Key, Number: n, Fence: max(x.expected, x.History.Incarnation),
		IdempotencyKey: fmt.Sprintf("%s/%d/%s/%d", x.Instance, x.History.Incarnation, step.Name, step.Count),
	}
}

type outcome struct {
	result  json.RawMessage
	failure *protocol.Failure
}

// run calls the body in a goroutine of its own, bounded by the timeout of the attempt.
func (x *Execution) run(ctx context.Context, a *Attempt, timeout time.Duration, body Body) (json.RawMessage, *protocol.Failure) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, bodyKey{}, a))
	defer cancel(nil)
	if timeout > 0 {
		t := time.AfterFunc(timeout, func() { cancel(errTimeout) })
		defer t.Stop()
	}
	ended := make(chan outcome, 1)
	go func() {
		o := outcome{failure: &protocol.Failure{Name: protocol.FailurePanic, Message: "the body ended its goroutine"}}
		defer func() { ended <- o }()
		result, failure, returned := protect(func() (json.RawMessage, error) {
			if x.Body != nil {
				return x.Body(ctx, a, body)
			}
			return body(ctx)
		})
		if returned {
			o = outcome{result, failure}
		}
	}()
	var o outcome
	select {
	case o = <-ended:
	case <-ctx.Done():
		o = x.grace(ctx, ended)
	}
	if o.failure != nil && errors.Is(context.Cause(ctx), errTimeout) {
		return nil, &protocol.Failure{
			Name: protocol.FailureTimeout, Message: fmt.Sprintf("attempt %d timed out after %v", a.Number, timeout),
			Causes: []protocol.Cause{{Name: o.failure.Name, Message: o.failure.Message}},
		}
	}
	return o.result, o.failure
}

// grace gives a body whose context ended a moment to return; then its result no longer counts.
func (x *Execution) grace(ctx context.Context, ended <-chan outcome) outcome {
	t := time.NewTimer(x.Grace)
	defer t.Stop()
	select {
	case o := <-ended:
		return o
	case <-t.C:
		x.Logger().WarnContext(ctx, "a step body goes on although its context has ended")
		return outcome{failure: protocol.NewFailure(context.Cause(ctx))}
	}
}
