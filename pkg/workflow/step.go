package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// Do runs a step: the body once for real, with retries; afterwards its recorded result.
//
// The name identifies the step, together with how often it was used before in this run: 1 to 256 bytes without
// control characters. The body gets a context that ends with its attempt; it may run more than once (see [Step] for
// its idempotency key), but its result is recorded once. When the attempts are used up, Do returns a [*StepError] with
// the last failure. An error that [NonRetryable] marked uses them up at once.
//
// If ctx ends, Do returns its cause and records nothing.
func Do[T any](ctx context.Context, name string, body func(ctx context.Context) (T, error), options ...StepOption) (T, error) {
	var zero T
	scope, err := execution.From(ctx)
	if err != nil {
		return zero, fmt.Errorf("step %q: %w", name, err)
	}
	o, err := newStepOptions(name, options)
	if err != nil {
		return zero, err
	}
	if body == nil {
		return zero, fmt.Errorf("step %q: %w", name, &OptionError{Option: "body", Value: "nil", Allowed: "a function"})
	}
	if err := checkUndo[T](o); err != nil {
		return zero, err
	}
	what := fmt.Sprintf("result of step %q", name)
	// A type that cannot be encoded is refused before the body runs. That its zero value alone cannot says nothing.
	if _, err := json.Marshal(zero); isUnsupported(err) {
		return zero, &EncodingError{What: what, Err: err}
	}
	o.code.Body = func(ctx context.Context) (json.RawMessage, error) {
		result, err := body(ctx)
		if err != nil {
			return nil, err
		}
		raw, err := encode(result, what, scope.MaxValue())
		return raw, hide(err, o.config.Sensitive)
	}
	step, err := scope.Do(ctx, name, o.config, o.code)
	switch {
	case err != nil:
		return zero, fmt.Errorf("step %q: %w", name, err)
	case step.Error != nil:
		return zero, &StepError{Step: name, Failure: step.Error}
	}
	result, err := decode[T](step.Result, what)
	return result, hide(err, o.config.Sensitive || step.Config.Sensitive)
}

func isUnsupported(err error) bool {
	_, ok := errors.AsType[*json.UnsupportedTypeError](err)
	return ok
}

// Exec is Do for a body without a result.
func Exec(ctx context.Context, name string, body func(ctx context.Context) error, options ...StepOption) error {
	var without func(ctx context.Context) (struct{}, error)
	if body != nil {
		without = func(ctx context.Context) (struct{}, error) { return struct{}{}, body(ctx) }
	}
	_, err := Do(ctx, name, without, options...)
	return err
}

// StepConfig is how a step is tried.
type StepConfig = protocol.StepConfig

// Attempt is what the body of a step can know about itself.
type Attempt struct {
	// Step is the step's name, Count how often it was used up to now in this run, from 1.
	Step  string
	Count int
	// Number is the attempt's number, from 1. MaxAttempts is how many there are if all fail, 0 without limit. Attempts
	// whose runner died are numbered, but do not count against the limit.
	Number      int
	MaxAttempts int
	// Config is what the step's options came to when it first ran: with defaults filled in.
	Config StepConfig
	// IdempotencyKey is the same for every attempt of this step of this instance, and for no other step. After a restart
	// of the instance, the steps that run again have another one. Hand it to services that suppress repetitions.
	IdempotencyKey string
	// Fence rises with every run of the instance: a service that keeps the highest can refuse a late writer.
	Fence uint64

	heartbeat string // JSON
}

// Step tells the body of a step about its attempt. Outside of a body it is the zero Attempt.
func Step(ctx context.Context) Attempt {
	a := execution.AttemptFrom(ctx)
	if a == nil {
		return Attempt{}
	}
	return Attempt{
		Step: a.Name, Count: a.Count, Number: a.Number, MaxAttempts: max(a.Config.Retries+1, 0), Config: a.Config,
		IdempotencyKey: a.IdempotencyKey, Fence: a.Fence, heartbeat: string(a.Heartbeat),
	}
}

// Sleep waits for a duration of 0 to 365 days, counted from its first run, whatever crashes in between. If ctx ends,
// it returns its cause.
func Sleep(ctx context.Context, name string, d time.Duration) error {
	if d < 0 || d > MaxWait {
		return fmt.Errorf("sleep %q: %w", name, &OptionError{Option: "duration", Value: d, Allowed: "0 to 365 days"})
	}
	return sleep(ctx, name, func(now time.Time) time.Time { return now.Add(d) })
}

// SleepUntil waits until a moment at most 365 days away; a moment that has passed is over at once. The moment given
// in the first run counts.
func SleepUntil(ctx context.Context, name string, moment time.Time) error {
	if time.Until(moment) > MaxWait {
		return fmt.Errorf("sleep %q: %w", name, &OptionError{Option: "moment", Value: moment, Allowed: "at most 365 days away"})
	}
	return sleep(ctx, name, func(time.Time) time.Time { return moment })
}

func sleep(ctx context.Context, name string, until func(time.Time) time.Time) error {
	scope, err := execution.From(ctx)
	if err != nil {
		return fmt.Errorf("sleep %q: %w", name, err)
	}
	if err := protocol.CheckStep(name); err != nil {
		return err
	}
	if err := scope.Sleep(ctx, name, until); err != nil {
		return fmt.Errorf("sleep %q: %w", name, err)
	}
	return nil
}

// Received is an event that a wait took.
type Received[T any] struct {
	Type    string
	Payload T
	// Sent is when the event was sent.
	Sent time.Time
}

// WaitForEvent waits for an event of a type: one that was sent before and that no wait has taken, else the next.
// Each event ends one wait, the oldest. The default timeout is DefaultEventTimeout; when it is over, the error is a
// [*TimeoutError], for which errors.Is(err, context.DeadlineExceeded) holds, in every run.
func WaitForEvent[T any](ctx context.Context, name, eventType string, options ...WaitOption) (Received[T], error) {
	var zero Received[T]
	scope, err := execution.From(ctx)
	if err != nil {
		return zero, fmt.Errorf("wait %q: %w", name, err)
	}
	o := waitOptions{timeout: DefaultEventTimeout}
	for _, option := range options {
		if err := option.applyWait(&o); err != nil {
			return zero, fmt.Errorf("wait %q: %w", name, err)
		}
	}
	if err := protocol.CheckStep(name); err != nil {
		return zero, err
	}
	if err := protocol.CheckEventType(eventType); err != nil {
		return zero, fmt.Errorf("wait %q: %w", name, err)
	}
	received, failure, err := scope.WaitForEvent(ctx, name, eventType, o.timeout)
	switch {
	case err != nil:
		return zero, fmt.Errorf("wait %q: %w", name, err)
	case failure != nil:
		return zero, &TimeoutError{Step: name, Failure: failure}
	}
	payload, err := decode[T](received.Payload, fmt.Sprintf("payload of event %q", eventType))
	return Received[T]{Type: eventType, Payload: payload, Sent: received.Sent}, err
}
