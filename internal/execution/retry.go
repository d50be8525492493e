package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Code is what a step calls.
type Code struct {
	Body Body
	// RetryIf says whether another attempt can help after one that failed with err; nil: it can.
	RetryIf func(err error) bool
	// Delay is the time until the next attempt, 0 to engine.MaxWait, if the step's config leaves that to the code.
	Delay func(attempt int, err error) time.Duration
	// Undo compensates the step if the instance fails; nil: nothing does.
	Undo *Undo
}

// outcome is how an attempt ended.
type outcome struct {
	result json.RawMessage
	// object is where the result is if it is too large for a message.
	object  *protocol.Object
	failure *protocol.Failure
	// err is what the body returned, or the failure if it returned nothing.
	err error
	// again is set if another attempt follows, delay after it.
	again bool
	delay time.Duration
}

// judge decides what follows a failed attempt of a step, which asks the code where it wants to be asked. x.mu is not
// held. The step's fields do not change meanwhile: its body counts as running.
func (x *Execution) judge(ctx context.Context, step *engine.Step, a *Attempt, code Code, o outcome) outcome {
	if o.failure == nil || ctx.Err() != nil || !step.MayRetry(o.failure) {
		return o
	}
	if code.RetryIf != nil {
		again, err := ask(x, ctx, func() bool { return code.RetryIf(o.err) })
		if err != nil {
			return unjudged(o, fmt.Sprintf("the function that says whether step %q is retried %v", step.Name, err))
		}
		if !again {
			return o
		}
	}
	o.again, o.delay = true, engine.Delay(*step.Config, step.Failed+1, rand.Float64())
	if !step.Config.Dynamic || code.Delay == nil {
		return o
	}
	delay, err := ask(x, ctx, func() time.Duration { return code.Delay(a.Number, o.err) })
	if err == nil && (delay < 0 || delay > engine.MaxWait) {
		err = fmt.Errorf("returned %v, allowed is 0 to 365 days", delay)
	}
	if err != nil {
		return unjudged(o, fmt.Sprintf("the delay function of step %q %v", step.Name, err))
	}
	o.delay = delay
	return o
}

// unjudged is the outcome of an attempt after which the code could not say how to go on.
func unjudged(o outcome, message string) outcome {
	causes := append([]protocol.Cause{{Name: o.failure.Name, Message: o.failure.Message}}, o.failure.Causes...)
	return outcome{failure: protocol.NewFailure(&protocol.Failure{
		Name: protocol.FailureRetryPolicy, Message: message, Terminal: true, Causes: causes,
	})}
}

// ask calls a function of the code that decides something, for at most x.Settings.Judge. The error says what it did
// instead of returning.
func ask[T any](x *Execution, ctx context.Context, question func() T) (T, error) {
	type reply struct {
		value T
		err   error
	}
	replied := make(chan reply, 1)
	go func() {
		r := reply{err: errors.New("ended its goroutine")}
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("panicked: %v", p)
			}
			replied <- r
		}()
		r.value = question()
		r.err = nil
	}()
	t := time.NewTimer(x.Judge)
	defer t.Stop()
	select {
	case r := <-replied:
		return r.value, r.err
	case <-t.C:
		x.Logger().WarnContext(ctx, "a function that decides about retries does not return")
		var zero T
		return zero, fmt.Errorf("did not return within %v", x.Judge)
	}
}
