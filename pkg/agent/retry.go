package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Limits of Retry.
const (
	MaxAttempts   = 10_000
	MaxRetryDelay = 365 * 24 * time.Hour
)

// Retry says how often a callback is tried and how long it waits in between. It is an option of Schedule and Queue, and of Define
// for what has none of its own. What is 0 is the default: that of the class, else the one named here.
//
// Before the attempt after the n-th a random time passes, up to BaseDelay doubled n times and never over MaxDelay. When
// the last one has failed, the callback is among the dead letters.
type Retry struct {
	// MaxAttempts counts the first one, too. Default 3.
	MaxAttempts int
	// BaseDelay is what the delays grow from. Default 100ms.
	BaseDelay time.Duration
	// MaxDelay is what they never exceed. Default 3s.
	MaxDelay time.Duration
}

var defaultRetry = Retry{MaxAttempts: 3, BaseDelay: 100 * time.Millisecond, MaxDelay: 3 * time.Second}

// RetryError says which field of a Retry cannot be.
type RetryError struct {
	Field   string
	Value   any
	Allowed string
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("retry: %s %v: allowed is %s", e.Field, e.Value, e.Allowed)
}

// FailureName is how the error is called where it is stored or answered.
func (e *RetryError) FailureName() string { return "RetryError" }

// Terminal is true: the same options do not get better.
func (e *RetryError) Terminal() bool { return true }

// or fills in what is not set.
func (r Retry) or(other Retry) Retry {
	if r.MaxAttempts == 0 {
		r.MaxAttempts = other.MaxAttempts
	}
	if r.BaseDelay == 0 {
		r.BaseDelay = other.BaseDelay
	}
	if r.MaxDelay == 0 {
		r.MaxDelay = other.MaxDelay
	}
	return r
}

// check names everything that cannot be, given the defaults: a base over the default's most is wrong, too.
func (r Retry) check(defaults Retry) error {
	var errs []error
	refuse := func(field string, value any, allowed string) {
		errs = append(errs, &RetryError{Field: field, Value: value, Allowed: allowed})
	}
	if r.MaxAttempts < 0 || r.MaxAttempts > MaxAttempts {
		refuse("MaxAttempts", r.MaxAttempts, fmt.Sprintf("1 to %d, and 0 for %d", MaxAttempts, defaults.MaxAttempts))
	}
	if r.BaseDelay < 0 || r.BaseDelay > MaxRetryDelay {
		refuse("BaseDelay", r.BaseDelay, fmt.Sprintf("more than 0, up to 365 days, and 0 for %s", defaults.BaseDelay))
	}
	if r.MaxDelay < 0 || r.MaxDelay > MaxRetryDelay {
		refuse("MaxDelay", r.MaxDelay, fmt.Sprintf("more than 0, up to 365 days, and 0 for %s", defaults.MaxDelay))
	}
	if all := r.or(defaults); len(errs) == 0 && all.BaseDelay > all.MaxDelay {
		refuse("BaseDelay", all.BaseDelay, fmt.Sprintf("at most MaxDelay, which is %s", all.MaxDelay))
	}
	return errors.Join(errs...)
}

// delay is how long to wait after so many attempts.
func (r Retry) delay(attempts int) time.Duration {
	most := r.MaxDelay
	if doubled := r.BaseDelay << min(attempts, 30); doubled>>min(attempts, 30) == r.BaseDelay {
		most = min(doubled, most)
	}
	return rand.N(max(most, 1))
}

// stored is r as schedules and mail carry it; nil if it sets nothing.
func (r Retry) stored() *protocol.Retry {
	if r == (Retry{}) {
		return nil
	}
	return &protocol.Retry{MaxAttempts: r.MaxAttempts, BaseDelay: protocol.Duration(r.BaseDelay), MaxDelay: protocol.Duration(r.MaxDelay)}
}

// retryOf is what a letter carries, as far as it can be: anybody may have written it.
func retryOf(stored *protocol.Retry, defaults Retry) Retry {
	if stored == nil {
		return defaults
	}
	r := Retry{MaxAttempts: stored.MaxAttempts, BaseDelay: time.Duration(stored.BaseDelay), MaxDelay: time.Duration(stored.MaxDelay)}
	if r.check(defaults) != nil {
		return defaults
	}
	return r.or(defaults)
}

func (r Retry) applyClass(c *class) {
	if err := r.check(defaultRetry); err != nil {
		c.problem("%v", err)
		return
	}
	c.retry = r.or(defaultRetry)
}
