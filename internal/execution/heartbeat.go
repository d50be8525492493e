package execution

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/engine"
)

// Errors about signs of life.
var (
	// ErrNoBody is returned by a heartbeat that does not come from the body of a step.
	ErrNoBody = errors.New("not called from the body of a step: pass on the context that the body got")
	// ErrBodyEnded is returned by a heartbeat of a body that has returned, or was given up.
	ErrBodyEnded = errors.New("the attempt has ended")
	// errSilent ends the context of an attempt.
	errSilent = errors.New("the attempt gave no sign of life")
)

// What a body says of itself goes to the log at once, and then at most once per half of the time it may be silent,
// within these bounds: it is read after a crash, and a log is kept for long.
const (
	minBeat = time.Second
	maxBeat = 30 * time.Second
)

func beatEvery(timeout time.Duration) time.Duration {
	if timeout == 0 {
		return maxBeat
	}
	return min(max(timeout/2, minBeat), maxBeat)
}

// pulse follows the signs of life of one attempt. Its fields are guarded by the execution's mutex.
type pulse struct {
	x       *Execution
	step    *engine.Step
	timeout time.Duration // 0: it may be silent for ever
	heard   time.Time
	silence *time.Timer

	next   time.Time // when something may be recorded again
	later  *time.Timer
	unsaid json.RawMessage // newest details that are not recorded; nil: none
	over   bool
}

// watch calls give up when the body has been silent for too long.
func (p *pulse) watch(giveUp context.CancelCauseFunc) {
	if p.timeout == 0 {
		return
	}
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	p.heard = time.Now()
	p.silence = time.AfterFunc(p.timeout, func() {
		p.x.mu.Lock()
		defer p.x.mu.Unlock()
		switch silent := time.Since(p.heard); {
		case p.over:
		case silent < p.timeout:
			p.silence.Reset(p.timeout - silent)
		default:
			giveUp(errSilent)
		}
	})
}

// Heartbeat is a sign of life of the body that ctx belongs to, with details for the next attempt.
func Heartbeat(ctx context.Context, details json.RawMessage) error {
	a := AttemptFrom(ctx)
	if a == nil {
		return ErrNoBody
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p := &a.pulse
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	if p.over {
		return ErrBodyEnded
	}
	p.heard, p.unsaid = time.Now(), details
	if wait := time.Until(p.next); wait > 0 {
		if p.later == nil {
			p.later = time.AfterFunc(wait, p.sayLater)
		}
		return nil
	}
	p.say()
	return nil
}

func (p *pulse) sayLater() {
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	p.later = nil
	p.say()
}

// say records the newest details. x.mu is held.
func (p *pulse) say() {
	if p.over || p.unsaid == nil || p.step.Lost || p.x.phase != running && p.x.phase != releasing {
		return
	}
	p.x.m.Heartbeat(p.step, p.unsaid, time.Now().UTC())
	p.unsaid = nil
	p.next = time.Now().Add(beatEvery(p.timeout))
	p.x.armSoft()
}

// end records what a body said last that did not complete the step. x.mu is held.
func (p *pulse) end(completed bool) {
	if !completed {
		p.say()
	}
	p.over = true
	for _, t := range []*time.Timer{p.silence, p.later} {
		if t != nil {
			t.Stop()
		}
	}
}
