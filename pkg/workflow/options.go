package workflow

import (
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// WaitOption is an option of [WaitForEvent].
type WaitOption interface{ applyWait(*waitOptions) error }

type waitOptions struct{ timeout time.Duration }

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
	// DefaultRetention is how long an instance can be read after its end, MaxRetention the most that can be asked for.
	DefaultRetention = protocol.DefaultRetention
	MaxRetention     = protocol.MaxRetention
	// DefaultSteps is how many steps an instance may have; limits.steps in skein.jsonc sets another limit, of MaxSteps at
	// most. Sleeps and waits are not counted.
	DefaultSteps = protocol.DefaultStepLimit
	MaxSteps     = protocol.MaxStepLimit
	// DefaultState is how many bytes an instance may be given by its steps and waits, as JSON; limits.state in skein.jsonc
	// sets another limit, of MinState to MaxState.
	DefaultState = protocol.DefaultStateLimit
	MinState     = protocol.MinStateLimit
	MaxState     = protocol.MaxStateLimit
	// MaxConcurrency bounds concurrency.limit in skein.jsonc.
	MaxConcurrency = protocol.MaxConcurrency
	// MaxBatch is how many instances CreateBatch, TerminateBatch and DeleteBatch take.
	MaxBatch = protocol.MaxBatch
	// MaxInstanceID, MaxEventType and MaxStepName bound names, in bytes; MaxEventID is for [EventID].
	MaxInstanceID = protocol.MaxInstanceID
	MaxEventType  = protocol.MaxEventType
	MaxStepName   = protocol.MaxStepName
	MaxEventID    = protocol.MaxEventID
)

// Timeout bounds one attempt of a step, a wait for an event, or a call of another workflow. A step's body sees its context
// end; the attempt counts as failed. The default is DefaultTimeout for a step and DefaultEventTimeout for a wait; a call
// has none.
func Timeout(d time.Duration) TimeoutOption { return TimeoutOption(d) }

// TimeoutOption is made by [Timeout].
type TimeoutOption time.Duration

func (t TimeoutOption) applyStep(o *stepOptions) error {
	o.config.Timeout = protocol.Duration(t)
	return checkDuration("Timeout", time.Duration(t))
}

func (t TimeoutOption) applyCall(o *callOptions) error {
	o.timeout = time.Duration(t)
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

// ID names the instance to create. Without it the id is a random UUID; that of a [Call] or [Start] is derived from the
// step. A step that begins again after a restart finds an id that it chose itself taken.
func ID(id string) IDOption { return IDOption(id) }

// IDOption is made by [ID].
type IDOption string

func (i IDOption) applyCreate(o *createOptions) error {
	o.id = string(i)
	return protocol.CheckNewInstance(o.id)
}

func (i IDOption) applyCall(o *callOptions) error {
	o.id = string(i)
	return protocol.CheckNewInstance(o.id)
}
