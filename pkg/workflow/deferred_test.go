package workflow

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestDeferredFunctionsRunAtEveryPark counts the runs of what code defers: one at each park and one at the end, in the
// function and in branches of it. A call into the engine ends them where it stands, and what they do with the result, or
// panic with, is ignored; those deferred before still run.
func TestDeferredFunctionsRunAtEveryPark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var runs, outer, inner, branch, afterCall, recovered atomic.Int64
	code := func(ctx context.Context, _ Event[int]) (result int, err error) {
		run := runs.Add(1)
		defer outer.Add(1)
		defer func() {
			if run < 3 { // it parks: the function has not returned
				result, err = 13, errors.New("ignored")
				panic("ignored")
			}
		}()
		defer func() {
			inner.Add(1)
			if recover() != nil {
				recovered.Add(1)
			}
			if run < 3 {
				_ = Exec(ctx, "in a deferred function", func(context.Context) error { afterCall.Add(1); return nil })
				afterCall.Add(1)
			}
		}()
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			defer branch.Add(1)
			return Sleep(ctx, "in a branch", nap)
		})
		if err := g.Wait(); err != nil {
			return 0, err
		}
		return 7, Sleep(ctx, "second", nap)
	}
	b.serve(parks(), Define("w", code))
	b.create("w", "a", 1)
	b.send("w", "a", "unasked", 1) // a wake without effect
	s := b.complete("w", "a")
	parked := int64(b.kinds("w", "a")[protocol.EntryParked])
	if string(s.Output) != "7" || parked != 2 || runs.Load() != parked+1 {
		t.Errorf("output %s after %d parks and %d runs, want 7 after 2 and 3", s.Output, parked, runs.Load())
	}
	if outer.Load() != runs.Load() || inner.Load() != runs.Load() || branch.Load() != runs.Load() {
		t.Errorf("in %d runs, deferred functions ran %d, %d and, in a branch, %d times", runs.Load(), outer.Load(), inner.Load(), branch.Load())
	}
	if afterCall.Load() != 0 || recovered.Load() != 0 || len(s.Steps) != 2 {
		t.Errorf("a deferred function came past a step %d times, recovered %d times, and the steps are %+v", afterCall.Load(), recovered.Load(), s.Steps)
	}
}

// TestDeferredFunctionsAtShutdown: giving the instance back ends the goroutines of its code in the same way, and nothing
// that a deferred function does is recorded.
func TestDeferredFunctionsAtShutdown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	working, ran := make(chan struct{}, 2), make(chan struct{}, 2)
	code := func(ctx context.Context, _ Event[int]) (int, error) {
		defer func() {
			_ = recover()
			ran <- struct{}{}
			_ = Sleep(ctx, "never", time.Hour)
		}()
		err := Exec(ctx, "works", func(ctx context.Context) error {
			working <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		return 1, err
	}
	b.grace = 50 * time.Millisecond
	stop := b.serve(parks(), Define("w", code))
	b.create("w", "a", 1)
	<-working
	stop()
	<-ran
	if n := b.kinds("w", "a"); n[protocol.EntryWaiting]+n[protocol.EntryCompleted]+n[protocol.EntryFailed] != 0 || n[protocol.EntryReleased] != 1 {
		t.Errorf("the log has %v", n)
	}
}
