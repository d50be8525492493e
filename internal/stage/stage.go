// Package stage lets package agenttest see when a host's agents rest, and tell them the time.
//
// It must never change what a host does that is not on a stage.
package stage

import (
	"context"
	"sync/atomic"
	"time"
)

// Stage is what a test has in its hands of the agents of its hosts. A nil Stage is the world.
type Stage struct {
	now            func() time.Time
	begun, working atomic.Int64
}

// New makes a Stage on which now is the time.
func New(now func() time.Time) *Stage { return &Stage{now: now} }

// Now is the moment that agents take for the present one.
func (s *Stage) Now() time.Time {
	if s == nil {
		return time.Now()
	}
	return s.now()
}

// Wait is how long d is, for whoever waits in the world's time: on a stage, nobody waits.
func (s *Stage) Wait(d time.Duration) time.Duration {
	if s == nil {
		return d
	}
	return 0
}

// Begin tells that an agent begins to work, End that it has come to the end of what it began.
func (s *Stage) Begin() {
	if s != nil {
		s.begun.Add(1)
		s.working.Add(1)
	}
}

// End is the end of what Begin began.
func (s *Stage) End() {
	if s != nil {
		s.working.Add(-1)
	}
}

// Rests reports whether no agent works, and how many times one has begun.
func (s *Stage) Rests() (begun uint64, rests bool) {
	rests = s.working.Load() == 0
	return uint64(s.begun.Load()), rests
}

type key struct{}

// With puts the host that is served with the returned context on a stage.
func With(ctx context.Context, s *Stage) context.Context { return context.WithValue(ctx, key{}, s) }

// From is the stage that ctx is on; nil if it is on none.
func From(ctx context.Context) *Stage {
	s, _ := ctx.Value(key{}).(*Stage)
	return s
}
