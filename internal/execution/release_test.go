package execution

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestReleaseLeavesOtherBranchesAlone: a branch that ends for the shutdown neither ends the contexts of the others,
// whose bodies may finish, nor makes its group return.
func TestReleaseLeavesOtherBranchesAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	between, goOn, body, finish := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	ended, waited := make(chan struct{}), make(chan error, 1)
	x := r.start(Settings{}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		g := s.Group(ctx)
		g.Go(func(ctx context.Context) error {
			return do(ctx, "long", func(ctx context.Context) (json.RawMessage, error) {
				close(body)
				<-finish
				return nil, ctx.Err()
			})
		})
		g.Go(func(ctx context.Context) error {
			defer close(ended)
			close(between)
			<-goOn
			return do(ctx, "never", nothing)
		})
		waited <- g.Wait()
		return nil, nil
	})
	<-body
	<-between
	released := make(chan struct{})
	go func() { defer close(released); x.Release(t.Context(), time.Second) }()
	r.reaches(x, releasing)
	close(goOn)
	<-ended
	natstest.Eventually(t, natstest.Patience, "the branch is done", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.lanes) == 2
	})
	close(finish)
	<-released
	if e := r.event(x, Dropped); !errors.Is(e.Err, ErrReleased) {
		t.Errorf("dropped for %v", e.Err)
	}
	if !r.has(protocol.EntryStepCompleted, "long") || !r.has(protocol.EntryReleased, "") {
		t.Errorf("the log holds %+v, want the result of the long body and the release", r.entries())
	}
	select {
	case err := <-waited:
		t.Errorf("the group returned %v to the code", err)
	default:
	}
}

// TestParkedIsNotRevivedAtShutdown: there would be nobody left to release it.
func TestParkedIsNotRevivedAtShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	callIn, ended := make(chan struct{}), make(chan struct{})
	x := r.start(Settings{ShortWait: time.Nanosecond}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		go func() {
			defer close(ended)
			<-callIn
			_ = do(ctx, "late", nothing)
		}()
		_, _, err = s.WaitForEvent(ctx, "go on", "go", time.Hour)
		return nil, err
	})
	r.event(x, Parked)
	x.Release(t.Context(), time.Second)
	close(callIn)
	<-ended
	if n := r.nudges.Load(); n != 0 {
		t.Errorf("%d nudges were stored", n)
	}
	if x.Reclaim() {
		t.Error("the execution goes on")
	}
	if e := r.event(x, Dropped); !errors.Is(e.Err, ErrReleased) {
		t.Errorf("dropped for %v", e.Err)
	}
}

// TestToldToStopBeforeRelease: code does not hear that its runner shuts down, although the contexts end a moment before the
// execution is given back.
func TestToldToStopBeforeRelease(t *testing.T) {
	t.Parallel()
	body := make(chan struct{})
	for name, p := range map[string]part{
		"a wait": nap("short"),
		"a body": func(ctx context.Context) error {
			return do(ctx, "step", func(ctx context.Context) (json.RawMessage, error) { close(body); <-ctx.Done(); return nil, ctx.Err() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			x := r.start(Settings{ShortWait: memory}, all(p))
			if name == "a body" {
				<-body
			} else {
				r.still(x, 0)
			}
			x.mu.Lock()
			x.cancel(ErrReleased)
			x.mu.Unlock()
			natstest.Eventually(t, natstest.Patience, "the code has ended", func() bool {
				x.mu.Lock()
				defer x.mu.Unlock()
				for _, l := range x.lanes {
					return l.inside == 0 && x.bodies == 0 || x.phase != running
				}
				return true
			})
			x.Release(t.Context(), time.Second)
			if e := r.event(x, Dropped); !errors.Is(e.Err, ErrReleased) || r.has(protocol.EntryFailed, "") || r.has(protocol.EntryGivenUp, "") {
				t.Errorf("dropped for %v; the log has %+v", e.Err, r.entries())
			}
		})
	}
}
