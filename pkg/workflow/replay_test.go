package workflow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// nap is long enough to park before it is over, on a busy machine too.
const nap = time.Second

func TestShortSleepStaysInMemory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var runs atomic.Int64
	b.run(execution.Settings{}, func(ctx context.Context, _ Event[int]) (any, error) {
		runs.Add(1)
		return nil, errors.Join(Sleep(ctx, "none", 0), Sleep(ctx, "short", 100*time.Millisecond),
			SleepUntil(ctx, "until", Now(ctx).Add(50*time.Millisecond)), SleepUntil(ctx, "past", time.Unix(0, 0)))
	})
	n := b.kinds("w", "a")
	if runs.Load() != 1 || n[protocol.EntryParked] != 0 || n[protocol.EntrySlept] != 4 {
		t.Errorf("%d runs, the log has %v; want one run with 4 sleeps and no park", runs.Load(), n)
	}
	if s := b.complete("w", "a"); s.Finished.Sub(s.Created) < 150*time.Millisecond {
		t.Errorf("slept from %v to %v", s.Created, s.Finished)
	}
}

// TestShortWaitTimesOut without a park, and is the same in the run after the next one.
func TestShortWaitTimesOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	errs := make(chan error, 10)
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		_, err := WaitForEvent[int](ctx, "answer", "answer", Timeout(100*time.Millisecond))
		errs <- err
		got, err := WaitForEvent[int](ctx, "again", "answer", Timeout(time.Hour))
		return got.Payload, err
	}))
	b.create("w", "a", 1)
	b.reaches("w", "a", "waits again", func(s protocol.Status) bool { return s.State == protocol.StateWaiting && len(s.Steps) == 2 })
	b.send("w", "a", "answer", 7) // too late for the first wait, so it is for the second
	if s := b.complete("w", "a"); string(s.Output) != "7" {
		t.Errorf("output %s, want 7", s.Output)
	}
	close(errs)
	runs := 0
	for err := range errs {
		runs++
		timeout, ok := errors.AsType[*TimeoutError](err)
		if !ok || !errors.Is(err, context.DeadlineExceeded) || timeout.Step != "answer" {
			t.Errorf("run %d: the error is %#v", runs, err)
		}
	}
	if runs < 2 {
		t.Errorf("%d runs, want a replay", runs)
	}
}

func TestValuesOutsideOfWorkflowCode(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var first, second string
	output := b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		return Do(ctx, "in a body", func(ctx context.Context) (InstanceInfo, error) {
			first, second = NewID(ctx), NewID(ctx)
			return Info(ctx), nil
		})
	})
	if first == second || output != `{"Project":"p","Workflow":"w","ID":"a"}` {
		t.Errorf("ids in a body are %s and %s, info is %s", first, second, output)
	}
	ctx := t.Context()
	third, fourth := NewID(ctx), NewID(ctx)
	if x, y := Random(ctx), Random(ctx); x == y || min(x, y) < 0 || max(x, y) >= 1 {
		t.Errorf("random numbers are %v and %v", x, y)
	}
	if third == fourth || time.Since(Now(ctx)) > time.Minute || Logger(ctx) != slog.Default() || (Info(ctx) != InstanceInfo{}) {
		t.Error("outside of a workflow the values are not the world's")
	}
	if n := b.kinds("w", "a"); n[protocol.EntryRecorded] != 0 {
		t.Errorf("%d values are recorded for a body", n[protocol.EntryRecorded])
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), `msg="`+message+`"`)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestLoggerIsSilentDuringReplay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var log lines
	b.log = slog.NewTextHandler(&log, nil)
	said := []string{"at the start", "before the step", "in the body", "after the step", "before the nap", "after the nap",
		"before the wait", "after the wait", "between the attempts", "at the end"}
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (any, error) {
		Logger(ctx).InfoContext(ctx, said[0])
		Logger(ctx).With("k", "v").WithGroup("g").InfoContext(ctx, said[1])
		err := Exec(ctx, "step", func(ctx context.Context) error { Logger(ctx).InfoContext(ctx, said[2]); return nil })
		Logger(ctx).InfoContext(ctx, said[3])
		Now(ctx)
		Logger(ctx).InfoContext(ctx, said[4])
		err = errors.Join(err, Sleep(ctx, "nap", nap))
		Logger(ctx).InfoContext(ctx, said[5])
		Logger(ctx).InfoContext(ctx, said[6])
		_, waited := WaitForEvent[int](ctx, "wait", "go")
		Logger(ctx).InfoContext(ctx, said[7])
		flaky := Exec(ctx, "flaky", func(ctx context.Context) error {
			if Step(ctx).Number == 1 {
				return errFlaky
			}
			Logger(ctx).InfoContext(ctx, said[8])
			return nil
		}, Retries(1, 300*time.Millisecond, Constant))
		Logger(ctx).InfoContext(ctx, said[9])
		return nil, errors.Join(err, waited, flaky)
	}))
	b.create("w", "a", 1)
	b.reaches("w", "a", "waits for the event", func(s protocol.Status) bool {
		return s.State == protocol.StateWaiting && len(s.Steps) == 3
	})
	b.send("w", "a", "go", 1)
	if s := b.complete("w", "a"); len(s.Runs) < 4 {
		t.Errorf("%d runs, want replays", len(s.Runs))
	}
	for _, message := range said {
		if n := log.count(message); n != 1 {
			t.Errorf("%q is logged %d times", message, n)
		}
	}
	if !strings.Contains(log.String(), "instance=p/w/a") {
		t.Error("the lines do not name the instance")
	}
}

// TestManySteps replays a thousand of them.
func TestManySteps(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const steps = 1000
	var bodies, runs atomic.Int64
	output := b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		runs.Add(1)
		sum := 0
		for i := range steps {
			n, err := Do(ctx, "count", func(context.Context) (int, error) { bodies.Add(1); return i, nil })
			if err != nil {
				return nil, err
			}
			sum += n
			if i == steps/2 {
				if err := Sleep(ctx, "half of them", nap); err != nil {
					return nil, err
				}
			}
		}
		return sum, Sleep(ctx, "all of them", nap)
	})
	if output != fmt.Sprint(steps*(steps-1)/2) {
		t.Errorf("output %s", output)
	}
	if bodies.Load() != steps || runs.Load() != 3 {
		t.Errorf("%d bodies in %d runs, want %d in 3", bodies.Load(), runs.Load(), steps)
	}
	if n := b.kinds("w", "a"); n[protocol.EntryStepCompleted] != steps {
		t.Errorf("the log has %v", n)
	}
}

// TestResultsArriveAsStored hands a value on that JSON changes: the first run must see what a replay sees.
func TestResultsArriveAsStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	type pair struct {
		Kept, Dropped any
		hidden        int
	}
	seen := make(chan string, 10)
	b.run(parks(), func(ctx context.Context, _ Event[int]) (any, error) {
		p, err := Do(ctx, "pair", func(context.Context) (pair, error) {
			return pair{Kept: int64(1), Dropped: []byte("x"), hidden: 3}, nil
		})
		seen <- fmt.Sprintf("%#v", p)
		return nil, errors.Join(err, Sleep(ctx, "nap", nap))
	})
	if len(seen) != 2 {
		t.Fatalf("%d runs, want 2", len(seen))
	}
	if first, replayed := <-seen, <-seen; first != replayed {
		t.Errorf("the first run saw %s, the second %s", first, replayed)
	}
}
