package workflow

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

var errFlaky = errors.New("the service hiccups")

// failing returns a body that fails n times and then tells the number of its attempt.
func failing(n int) func(context.Context) (int, error) {
	var calls atomic.Int64
	return func(ctx context.Context) (int, error) {
		if calls.Add(1) <= int64(n) {
			return 0, errFlaky
		}
		return Step(ctx).Number, nil
	}
}

func TestRetriesUsedUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var calls atomic.Int64
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		err := Exec(ctx, "hopeless", func(context.Context) error {
			return fmt.Errorf("try %d: %w", calls.Add(1), errFlaky)
		}, Retries(2, time.Millisecond, Constant))
		step, ok := errors.AsType[*StepError](err)
		if !ok || step.Step != "hopeless" || step.Message != "try 3: the service hiccups" {
			return 0, fmt.Errorf("the step's error is %#v", err)
		}
		return 0, fmt.Errorf("gave up: %w", err)
	}))
	b.create("w", "a", 1)
	f := b.errored("w", "a")
	if calls.Load() != 3 {
		t.Errorf("the body ran %d times, want 3", calls.Load())
	}
	if f.Message != `gave up: step "hopeless": try 3: the service hiccups` {
		t.Errorf("the instance failed with %q", f.Message)
	}
	if !slices.ContainsFunc(f.Causes, func(c protocol.Cause) bool { return c.Message == errFlaky.Error() }) {
		t.Errorf("the causes are %+v, want the body's among them", f.Causes)
	}
	if n := b.kinds("w", "a"); n[protocol.EntryStepFailed] != 1 || n[protocol.EntryAttemptFailed] != 2 {
		t.Errorf("the log has %v", n)
	}
}

type noMoney struct{}

func (noMoney) Error() string       { return "no money" }
func (noMoney) FailureName() string { return "NoMoneyError" }

func TestNonRetryableEndsTheStep(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"plain", NonRetryable(errors.New("no")), "NonRetryableError"},
		{"with a name of its own", NonRetryable(noMoney{}), "NoMoneyError"},
		{"wrapped again", fmt.Errorf("pay: %w", NonRetryable(noMoney{})), protocol.FailureError},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			var calls atomic.Int64
			var name string
			b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
				err := Exec(ctx, "pay", func(context.Context) error { calls.Add(1); return row.err })
				if step, ok := errors.AsType[*StepError](err); ok {
					name = step.Name
				}
				return nil, nil
			})
			if calls.Load() != 1 || name != row.want {
				t.Errorf("%d attempts, failure %q; want 1 and %q", calls.Load(), name, row.want)
			}
		})
	}
	if NonRetryable(nil) != nil {
		t.Error("no error becomes one")
	}
}

// TestTimeoutIsTheSameInEveryRun lets a step time out in the first run and looks at its error in both.
func TestTimeoutIsTheSameInEveryRun(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		ignore bool
	}{{"the body returns", false}, {"the body does not care", true}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			errs := make(chan error, 2)
			end := make(chan struct{})
			defer close(end)
			settings := parks()
			settings.Grace = 20 * time.Millisecond
			b.serve(settings, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
				errs <- Exec(ctx, "slow", func(ctx context.Context) error {
					if row.ignore {
						<-end
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				}, Timeout(30*time.Millisecond), Retries(1, time.Millisecond, Constant))
				return nil, gate(ctx)
			}))
			b.create("w", "a", 1)
			b.reaches("w", "a", "waits after the step", func(s Status) bool { return s.State == Waiting && len(s.Steps) == 2 })
			b.send("w", "a", "go", "on")
			b.complete("w", "a")
			first, replayed := <-errs, <-errs
			for run, err := range []error{first, replayed} {
				step, ok := errors.AsType[*StepError](err)
				if !ok || !errors.Is(err, context.DeadlineExceeded) || step.Name != protocol.FailureTimeout {
					t.Errorf("run %d: the error is %#v", run+1, err)
				}
			}
			if first.Error() != replayed.Error() || !errors.Is(first, replayed.(*StepError).Failure) {
				t.Errorf("first %q, replayed %q", first, replayed)
			}
			if n := b.kinds("w", "a"); n[protocol.EntryAttemptFailed] != 1 || n[protocol.EntryStepFailed] != 1 {
				t.Errorf("the log has %v, want two attempts that timed out", n)
			}
		})
	}
}

func TestPanics(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		code    func(ctx context.Context, _ Event[int]) (any, error)
		message string
		bodies  int64
	}{
		{"in a body", func(ctx context.Context, _ Event[int]) (any, error) {
			return nil, Exec(ctx, "boom", func(context.Context) error { panic("boom") }, Retries(1, time.Millisecond, Constant))
		}, `step "boom": panic: boom`, 2},
		{"a body that ends its goroutine", func(ctx context.Context, _ Event[int]) (any, error) {
			return nil, Exec(ctx, "exit", func(context.Context) error { runtime.Goexit(); return nil }, Retries(1, time.Millisecond, Constant))
		}, `step "exit": the body ended its goroutine`, 2},
		{"in workflow code", func(context.Context, Event[int]) (any, error) { panic(errFlaky) }, "panic: the service hiccups", 0},
		{"workflow code that ends its goroutine", func(context.Context, Event[int]) (any, error) {
			runtime.Goexit()
			return nil, nil
		}, "workflow code ended its goroutine", 0},
		{"in a branch", func(ctx context.Context, _ Event[int]) (any, error) {
			g := NewGroup(ctx)
			g.Go(func(context.Context) error { panic("branch") })
			return nil, g.Wait()
		}, "panic: branch", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.serve(execution.Settings{}, Define("w", row.code))
			b.create("w", "a", 1)
			f := b.errored("w", "a")
			if f.Name != protocol.FailurePanic || f.Message != row.message {
				t.Errorf("failed with %s: %s", f.Name, f.Message)
			}
			if strings.HasPrefix(f.Message, "panic") && !strings.Contains(string(f.Details), "retry_test.go") {
				t.Errorf("the details do not show where: %s", f.Details)
			}
			n := b.kinds("w", "a")
			if got := n[protocol.EntryAttemptFailed] + n[protocol.EntryStepFailed]; int64(got) != row.bodies {
				t.Errorf("%d attempts, want %d", got, row.bodies)
			}
		})
	}
}

// TestWhatABodyKnowsAboutItself covers retries, a use of the same name, and a replay in between.
func TestWhatABodyKnowsAboutItself(t *testing.T) {
	t.Parallel()
	b := setup(t)
	seen := make(chan Attempt, 10)
	look := func(ctx context.Context) (int, error) {
		a := Step(ctx)
		seen <- a
		if a.Number < 3 {
			return 0, errFlaky
		}
		return 0, nil
	}
	b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		if (Step(ctx) != Attempt{}) {
			t.Error("workflow code is told about an attempt")
		}
		for range 2 {
			if _, err := Do(ctx, "look", look, Retries(2, time.Millisecond, Constant)); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	close(seen)
	keys := map[string]int{}
	var fence uint64
	var numbers []int
	for a := range seen {
		keys[a.IdempotencyKey]++
		numbers = append(numbers, 10*a.Count+a.Number)
		if a.Fence <= fence || a.Step != "look" {
			t.Errorf("fence %d after %d, step %q", a.Fence, fence, a.Step)
		}
		fence = a.Fence
	}
	if !slices.Equal(numbers, []int{11, 12, 13, 21, 22, 23}) {
		t.Errorf("counts and numbers are %v", numbers)
	}
	if len(keys) != 2 {
		t.Errorf("idempotency keys are %v, want one per step, the same for all its attempts", keys)
	}
	for key := range keys {
		if !strings.HasPrefix(key, "p/w/a/") {
			t.Errorf("idempotency key %q does not name the instance", key)
		}
	}
}
