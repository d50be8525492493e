package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// The clock of these tests stands still until nothing moves: what takes days is checked to the moment.
const day = 24 * time.Hour

// TestLongSleepParks: nothing runs while it sleeps, for a year, and a second run goes on to the moment.
func TestLongSleepParks(t *testing.T) {
	t.Parallel()
	runs := 0 // one after the other
	env := workflowtest.New(t, workflow.Define("Sleeper", func(ctx context.Context, _ workflow.Event[int]) (string, error) {
		runs++
		return "rested", workflow.Sleep(ctx, "long", 365*day)
	}))
	until := env.Now().Add(365 * day)
	run := workflowtest.Start[string](env, "Sleeper", 0)
	s := run.Status()
	if s.State != workflow.Waiting || len(s.Steps) != 1 || s.Steps[0].State != "waiting" || s.Steps[0].Until == nil || !s.Steps[0].Until.Equal(until) {
		t.Errorf("the status is %+v", s)
	}
	env.Advance(365*day - 1)
	if s := run.Status(); s.State != workflow.Waiting || runs != 1 {
		t.Errorf("it is %s after %d runs, a moment before the sleep is over", s.State, runs)
	}
	if output, err := run.Result(); output != "rested" || err != nil {
		t.Errorf("result %q, %v", output, err)
	}
	if s := run.Status(); runs != 2 || len(s.Runs) != 2 || !s.Finished.Equal(until) {
		t.Errorf("the function ran %d times, the log shows %d runs, until %v; want 2 until %v", runs, len(s.Runs), s.Finished, until)
	}
}

// TestSleepUntilIsFixedOnce: the moment is that of the first run, whatever later ones say. One that has passed then ends the sleep
// at once, for good.
func TestSleepUntilIsFixedOnce(t *testing.T) {
	t.Parallel()
	runs := 0 // one after the other
	var env *workflowtest.Env
	var until time.Time
	env = workflowtest.New(t, workflow.Define("Sleeper", func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		passed, ends := env.Now().Add(-time.Hour), until
		if runs++; runs > 1 {
			passed, ends = env.Now().Add(day), env.Now().Add(day)
		}
		return runs, errors.Join(workflow.SleepUntil(ctx, "passed", passed), workflow.SleepUntil(ctx, "ends", ends))
	}))
	until = env.Now().Add(3 * day)
	run := workflowtest.Start[int](env, "Sleeper", 0)
	if s := run.Status(); len(s.Steps) != 2 || s.Steps[0].State != "completed" || s.Steps[1].Until == nil || !s.Steps[1].Until.Equal(until) {
		t.Errorf("the first run came to %+v", s.Steps)
	}
	if n, err := run.Result(); n != 2 || err != nil {
		t.Errorf("%d runs, %v", n, err)
	}
	if s := run.Status(); !s.Finished.Equal(until) {
		t.Errorf("it woke up at %v, want %v", s.Finished, until)
	}
}

// TestWaitTimesOutInEveryRun: at its moment, and with the same error. An event that comes then is for the next wait.
func TestWaitTimesOutInEveryRun(t *testing.T) {
	t.Parallel()
	var errs []error // one after the other
	env := workflowtest.New(t, workflow.Define("Waiter", func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		_, err := workflow.WaitForEvent[int](ctx, "answer", "answer", workflow.Timeout(3*day))
		errs = append(errs, err)
		if err == nil {
			return 0, nil
		}
		got, err := workflow.WaitForEvent[int](ctx, "again", "answer", workflow.Timeout(30*day))
		return got.Payload, err
	}))
	run := workflowtest.Start[int](env, "Waiter", 0)
	env.Advance(3*day - 1)
	if s := run.Status(); len(s.Steps) != 1 {
		t.Errorf("it timed out too soon: %+v", s.Steps)
	}
	env.Advance(1)
	if s := run.Status(); len(s.Steps) != 2 || s.State != workflow.Waiting {
		t.Errorf("it is %s after 3 days, its steps are %+v", s.State, s.Steps)
	}
	run.Send("answer", 7) // too late for the first wait
	if n, err := run.Result(); n != 7 || err != nil {
		t.Errorf("result %d, %v, want 7", n, err)
	}
	for n, err := range errs {
		timeout, ok := errors.AsType[*workflow.TimeoutError](err)
		if !ok || !errors.Is(err, context.DeadlineExceeded) || timeout.Step != "answer" {
			t.Errorf("run %d: the error is %#v", n+2, err)
		}
	}
	if len(errs) != 2 {
		t.Errorf("%d runs came past the first wait, want 2", len(errs))
	}
}

// TestTimeoutOfOneAttempt: it ends the context of that attempt, and the next one comes after the delay, with a context of its own.
// Bodies take no time on the clock of the test: the timeout is that of a real clock.
func TestTimeoutOfOneAttempt(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, workflow.Define("Slow", func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		return workflow.Do(ctx, "slow at first", func(ctx context.Context) (int, error) {
			if workflow.Step(ctx).Number == 1 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			if ctx.Err() != nil {
				return 0, errors.New("the second attempt got the context of the first")
			}
			return workflow.Step(ctx).Number, nil
		}, workflow.Timeout(500*time.Millisecond), workflow.Retries(1, day, workflow.Constant))
	}))
	run := workflowtest.Start[int](env, "Slow", 0)
	if n, err := run.Result(); n != 2 || err != nil {
		t.Errorf("result %d, %v, want that of attempt 2", n, err)
	}
	step := run.Status().Steps[0]
	checkWaits(t, step, day, []time.Duration{1})
	if first := step.Attempts[0].Error; first == nil || first.Name != protocol.FailureTimeout {
		t.Errorf("the first attempt failed with %v", first)
	}
}

// TestRollbackWaitsAsItShould: a compensation is tried again when its options say, by another run each time, which undoes nothing
// twice.
func TestRollbackWaitsAsItShould(t *testing.T) {
	t.Parallel()
	var undone []string // one after the other
	book := func(ctx context.Context, name string, fails int, options ...workflow.StepOption) error {
		return workflow.Exec(ctx, name, func(context.Context) error { return nil }, workflow.Compensate(func(ctx context.Context, _ struct{}, _ error) error {
			n := workflow.Step(ctx).Number
			undone = append(undone, fmt.Sprint(name, " ", n))
			if n <= fails {
				return errHiccup
			}
			return nil
		}, options...))
	}
	env := workflowtest.New(t, workflow.Define("Trip", func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		return 0, errors.Join(
			book(ctx, "out", 0), book(ctx, "back", 2, workflow.Retries(2, day, workflow.Exponential)), book(ctx, "hotel", 0), errHiccup,
		)
	}))
	run := workflowtest.Start[int](env, "Trip", 0)
	env.Advance(day - 1)
	if s := run.Status(); s.State != workflow.RollingBack || !slices.Equal(undone, []string{"hotel 1", "back 1"}) {
		t.Errorf("it is %s before the first delay is over, undone is %q", s.State, undone)
	}
	if _, err := run.Result(); err == nil {
		t.Error("it did not fail")
	}
	s := run.Status()
	if s.State != workflow.Errored || s.Rollback == nil || s.Rollback.Outcome != "complete" || len(s.Runs) != 3 {
		t.Errorf("it is %s after %d runs, its rollback is %+v", s.State, len(s.Runs), s.Rollback)
	}
	if want := []string{"hotel 1", "back 1", "back 2", "back 3", "out 1"}; !slices.Equal(undone, want) {
		t.Errorf("undone was %q, want %q", undone, want)
	}
	i := slices.IndexFunc(s.Steps, func(s workflow.StepStatus) bool { return s.Op == protocol.OpRollback && s.Name == "back" })
	checkWaits(t, s.Steps[i], day, []time.Duration{1, 2})
}
