package workflowtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

const shop = `{ "name": "shop", "workflows": [
	{ "name": "order", "binding": "ORDER", "class_name": "Order", "limits": { "steps": 3 } },
	{ "name": "order", "binding": "PAYMENT", "class_name": "Payment", "script_name": "bank" },
	{ "name": "audit", "binding": "AUDIT", "class_name": "Audit", "script_name": "police" },
] }`

var payment = workflow.Bind[int, string]("PAYMENT")

// order calls a workflow of another project.
func order(ctx context.Context, e workflow.Event[int]) (string, error) {
	got, err := workflow.Call(ctx, "pay", payment, e.Payload, workflow.Timeout(time.Hour))
	if errors.Is(err, context.DeadlineExceeded) {
		return "unpaid", nil
	}
	if err != nil {
		return "", err
	}
	if _, err := workflow.Bind[int, int]("AUDIT").Get(ctx, "a"); !errors.Is(err, workflow.ErrBetweenSteps) {
		return "", err
	}
	return got, nil
}

func pay(ctx context.Context, e workflow.Event[int]) (string, error) {
	return "paid", workflow.Sleep(ctx, "at night", 10*time.Minute)
}

// TestLoad: names and bindings are those of the project's file, and other projects are played by the test.
func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(path, []byte(shop), 0o600); err != nil {
		t.Fatal(err)
	}
	env := workflowtest.Load(t, path, workflow.Define("Order", order), workflow.Define("Payment", pay))
	run := workflowtest.Start[string](env, "ORDER", 7)
	if got, err := run.Result(); got != "paid" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if s := run.Status(); s.Workflow != "order" || s.Source.Project != "shop" {
		t.Errorf("it is %q, from %q", s.Workflow, s.Source.Project)
	}
	env.Wait("pay").TimeOut(1)
	began := env.Now()
	if got, err := workflowtest.Start[string](env, "ORDER", 7).Result(); got != "unpaid" || err != nil {
		t.Errorf("with a call that times out: got %q, %v", got, err)
	}
	if env.Now() != began {
		t.Errorf("the clock went on by %v", env.Now().Sub(began))
	}
}

// TestReplayOfARun: histories come from runs in tests as well as from production.
func TestReplayOfARun(t *testing.T) {
	t.Parallel()
	env, o := setup(t)
	env.Wait("answer").TimeOut(1)
	run := workflowtest.Start[report](env, "Onboarding", "jo")
	if _, err := run.Result(); err != nil {
		t.Fatal(err)
	}
	history, err := run.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(history)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "history.json")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	mails := o.mails.Load()
	workflowtest.Replay(t, workflow.Define("Onboarding", o.run), workflowtest.Read(t, path))
	if o.mails.Load() != mails {
		t.Error("a body ran")
	}
	said := fails(t, func(t testing.TB) {
		other := workflow.Define("Onboarding", func(context.Context, workflow.Event[string]) (report, error) { return report{}, nil })
		workflowtest.Replay(t, other, history)
	})
	if !strings.Contains(said, `the log holds step "welcome", sleep "look around"`) || !strings.Contains(said, "Instances like this one would be held") {
		t.Errorf("said %q", said)
	}
}

// TestMockedCompensation: a mock of a step is none of its compensation.
func TestMockedCompensation(t *testing.T) {
	t.Parallel()
	undone := 0
	env := workflowtest.New(t, workflow.Define("Books", func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		_, err := workflow.Do(ctx, "book", func(context.Context) (int, error) { return 1, nil },
			workflow.Compensate(func(_ context.Context, seat int, _ error) error { undone = seat; return nil }, workflow.Retries(1, time.Hour, workflow.Constant)))
		return 0, errors.Join(err, errors.New("on purpose"))
	}))
	env.Step("book").Return(7)
	env.Compensation("book").Fail(errors.New("busy"), 1)
	run := workflowtest.Start[int](env, "Books", 1)
	if _, err := run.Result(); err == nil {
		t.Error("it has no error")
	}
	if s := run.Status(); undone != 7 || s.Rollback == nil || s.Rollback.Outcome != "complete" {
		t.Errorf("undone is %d, %+v", undone, s.Rollback)
	}
}
