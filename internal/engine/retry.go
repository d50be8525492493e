package engine

import (
	"math"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Kinds of backoff.
const (
	BackoffConstant    = "constant"
	BackoffLinear      = "linear"
	BackoffExponential = "exponential"
)

// MaxWait is the longest that anything waits.
const MaxWait = 365 * 24 * time.Hour

// Delay is the time between the n-th failed attempt (from 1) and the next one.
func Delay(c protocol.StepConfig, n int) time.Duration {
	if c.Delay <= 0 {
		return 0 // and not nothing times infinity
	}
	base := float64(c.Delay)
	switch c.Backoff {
	case BackoffLinear:
		base *= float64(n)
	case BackoffExponential:
		base *= math.Pow(2, float64(n-1))
	}
	limit := float64(MaxWait)
	if c.MaxDelay > 0 {
		limit = min(limit, float64(c.MaxDelay))
	}
	return time.Duration(min(base, limit))
}
