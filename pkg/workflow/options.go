package workflow

import (
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// StepOption is an option of [Do] and [Exec].
type StepOption interface {
	applyStep(*protocol.StepConfig) error
}

// WaitOption is an option of [WaitForEvent].
type WaitOption interface{ applyWait(*waitOptions) error }

// CreateOption is an option of Create.
type CreateOption interface{ applyCreate(*createOptions) error }

type waitOptions struct{ timeout time.Duration }

type createOptions struct{ id string }

// Backoff says how the delay between attempts grows.
type Backoff string

// Kinds of backoff: with base d, the delay after the n-th failure is d, n·d or 2ⁿ⁻¹·d.
const (
	Constant    Backoff = engine.BackoffConstant
	Linear      Backoff = engine.BackoffLinear
	Exponential Backoff = engine.BackoffExponential
)

// Limits and defaults. The defaults are those of Cloudflare Workflows.
const (
	DefaultRetries      = 5
	DefaultDelay        = 10 * time.Second
	DefaultTimeout      = 10 * time.Minute
	DefaultEventTimeout = 24 * time.Hour
	// DefaultLostRuns is how many runs may be lost in a step (its runner died without a word) before it fails.
	DefaultLostRuns = 10
	MaxRetries      = 10_000
	// MaxWait bounds sleeps, waits and delays.
	MaxWait = engine.MaxWait
)

func defaultStep() protocol.StepConfig {
	return protocol.StepConfig{
		Retries: DefaultRetries, Delay: protocol.Duration(DefaultDelay), Backoff: engine.BackoffExponential,
		Timeout: protocol.Duration(DefaultTimeout), LostRuns: DefaultLostRuns,
	}
}

// Timeout bounds one attempt of a step, or a wait for an event. A step's body sees its context end; the attempt
// counts as failed. The default is DefaultTimeout for a step and DefaultEventTimeout for a wait.
func Timeout(d time.Duration) TimeoutOption { return TimeoutOption(d) }

// TimeoutOption is made by [Timeout].
type TimeoutOption time.Duration

func (t TimeoutOption) applyStep(c *protocol.StepConfig) error {
	c.Timeout = protocol.Duration(t)
	return checkDuration("Timeout", time.Duration(t))
}

func (t TimeoutOption) applyWait(o *waitOptions) error {
	o.timeout = time.Duration(t)
	return checkDuration("Timeout", time.Duration(t))
}

func checkDuration(option string, d time.Duration) error {
	if d <= 0 || d > MaxWait {
		return &OptionError{Option: option, Value: d, Allowed: "more than 0 and at most 365 days"}
	}
	return nil
}

// Retries sets how often a step is tried again after its first attempt, and how long it waits in between.
func Retries(limit int, delay time.Duration, backoff Backoff) StepOption {
	return retries{limit, delay, backoff}
}

type retries struct {
	limit   int
	delay   time.Duration
	backoff Backoff
}

func (r retries) applyStep(c *protocol.StepConfig) error {
	switch {
	case r.limit < 0 || r.limit > MaxRetries:
		return &OptionError{Option: "Retries limit", Value: r.limit, Allowed: "0 to 10000"}
	case r.delay < 0 || r.delay > MaxWait:
		return &OptionError{Option: "Retries delay", Value: r.delay, Allowed: "0 to 365 days"}
	case r.backoff != Constant && r.backoff != Linear && r.backoff != Exponential:
		return &OptionError{Option: "Retries backoff", Value: r.backoff, Allowed: "Constant, Linear or Exponential"}
	}
	c.Retries, c.Delay, c.Backoff = r.limit, protocol.Duration(r.delay), string(r.backoff)
	return nil
}

// MaxDelay caps the delay between attempts of a step.
func MaxDelay(d time.Duration) StepOption { return maxDelay(d) }

type maxDelay time.Duration

func (m maxDelay) applyStep(c *protocol.StepConfig) error {
	c.MaxDelay = protocol.Duration(m)
	return checkDuration("MaxDelay", time.Duration(m))
}

// LostRuns sets how many runs may be lost while a step is running before it fails. Lost runs are deaths of the runner,
// not failures of the body: they do not use up retries.
func LostRuns(n int) StepOption { return lostRuns(n) }

type lostRuns int

func (l lostRuns) applyStep(c *protocol.StepConfig) error {
	if l < 1 || l > MaxRetries {
		return &OptionError{Option: "LostRuns", Value: int(l), Allowed: "1 to 10000"}
	}
	c.LostRuns = int(l)
	return nil
}

// ID names the instance to create. Without it the id is a random UUID.
func ID(id string) CreateOption { return instanceID(id) }

type instanceID string

func (i instanceID) applyCreate(o *createOptions) error {
	o.id = string(i)
	return protocol.CheckInstance(o.id)
}
