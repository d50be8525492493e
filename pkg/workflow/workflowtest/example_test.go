package workflowtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// Shipping is the workflow of the examples.
type Shipping struct {
	Charge func(ctx context.Context, cents int) (string, error)
}

// Run charges, leaves time to cancel, and waits until the parcel is picked up.
func (s *Shipping) Run(ctx context.Context, event workflow.Event[int]) (string, error) {
	receipt, err := workflow.Do(ctx, "charge", func(ctx context.Context) (string, error) { return s.Charge(ctx, event.Payload) },
		workflow.Compensate(func(context.Context, string, error) error { return nil }))
	if err != nil {
		return "", err
	}
	if err := workflow.Sleep(ctx, "time to cancel", 30*24*time.Hour); err != nil {
		return "", err
	}
	if _, err := workflow.WaitForEvent[string](ctx, "pick-up", "picked-up", workflow.Timeout(72*time.Hour)); err != nil {
		return "", err
	}
	return receipt, nil
}

// t is that of a test.
var t *testing.T

// A month passes at once, with an event at its end.
func Example() {
	env := workflowtest.New(t, workflow.Define("Shipping", new(Shipping).Run))
	env.Step("charge").Return("receipt 7")
	run := workflowtest.Start[string](env, "Shipping", 995)
	env.After(31*24*time.Hour, func() { run.Send("picked-up", "by the courier") })
	receipt, err := run.Result()
	if err != nil || receipt != "receipt 7" {
		t.Errorf("got %q, %v", receipt, err)
	}
}

// The first attempt fails, the second times out, the third succeeds: the clock goes on to each retry.
func ExampleEnv_Step() {
	env := workflowtest.New(t, workflow.Define("Shipping", new(Shipping).Run))
	env.Step("charge").Fail(errors.New("the bank is busy"), 1).TimeOut(1).Return("receipt 7")
	run := workflowtest.Start[string](env, "Shipping", 995)
	env.Advance(time.Hour)
	if steps := run.Status().Steps; len(steps[0].Attempts) != 3 {
		t.Errorf("attempts are %+v", steps[0].Attempts)
	}
}

// Nobody picks it up, and the charge is undone.
func ExampleEnv_Compensation() {
	env := workflowtest.New(t, workflow.Define("Shipping", new(Shipping).Run))
	env.Step("charge").Return("receipt 7")
	env.Wait("pick-up").TimeOut(1)
	refunds := 0
	env.Compensation("charge").Run(func(context.Context) (any, error) { refunds++; return nil, nil })
	_, err := workflowtest.Start[string](env, "Shipping", 995).Result()
	if !errors.Is(err, context.DeadlineExceeded) || refunds != 1 {
		t.Errorf("%v, with %d refunds", err, refunds)
	}
}

// The runner dies after the charge is recorded: the next one does not charge again.
func ExampleEnv_CrashAfter() {
	charges := 0
	shipping := &Shipping{Charge: func(context.Context, int) (string, error) { charges++; return "receipt 7", nil }}
	env := workflowtest.New(t, workflow.Define("Shipping", shipping.Run))
	env.CrashAfter("charge")
	env.Wait("pick-up").TimeOut(1)
	_, _ = workflowtest.Start[string](env, "Shipping", 995).Result()
	if charges != 1 {
		t.Errorf("charged %d times", charges)
	}
}

// In the middle of a sleep it is paused, and stands still for a day.
func ExampleRun_Until() {
	env := workflowtest.New(t, workflow.Define("Shipping", new(Shipping).Run))
	env.Step("charge").Return("receipt 7")
	run := workflowtest.Start[string](env, "Shipping", 995)
	run.Until("sleeps", func(s workflow.Status) bool { return s.State == workflow.Waiting })
	if err := run.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	env.Advance(24 * time.Hour)
	if s := run.Status(); s.State != workflow.Paused {
		t.Errorf("it is %s", s.State)
	}
}

// An instance that began with older code can go on with the one at hand. The file was written by
// skein workflows export Shipping order-7.
func ExampleReplay() {
	workflowtest.Replay(t, workflow.Define("Shipping", new(Shipping).Run), workflowtest.Read(t, "testdata/order-7.json"))
}

// TestExamples runs the examples.
func TestExamples(u *testing.T) {
	t = u
	for _, example := range []func(){Example, ExampleEnv_Step, ExampleEnv_Compensation, ExampleEnv_CrashAfter, ExampleRun_Until} {
		example()
	}
}
