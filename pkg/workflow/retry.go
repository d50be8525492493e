package workflow

import (
	"errors"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Retries sets how often a step is tried again after its first attempt, 0 to MaxRetries times, and how long it waits in
// between: a delay of 0 to 365 days, and how it grows.
func Retries(limit int, delay time.Duration, backoff Backoff) StepOption {
	return retries{limit, delay, backoff}
}

type retries struct {
	limit   int
	delay   time.Duration
	backoff Backoff
}

func (r retries) applyStep(o *stepOptions) error {
	switch {
	case r.limit < 0 || r.limit > MaxRetries:
		return &OptionError{Option: "Retries limit", Value: r.limit, Allowed: "0 to 10000"}
	case r.delay < 0 || r.delay > MaxWait:
		return &OptionError{Option: "Retries delay", Value: r.delay, Allowed: "0 to 365 days"}
	case r.backoff != Constant && r.backoff != Linear && r.backoff != Exponential:
		return &OptionError{Option: "Retries backoff", Value: r.backoff, Allowed: "Constant, Linear or Exponential"}
	}
	o.config.Retries, o.config.Delay, o.config.Backoff = r.limit, protocol.Duration(r.delay), string(r.backoff)
	return nil
}

// MaxDelay caps the delay between attempts of a step. Without it the cap is MaxWait.
func MaxDelay(d time.Duration) StepOption { return maxDelay(d) }

type maxDelay time.Duration

func (m maxDelay) applyStep(o *stepOptions) error {
	o.config.MaxDelay = protocol.Duration(m)
	return checkDuration("MaxDelay", time.Duration(m))
}

// Jitter varies the delay between attempts of a step at random, by up to a part of it from 0 to 1 in both directions,
// but never above its cap: with 0.2 a delay of 10 s becomes one of 8 s to 12 s. So steps that failed together are not
// tried again together. The default is 0.
func Jitter(part float64) StepOption { return jitter(part) }

type jitter float64

func (j jitter) applyStep(o *stepOptions) error {
	if !(j >= 0 && j <= 1) { // not a number is neither
		return &OptionError{Option: "Jitter", Value: float64(j), Allowed: "0 to 1"}
	}
	o.config.Jitter = float64(j)
	return nil
}

// DelayFunc computes the delay between attempts of a step in place of the one that [Retries] gives: 0 to 365 days, from
// the number of the attempt that failed (see [Attempt]) and its error (see [RetryIf]). What it returns is recorded, and
// so the same whatever crashes. It has 5 s; if it does not return in time, panics or returns another value, the step
// fails at once with a failure named RetryPolicyError. The status shows the delay as dynamic. Options that change a
// delay, [Jitter] and [MaxDelay], cannot be combined with it.
func DelayFunc(delay func(attempt int, err error) time.Duration) StepOption { return delayFunc(delay) }

type delayFunc func(attempt int, err error) time.Duration

func (f delayFunc) applyStep(o *stepOptions) error {
	if f == nil {
		return &OptionError{Option: "DelayFunc", Value: "nil", Allowed: "a function"}
	}
	o.config.Dynamic = true
	name := o.name
	o.code.Delay = func(attempt int, err error) time.Duration { return f(attempt, told(name, err)) }
	return nil
}

// RetryIf says whether a step is tried again after an attempt that failed with err, as long as [Retries] allows it. If
// it returns false, the step fails with err. An error that [NonRetryable] marked is never asked about.
//
// The error is the one that the body returned, of its own type, or a [*StepError] for what the body did not return: a
// timeout (errors.Is(err, context.DeadlineExceeded) holds), a missing heartbeat, a panic. The function has 5 s; if it does
// not return in time or panics, the step fails at once with a failure named RetryPolicyError.
func RetryIf(predicate func(err error) bool) StepOption { return retryIf(predicate) }

type retryIf func(err error) bool

func (f retryIf) applyStep(o *stepOptions) error {
	if f == nil {
		return &OptionError{Option: "RetryIf", Value: "nil", Allowed: "a function"}
	}
	name := o.name
	o.code.RetryIf = func(err error) bool { return f(told(name, err)) }
	return nil
}

// told is the error of an attempt as the functions of a step are told of it.
func told(step string, err error) error {
	if f, ok := errors.AsType[*Failure](err); ok && error(f) == err {
		return &StepError{Step: step, Failure: f}
	}
	return err
}

// LostRuns sets how many runs may be lost while a step is running before it fails. Lost runs are deaths of the runner,
// not failures of the body: they do not use up retries.
func LostRuns(n int) StepOption { return lostRuns(n) }

type lostRuns int

func (l lostRuns) applyStep(o *stepOptions) error {
	if l < 1 || l > MaxRetries {
		return &OptionError{Option: "LostRuns", Value: int(l), Allowed: "1 to 10000"}
	}
	o.config.LostRuns = int(l)
	return nil
}
