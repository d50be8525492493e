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

// Delay is the time between the n-th failed attempt (from 1) and the next one. Chance, from 0 to below 1, says where in
// the range that the jitter allows it lies: around the delay without jitter, but never above what caps it.
func Delay(c protocol.StepConfig, n int, chance float64) time.Duration {
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
	delay := min(base, limit)
	delay += delay * c.Jitter * (2*chance - 1)
	if delay > limit { // mirrored: cut off, half of those that reach the cap would come at one moment
		delay = 2*limit - delay
	}
	return time.Duration(delay)
}

// MayRetry reports whether the step's config allows another attempt after one that failed like this.
func (s *Step) MayRetry(f *protocol.Failure) bool {
	return !f.Terminal && (s.Config.Retries < 0 || s.Failed < s.Config.Retries)
}

// configure sets how the step is tried: as recorded when it was first named, else as the code says now.
func (s *Step) configure(config protocol.StepConfig) {
	switch byDefault := protocol.DefaultStep(); {
	case s.First == 0:
		s.Config, s.untold = &config, config != byDefault
	case s.Config == nil:
		s.Config = &byDefault
	}
}

// tellConfig is what the first entry of the step that is stored must say of its config; nil: nothing.
func (s *Step) tellConfig() *protocol.StepConfig {
	if !s.untold {
		return nil
	}
	s.untold = false
	return s.Config
}
