package workflow_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

var errHiccup = errors.New("the service hiccups")

// flaky is a body that fails three times, and then returns the number of its attempt.
func flaky(ctx context.Context) (int, error) {
	if n := workflow.Step(ctx).Number; n > 3 {
		return n, nil
	}
	return 0, errHiccup
}

// TestRetriesWaitAsTheyShould: to the moment.
func TestRetriesWaitAsTheyShould(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		backoff workflow.Backoff
		most    time.Duration // in bases
		waits   []time.Duration
	}{
		{"constant", workflow.Constant, 0, []time.Duration{1, 1, 1}},
		{"linear", workflow.Linear, 0, []time.Duration{1, 2, 3}},
		{"exponential", workflow.Exponential, 0, []time.Duration{1, 2, 4}},
		{"exponential with a cap", workflow.Exponential, 2, []time.Duration{1, 2, 2}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := workflowtest.New(t, workflow.Define("Retries", func(ctx context.Context, e workflow.Event[time.Duration]) (int, error) {
				options := []workflow.StepOption{workflow.Retries(3, e.Payload, row.backoff)}
				if row.most > 0 {
					options = append(options, workflow.MaxDelay(row.most*e.Payload))
				}
				return workflow.Do(ctx, "flaky", flaky, options...)
			}))
			run := workflowtest.Start[int](env, "Retries", time.Hour)
			if n, err := run.Result(); n != 4 || err != nil {
				t.Errorf("the body that succeeded was attempt %d, %v, want 4", n, err)
			}
			checkWaits(t, run.Status().Steps[0], time.Hour, row.waits)
		})
	}
}

// TestDelayFunc: what the function returns is waited, and it is not asked again after a park.
func TestDelayFunc(t *testing.T) {
	t.Parallel()
	var asked []int // one after the other
	env := workflowtest.New(t, workflow.Define("Retries", func(ctx context.Context, e workflow.Event[time.Duration]) (int, error) {
		return workflow.Do(ctx, "flaky", flaky, workflow.Retries(3, time.Minute, workflow.Exponential),
			workflow.DelayFunc(func(attempt int, err error) time.Duration {
				if !errors.Is(err, errHiccup) {
					t.Errorf("asked about attempt %d with %v", attempt, err)
				}
				asked = append(asked, attempt)
				return e.Payload * time.Duration(4-attempt)
			}))
	}))
	run := workflowtest.Start[int](env, "Retries", time.Hour)
	if n, err := run.Result(); n != 4 || err != nil {
		t.Errorf("the body that succeeded was attempt %d, %v, want 4", n, err)
	}
	if !slices.Equal(asked, []int{1, 2, 3}) {
		t.Errorf("asked about attempts %v, want once for each of 3 failures", asked)
	}
	s := run.Status()
	checkWaits(t, s.Steps[0], time.Hour, []time.Duration{3, 2, 1})
	if c := s.Steps[0].Config; c == nil || !c.Dynamic {
		t.Errorf("config %+v is shown, want one with a dynamic delay", c)
	}
	if len(s.Runs) < 2 {
		t.Error("it never parked")
	}
}

func checkWaits(t *testing.T, step workflow.StepStatus, base time.Duration, waits []time.Duration) {
	t.Helper()
	if len(step.Attempts) != len(waits)+1 {
		t.Fatalf("%d attempts are recorded, want %d", len(step.Attempts), len(waits)+1)
	}
	for i, a := range step.Attempts {
		if a.Attempt != i+1 || a.Runner == "" || a.Started == nil || a.Finished == nil {
			t.Errorf("attempt %d is recorded as %+v", i+1, a)
		}
		if last := i == len(waits); last != (a.Error == nil) {
			t.Errorf("attempt %d has error %v", i+1, a.Error)
		}
		if i == 0 {
			continue
		}
		if waited := a.Started.Sub(*step.Attempts[i-1].Started); waited != waits[i-1]*base {
			t.Errorf("attempt %d began %v after the one before, want %v", i+1, waited, waits[i-1]*base)
		}
	}
}
