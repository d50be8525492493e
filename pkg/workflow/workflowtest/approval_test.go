package workflowtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// TestApproval: a person answers after two days, or says no, or never answers.
func TestApproval(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, workflow.Define("Ask", func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		if err := workflow.ReportProgress(ctx, "asked"); err != nil {
			return 0, err
		}
		answer, err := workflow.WaitForApproval[int](ctx, "manager", workflow.Timeout(72*time.Hour))
		return answer.Metadata, err
	}))
	yes := workflowtest.Start[int](env, "Ask", 1)
	env.After(48*time.Hour, func() {
		if err := yes.Approve(t.Context(), 7); err != nil {
			t.Error(err)
		}
	})
	if n, err := yes.Result(); n != 7 || err != nil {
		t.Errorf("approved: %d, %v", n, err)
	}
	no := workflowtest.Start[int](env, "Ask", 1)
	if err := no.Reject(t.Context(), "too dear"); err != nil {
		t.Fatal(err)
	}
	if _, err := no.Result(); !errors.Is(err, workflow.ErrRejected) {
		t.Errorf("rejected: %v", err)
	}
	if _, err := workflowtest.Start[int](env, "Ask", 1).Result(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not answered: %v", err)
	}
}
