package workflow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// misuse is a call in workflow code that must fail with a typed error.
type misuse struct {
	name string
	call func(ctx context.Context) error
	is   error
	// says is part of the message: the field, the value, or what is allowed.
	says string
}

func nothing(context.Context) error { return nil }

func misusedNames() []misuse {
	named := func(name, step, says string) []misuse {
		return []misuse{
			{name + " of a step", func(ctx context.Context) error { return Exec(ctx, step, nothing) }, protocol.ErrName, says},
			{name + " of a sleep", func(ctx context.Context) error { return Sleep(ctx, step, 0) }, protocol.ErrName, says},
			{name + " of a wait", func(ctx context.Context) error {
				_, err := WaitForEvent[int](ctx, step, "t")
				return err
			}, protocol.ErrName, says},
		}
	}
	var all []misuse
	all = append(all, named("empty name", "", "is empty")...)
	all = append(all, named("long name", strings.Repeat("x", 257), "at most 256")...)
	all = append(all, named("control character in the name", "a\nb", `"a\nb"`)...)
	for name, eventType := range map[string]string{"empty": "", "with a dot": "a.b", "with a space": "a b", "too long": strings.Repeat("x", 101)} {
		all = append(all, misuse{"event type " + name, func(ctx context.Context) error {
			_, err := WaitForEvent[int](ctx, "wait", eventType)
			return err
		}, protocol.ErrName, "event type"})
	}
	return all
}

func misusedOptions() []misuse {
	do := func(name, says string, option StepOption) misuse {
		return misuse{name, func(ctx context.Context) error { return Exec(ctx, "s", nothing, option) }, ErrOption, says}
	}
	wait := func(name string, d time.Duration) misuse {
		return misuse{name, func(ctx context.Context) error {
			_, err := WaitForEvent[int](ctx, "w", "t", Timeout(d))
			return err
		}, ErrOption, "Timeout"}
	}
	sleep := func(name, says string, call func(ctx context.Context) error) misuse {
		return misuse{name, call, ErrOption, says}
	}
	return []misuse{
		sleep("a race of nobody", "functions is 0, allowed is at least one", func(ctx context.Context) error {
			_, _, err := Race[int](ctx, "s")
			return err
		}),
		do("no timeout", "Timeout is 0s", Timeout(0)),
		do("negative timeout", "Timeout is -1s", Timeout(-time.Second)),
		do("timeout of more than a year", "at most 365 days", Timeout(MaxWait+1)),
		do("negative retries", "limit is -1", Retries(-1, 0, Constant)),
		do("too many retries", "0 to 10000", Retries(MaxRetries+1, 0, Constant)),
		do("negative delay", "delay is -1ns", Retries(1, -1, Constant)),
		do("delay of more than a year", "0 to 365 days", Retries(1, MaxWait+1, Constant)),
		do("unknown backoff", "Constant, Linear or Exponential", Retries(1, 0, "cubic")),
		do("no cap", "MaxDelay is 0s", MaxDelay(0)),
		do("negative jitter", "Jitter is -0.1", Jitter(-0.1)),
		do("jitter of more than the delay", "0 to 1", Jitter(1.01)),
		do("jitter that is no number", "Jitter is NaN", Jitter(math.NaN())),
		do("no delay function", "DelayFunc is nil", DelayFunc(nil)),
		do("no predicate", "RetryIf is nil", RetryIf(nil)),
		do("heartbeats without time", "HeartbeatTimeout is 0s", HeartbeatTimeout(0)),
		{"delay function with a cap", func(ctx context.Context) error {
			return Exec(ctx, "s", nothing, DelayFunc(func(int, error) time.Duration { return 0 }), MaxDelay(time.Second))
		}, ErrOption, "DelayFunc is given with Jitter or MaxDelay"},
		{"delay function with jitter", func(ctx context.Context) error {
			return Exec(ctx, "s", nothing, Jitter(0.5), DelayFunc(func(int, error) time.Duration { return 0 }))
		}, ErrOption, "DelayFunc is given with Jitter or MaxDelay"},
		{"step without a body", func(ctx context.Context) error { return Exec(ctx, "s", nil) }, ErrOption, "body is nil, allowed is a function"},
		{"step with a result and without a body", func(ctx context.Context) error {
			_, err := Do[int](ctx, "s", nil)
			return err
		}, ErrOption, "body is nil, allowed is a function"},
		do("no lost runs", "LostRuns is 0", LostRuns(0)),
		do("too many lost runs", "1 to 10000", LostRuns(MaxRetries+1)),
		wait("wait without time", 0), wait("wait of a negative time", -1), wait("wait of more than a year", MaxWait+1),
		sleep("negative sleep", "duration is -1s", func(ctx context.Context) error { return Sleep(ctx, "s", -time.Second) }),
		sleep("sleep of more than a year", "365 days", func(ctx context.Context) error { return Sleep(ctx, "s", MaxWait+1) }),
		sleep("sleep until after more than a year", "365 days", func(ctx context.Context) error {
			return SleepUntil(ctx, "s", time.Now().Add(MaxWait+time.Hour))
		}),
	}
}

// everyCall makes each kind of call with a context that it must refuse.
func everyCall(name string, with func(ctx context.Context) context.Context, want error) []misuse {
	var all []misuse
	add := func(what string, call func(ctx context.Context) error) {
		all = append(all, misuse{what + " " + name, func(ctx context.Context) error { return call(with(ctx)) }, want, ""})
	}
	add("step", func(ctx context.Context) error { return Exec(ctx, "inner", nothing) })
	add("sleep", func(ctx context.Context) error { return Sleep(ctx, "inner", 0) })
	add("wait", func(ctx context.Context) error { _, err := WaitForEvent[int](ctx, "inner", "t"); return err })
	add("race", func(ctx context.Context) error {
		_, _, err := Race(ctx, "inner", func(context.Context) (int, error) { return 0, errors.New("it ran") })
		return err
	})
	add("group", func(ctx context.Context) error {
		g := NewGroup(ctx)
		g.SetLimit(1)
		g.Go(func(context.Context) error { return errors.New("it ran") })
		return g.Wait()
	})
	return all
}

func misusedTypes() []misuse {
	unsupported := func(name string, call func(ctx context.Context) error) misuse {
		return misuse{name, call, nil, "unsupported type"}
	}
	ran := errors.New("the body ran")
	return []misuse{
		unsupported("a channel as result", func(ctx context.Context) error {
			_, err := Do(ctx, "s", func(context.Context) (chan int, error) { return nil, ran })
			return err
		}),
		unsupported("a function as result", func(ctx context.Context) error {
			_, err := Do(ctx, "s", func(context.Context) (func(), error) { return nil, ran })
			return err
		}),
		unsupported("a channel as result of a race", func(ctx context.Context) error {
			_, _, err := Race(ctx, "s", func(context.Context) (chan int, error) { return nil, ran })
			return err
		}),
		unsupported("a function inside of the result", func(ctx context.Context) error {
			_, err := Do(ctx, "s", func(context.Context) (struct{ F func() }, error) { return struct{ F func() }{}, ran })
			return err
		}),
	}
}

// TestMisuseInWorkflowCode: each call fails, and nothing is stored for it.
func TestMisuseInWorkflowCode(t *testing.T) {
	t.Parallel()
	b := setup(t)
	outside := func(context.Context) context.Context { return context.Background() }
	same := func(ctx context.Context) context.Context { return ctx }
	var inWorkflow, inBody []misuse
	inWorkflow = append(inWorkflow, misusedNames()...)
	inWorkflow = append(inWorkflow, misusedOptions()...)
	inWorkflow = append(inWorkflow, misusedTypes()...)
	inWorkflow = append(inWorkflow, everyCall("outside of a workflow", outside, ErrNoWorkflow)...)
	inBody = everyCall("in the body of a step", same, ErrNested)
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		for _, m := range inWorkflow {
			m.check(t, m.call(ctx))
		}
		return nil, nil
	}), Define("nested", func(ctx context.Context, _ Event[int]) (any, error) {
		return nil, Exec(ctx, "outer", func(ctx context.Context) error {
			for _, m := range inBody {
				m.check(t, m.call(ctx))
			}
			return nil
		})
	}))
	b.create("w", "a", 1)
	b.complete("w", "a")
	if n := b.kinds("w", "a"); len(n) != 1 {
		t.Errorf("the log has %v, want nothing but the end", n)
	}
	b.create("nested", "a", 1)
	if s := b.complete("nested", "a"); len(s.Steps) != 1 {
		t.Errorf("the steps are %+v, want the outer one", s.Steps)
	}
}

func (m misuse) check(t *testing.T, err error) {
	switch {
	case err == nil:
		t.Errorf("%s: no error", m.name)
	case m.is != nil && !errors.Is(err, m.is), !strings.Contains(err.Error(), m.says):
		t.Errorf("%s: error is %v", m.name, err)
	}
	if _, typed := errors.AsType[*EncodingError](err); m.is == nil && !typed {
		t.Errorf("%s: error is %#v", m.name, err)
	}
	if _, typed := errors.AsType[*OptionError](err); m.is == ErrOption && !typed {
		t.Errorf("%s: error is %#v", m.name, err)
	}
}

// TestResultsThatCannotBeStored: the body has run, so the step fails, at once and for good.
func TestResultsThatCannotBeStored(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		value any
		says  string
	}{
		{"not a number", math.NaN(), "unsupported value: NaN"},
		{"a channel in an interface", make(chan int), "unsupported type: chan int"},
		{"too large", strings.Repeat("x", protocol.MaxPayload), "524290 bytes as JSON, at most 524288 are allowed (max_value_size)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.maxValue = protocol.MaxPayload
			bodies := 0
			b.serve(execution.Settings{}, Define("step", func(ctx context.Context, _ Event[int]) (any, error) {
				return Do(ctx, "s", func(context.Context) (any, error) { bodies++; return row.value, nil })
			}), Define("whole", func(context.Context, Event[int]) (any, error) { return row.value, nil }))
			for _, class := range []string{"step", "whole"} {
				b.create(class, "a", 1)
				f := b.errored(class, "a")
				if f.Name != protocol.FailureEncoding || !strings.Contains(f.Message, row.says) || !strings.Contains(f.Message, "result of") {
					t.Errorf("%s: failed with %s: %s", class, f.Name, f.Message)
				}
			}
			if bodies != 1 {
				t.Errorf("%d attempts, want 1", bodies)
			}
		})
	}
}

// colour is a type whose zero value is no value.
type colour int

func (c colour) MarshalText() ([]byte, error) {
	if c == 0 {
		return nil, errors.New("no colour")
	}
	return []byte("red"), nil
}

func (c *colour) UnmarshalText([]byte) error { *c = 1; return nil }

func TestTypeWhoseZeroValueCannotBeStored(t *testing.T) {
	t.Parallel()
	output := setup(t).run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		return Do(ctx, "paint", func(context.Context) (colour, error) { return 1, nil })
	})
	if output != `"red"` {
		t.Errorf("output %s", output)
	}
}

// TestLargestResultIsStored: what just fits into a message travels in one.
func TestLargestResultIsStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	largest := strings.Repeat("x", protocol.InlinePayload-2)
	output := b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		for n := range 10 { // they may end together: one append would be too large
			name := fmt.Sprint(n)
			g.Go(func(ctx context.Context) error {
				got, err := Do(ctx, name, func(context.Context) (string, error) { return largest, nil })
				if got != largest {
					return errors.New("the result has changed")
				}
				return errors.Join(err, Sleep(ctx, name, nap))
			})
		}
		return largest, g.Wait()
	})
	if len(output) != protocol.InlinePayload {
		t.Errorf("output of %d bytes", len(output))
	}
}

// TestParamsOfAnotherType: no run can mend that.
func TestParamsOfAnotherType(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(execution.Settings{}, Define("w", func(context.Context, Event[int]) (any, error) { return nil, nil }))
	b.create("w", "a", "text")
	if f := b.errored("w", "a"); f.Name != protocol.FailureEncoding || !strings.Contains(f.Message, "params of w") {
		t.Errorf("failed with %s: %s", f.Name, f.Message)
	}
}

// TestOneNameInFlightTwice: who came first would decide whose result is whose.
func TestOneNameInFlightTwice(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"step", func(ctx context.Context) error { return Exec(ctx, "same", nothing) }},
		{"sleep", func(ctx context.Context) error { return Sleep(ctx, "same", time.Hour) }},
		{"wait", func(ctx context.Context) error { _, err := WaitForEvent[int](ctx, "same", "t"); return err }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.linger = time.Minute // the code asks for its own status, which no one counts
			var second, branch error
			b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
				goOn := make(chan struct{})
				body := func(context.Context) error { <-goOn; return nil }
				first, cancel := context.WithCancel(ctx)
				defer cancel()
				ended := make(chan error, 1)
				if row.name == "step" {
					working := make(chan struct{})
					go func() {
						ended <- Exec(first, "same", func(ctx context.Context) error { close(working); return body(ctx) })
					}()
					<-working
				} else {
					go func() { ended <- row.call(first) }()
					b.reaches("w", "a", "waits", func(s protocol.Status) bool { return len(s.Steps) == 1 })
				}
				second = row.call(ctx)
				g := NewGroup(ctx)
				g.Go(func(ctx context.Context) error { branch = row.call(ctx); return nil })
				err := g.Wait()
				close(goOn)
				cancel()
				<-ended
				return nil, err
			}))
			b.create("w", "a", 1)
			b.complete("w", "a")
			for _, err := range []error{second, branch} {
				if !errors.Is(err, ErrInFlight) || !strings.Contains(err.Error(), `"same"`) {
					t.Errorf("error is %v", err)
				}
			}
		})
	}
}

func TestOneNameInTwoBranches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		g := NewGroup(ctx)
		for range 2 {
			g.Go(func(ctx context.Context) error { return Exec(ctx, "same", nothing) })
		}
		err := g.Wait()
		if !errors.Is(err, ErrAmbiguous) && !errors.Is(err, ErrInFlight) {
			t.Errorf("error is %v", err)
		}
		return nil, err
	}))
	b.create("w", "a", 1)
	if f := b.errored("w", "a"); !strings.Contains(f.Message, `"same"`) {
		t.Errorf("failed with %q", f.Message)
	}
}
