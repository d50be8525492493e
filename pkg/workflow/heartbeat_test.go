package workflow

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestHeartbeatDetailsReachTheNextAttempt: a body says more than is recorded, but what it says last is.
func TestHeartbeatDetailsReachTheNextAttempt(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		execution.Settings
	}{{"in memory", execution.Settings{}}, {"parked", parks()}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			const beats = 500
			output := b.run(row.Settings, func(ctx context.Context, _ Event[int]) (any, error) {
				return Do(ctx, "count", func(ctx context.Context) (int, error) {
					var done int
					if ok, err := Step(ctx).Heartbeat(&done); err != nil || ok != (Step(ctx).Number > 1) {
						return 0, NonRetryable(errors.Join(errors.New("details of an attempt"), err))
					}
					for range beats {
						done++
						if err := Heartbeat(ctx, done); err != nil {
							return 0, err
						}
					}
					if Step(ctx).Number < 3 {
						return 0, errFlaky
					}
					return done, nil
				}, Retries(2, 10*time.Millisecond, Constant))
			})
			if output != "1500" {
				t.Errorf("output %s, want 3 times %d: each attempt goes on where the one before was", output, beats)
			}
			// Of two attempts that failed, the first and the last thing they said; of the third, perhaps the first.
			if n := b.kinds("w", "a")[protocol.EntryHeartbeat]; n < 4 || n > 5 {
				t.Errorf("%d heartbeats are recorded", n)
			}
		})
	}
}

// TestHeartbeatTimeout: an attempt that falls silent fails and is tried again; one beside it that beats goes on until both
// attempts of the other have failed.
func TestHeartbeatTimeout(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const timeout = 200 * time.Millisecond
	var attempts, silent atomic.Int64
	var longest time.Duration // between two beats: on a busy machine it may be too long indeed
	var failed error
	failedTwice := make(chan struct{})
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		g.Go(func(ctx context.Context) error {
			return Exec(ctx, "beats", func(ctx context.Context) error {
				attempts.Add(1)
				work := time.NewTicker(timeout / 40)
				defer work.Stop()
				for last := time.Now(); ; {
					select {
					case <-failedTwice:
						return nil
					case <-work.C:
					}
					longest, last = max(longest, time.Since(last)), time.Now()
					if err := Heartbeat(ctx, nil); err != nil {
						return err
					}
				}
			}, HeartbeatTimeout(timeout))
		})
		g.Go(func(ctx context.Context) error {
			defer close(failedTwice)
			failed = Exec(ctx, "falls silent", func(ctx context.Context) error {
				silent.Add(1)
				if err := Heartbeat(ctx, "once"); err != nil {
					return err
				}
				<-ctx.Done()
				return Heartbeat(ctx, "too late")
			}, HeartbeatTimeout(timeout), Retries(1, time.Millisecond, Constant))
			return nil
		})
		return nil, g.Wait()
	})
	step, ok := errors.AsType[*StepError](failed)
	if !ok || step.Name != protocol.FailureHeartbeat || step.Message != "attempt 2 gave no sign of life for 200ms" || silent.Load() != 2 {
		t.Errorf("%d attempts, then %v", silent.Load(), failed)
	}
	steps := b.complete("w", "a").Steps
	i := slices.IndexFunc(steps, func(s protocol.StepStatus) bool { return s.Name == "falls silent" })
	if attempts.Load() != 1 && longest < timeout/2 || string(steps[i].Heartbeat) != `"once"` {
		t.Errorf("%d attempts of the step that beats; the other said %s", attempts.Load(), steps[i].Heartbeat)
	}
}

func TestHeartbeatsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := Heartbeat(t.Context(), 1); !errors.Is(err, ErrNoBody) {
		t.Errorf("outside of a body: %v", err)
	}
	var later context.Context
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		if err := Heartbeat(ctx, 1); !errors.Is(err, ErrNoBody) {
			t.Errorf("between steps: %v", err)
		}
		return nil, Exec(ctx, "s", func(ctx context.Context) error {
			later = context.WithoutCancel(ctx)
			err := Heartbeat(ctx, math.NaN())
			if _, ok := errors.AsType[*EncodingError](err); !ok || !strings.Contains(err.Error(), `heartbeat of step "s"`) {
				t.Errorf("not a number: %v", err)
			}
			err = Heartbeat(ctx, strings.Repeat("x", MaxHeartbeat))
			if size, ok := errors.AsType[*SizeError](err); !ok || size.Limit != MaxHeartbeat || size.Size != MaxHeartbeat+2 {
				t.Errorf("too large: %v", err)
			}
			return Heartbeat(ctx, strings.Repeat("x", MaxHeartbeat-2))
		})
	})
	if err := Heartbeat(later, 1); !errors.Is(err, execution.ErrBodyEnded) {
		t.Errorf("after the body has returned: %v", err)
	}
}
