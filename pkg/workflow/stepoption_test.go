package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestFunctionsThatDecideNothing: the step ends at once, with an error that says what went wrong.
func TestFunctionsThatDecideNothing(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	delay := func(f func() time.Duration) StepOption {
		return DelayFunc(func(int, error) time.Duration { return f() })
	}
	const soon = 50 * time.Millisecond
	for _, row := range []struct {
		name   string
		option StepOption
		says   string
		judge  time.Duration
	}{
		{"negative delay", delay(func() time.Duration { return -time.Second }), "the delay function of step \"flaky\" returned -1s, allowed is 0 to 365 days", 0},
		{"too long a delay", delay(func() time.Duration { return MaxWait + 1 }), "allowed is 0 to 365 days", 0},
		{"delay panics", delay(func() time.Duration { panic("no idea") }), "the delay function of step \"flaky\" panicked: no idea", 0},
		{"delay takes too long", delay(func() time.Duration { <-end; return 0 }), "did not return within 50ms", soon},
		{"predicate panics", RetryIf(func(error) bool { panic("no idea") }), "whether step \"flaky\" is retried panicked: no idea", 0},
		{"predicate takes too long", RetryIf(func(error) bool { <-end; return true }), "did not return within 50ms", soon},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.serve(execution.Settings{Judge: row.judge}, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
				return Do(ctx, "flaky", failing(1), row.option)
			}))
			b.create("w", "a", 1)
			f := b.errored("w", "a")
			if f.Name != protocol.FailureRetryPolicy || !f.Terminal || !strings.Contains(f.Message, row.says) {
				t.Errorf("failed with %+v", f)
			}
			if n := len(f.Causes); n == 0 || f.Causes[n-1].Message != errFlaky.Error() {
				t.Errorf("the causes are %+v, want the body's error among them", f.Causes)
			}
		})
	}
}

type code int

func (c code) Error() string { return fmt.Sprintf("code %d", int(c)) }

// TestRetryIf: the predicate gets the error as the body returned it, or the kind of failure of a body that returned none.
func TestRetryIf(t *testing.T) {
	t.Parallel()
	b := setup(t)
	below500 := RetryIf(func(err error) bool { c, ok := errors.AsType[code](err); return ok && c < 500 })
	timeouts := RetryIf(func(err error) bool {
		step, ok := errors.AsType[*StepError](err)
		return ok && step.Step == "slow" && errors.Is(err, context.DeadlineExceeded)
	})
	constant := Retries(5, time.Millisecond, Constant)
	var calls, slow atomic.Int64
	var failed, timedOut error
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		_, failed = Do(ctx, "codes", func(context.Context) (int, error) {
			return 0, fmt.Errorf("call: %w", code(497+calls.Add(1)))
		}, constant, below500)
		_, timedOut = Do(ctx, "slow", func(ctx context.Context) (int, error) {
			if slow.Add(1) > 2 {
				panic("enough")
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}, constant, timeouts, Timeout(300*time.Millisecond)) // mostly time enough to panic
		return nil, nil
	})
	if calls.Load() != 3 || failed == nil || failed.Error() != `step "codes": call: code 500` {
		t.Errorf("%d attempts, then %v; want 3, the last of which is not retried", calls.Load(), failed)
	}
	if n := slow.Load(); n < 3 || n > 5 || timedOut == nil || timedOut.Error() != `step "slow": panic: enough` {
		t.Errorf("%d attempts, then %v; want two timeouts or a few more, and a panic that is not retried", n, timedOut)
	}
}

func TestAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var seen []Attempt
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		for range 2 {
			if _, err := Do(ctx, "s", func(ctx context.Context) (int, error) {
				if seen = append(seen, Step(ctx)); len(seen) == 1 {
					return 0, errFlaky
				}
				return 0, nil
			}, Retries(2, time.Millisecond, Linear), Timeout(time.Minute)); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	config := protocol.DefaultStep()
	config.Retries, config.Delay, config.Backoff, config.Timeout = 2, protocol.Duration(time.Millisecond), "linear", protocol.Duration(time.Minute)
	for i, want := range []Attempt{
		{Step: "s", Count: 1, Number: 1, MaxAttempts: 3, Config: config, IdempotencyKey: "p/w/a/1/s/1"},
		{Step: "s", Count: 1, Number: 2, MaxAttempts: 3, Config: config, IdempotencyKey: "p/w/a/1/s/1"},
		{Step: "s", Count: 2, Number: 1, MaxAttempts: 3, Config: config, IdempotencyKey: "p/w/a/1/s/2"},
	} {
		if seen[i].Fence == 0 {
			t.Errorf("body %d has no fence", i+1)
		}
		seen[i].Fence = 0
		if seen[i] != want {
			t.Errorf("body %d is told %+v, want %+v", i+1, seen[i], want)
		}
	}
}

// TestOptionsStayAsRecorded deploys code with other options while a step is being retried.
func TestOptionsStayAsRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var deployed atomic.Bool
	body := failing(2)
	output := b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		options := []StepOption{Retries(2, 20*time.Millisecond, Constant)}
		if deployed.Swap(true) {
			options = []StepOption{Retries(0, 0, Constant), Timeout(time.Nanosecond)}
		}
		return Do(ctx, "flaky", body, options...)
	})
	s := b.complete("w", "a")
	if output != "3" || len(s.Runs) < 2 || s.Steps[0].Config.Retries != 2 {
		t.Errorf("output %s in %d runs with %+v, want the third attempt, with the options of the first run", output, len(s.Runs), s.Steps[0].Config)
	}
}

// TestSensitive: the workflow gets the result, in every run, and nobody else.
func TestSensitive(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var log lines
	b.log = slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	var wrong, unstorable error
	output := b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		secret, err := Do(ctx, "secret", func(ctx context.Context) (string, error) {
			return "hunter2", Heartbeat(ctx, "hunter2, soon")
		}, Sensitive())
		if err != nil {
			return nil, err
		}
		if err := Sleep(ctx, "nap", nap); err != nil {
			return nil, err
		}
		_, wrong = Do(ctx, "wrong type", func(context.Context) (picky, error) { return "hunter2", nil }, Sensitive())
		_, unstorable = Do(ctx, "cannot be stored", func(context.Context) (picky, error) { return "hunter3", nil }, Sensitive())
		return len(secret), nil
	})
	if output != "7" {
		t.Errorf("output %s: the workflow did not get the result", output)
	}
	for what, err := range map[string]error{"result of another type": wrong, "result that cannot be stored": unstorable} {
		if err == nil || !strings.Contains(err.Error(), "not shown") || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	status, err := json.Marshal(b.complete("w", "a"))
	if err != nil || strings.Contains(string(status), "hunter") || !strings.Contains(string(status), "[REDACTED]") {
		t.Errorf("the status is %s, %v", status, err)
	}
	if strings.Contains(log.String(), "hunter") {
		t.Errorf("the log is %s", log.String())
	}
}

// picky is a type whose errors quote the value.
type picky string

func (p picky) MarshalJSON() ([]byte, error) {
	if p == "hunter3" {
		return nil, fmt.Errorf("cannot store %s", string(p))
	}
	return json.Marshal(string(p))
}

func (p *picky) UnmarshalJSON(raw []byte) error { return fmt.Errorf("cannot read %s", raw) }

// TestStateLimit: what the code was given counts, wherever it is stored; what is recorded is replayed all the same.
func TestStateLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.limits.State = 300_000
	text := func(n int) string { return strings.Repeat("x", n-2) } // with its quotes
	give := func(ctx context.Context, bytes int) error {
		_, err := Do(ctx, "give", func(context.Context) (string, error) { return text(bytes), nil })
		return err
	}
	b.serve(parks(), Define("steps", func(ctx context.Context, _ Event[int]) (int, error) {
		for {
			_ = give(ctx, 100_000)
		}
	}), Define("objects", func(ctx context.Context, _ Event[int]) (int, error) {
		_ = give(ctx, 150_000)
		_ = give(ctx, 150_001)
		_, _ = WaitForEvent[int](ctx, "one more", "e")
		return 0, nil
	}), Define("events", func(ctx context.Context, _ Event[int]) (int, error) {
		for {
			_, _ = WaitForEvent[string](ctx, "next", "e")
		}
	}), Define("just", func(ctx context.Context, _ Event[int]) (int, error) {
		err := errors.Join(give(ctx, 100_000), give(ctx, 199_998), Sleep(ctx, "nap", nap))
		return 7, errors.Join(err, give(ctx, 2), Sleep(ctx, "another nap", nap))
	}))
	for class, size := range map[string]int{"steps": 400_000, "objects": 300_001, "events": 400_000} {
		b.create(class, "a", 1)
		for range 5 {
			b.send(class, "a", "e", text(100_000))
		}
		f := b.errored(class, "a")
		if f.Name != protocol.FailureStateLimit || string(f.Details) != fmt.Sprintf(`{"limit":300000,"size":%d}`, size) ||
			!strings.Contains(f.Message, fmt.Sprintf("%d bytes of results and events, at most 300000", size)) {
			t.Errorf("%s: failed with %s: %s, %s", class, f.Name, f.Message, f.Details)
		}
		if err := error(&InstanceError{Failure: f}); !errors.Is(err, ErrStateLimit) || errors.Is(err, ErrStepLimit) {
			t.Errorf("%s: the error is not ErrStateLimit", class)
		}
	}
	b.create("just", "a", 1)
	if s := b.complete("just", "a"); string(s.Output) != "7" || len(s.Runs) < 3 {
		t.Errorf("what is just allowed: output %s in %d runs", s.Output, len(s.Runs))
	}
}

// TestStepLimit: the instance ends, although the code does not look at errors.
func TestStepLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.limits.Steps = 3
	var bodies atomic.Int64
	step := func(ctx context.Context) {
		_ = Exec(ctx, "s", func(context.Context) error { bodies.Add(1); return nil })
	}
	b.serve(parks(), Define("endless", func(ctx context.Context, _ Event[int]) (int, error) {
		_ = Sleep(ctx, "sleeps do not count", 0)
		_, _ = WaitForEvent[int](ctx, "nor do waits", "never", Timeout(time.Millisecond))
		for {
			step(ctx)
			Now(ctx)
		}
	}), Define("just", func(ctx context.Context, _ Event[int]) (int, error) {
		for range 3 {
			step(ctx)
		}
		return 7, Sleep(ctx, "what is replayed does not count twice", nap)
	}))
	b.create("endless", "a", 1)
	f := b.errored("endless", "a")
	if f.Name != protocol.FailureStepLimit || !strings.Contains(f.Message, "called 4 steps, at most 3 are allowed") || string(f.Details) != `{"limit":3,"steps":4}` {
		t.Errorf("failed with %s: %s, %s", f.Name, f.Message, f.Details)
	}
	if err := error(&InstanceError{Failure: f}); !errors.Is(err, ErrStepLimit) || errors.Is(err, ErrTooLarge) {
		t.Error("the error is not ErrStepLimit")
	}
	b.create("just", "a", 1)
	if s := b.complete("just", "a"); string(s.Output) != "7" || len(s.Runs) < 2 || bodies.Load() != 6 {
		t.Errorf("output %s in %d runs, %d bodies", s.Output, len(s.Runs), bodies.Load())
	}
}
