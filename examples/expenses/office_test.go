package expenses

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// bank notes under which keys it was asked to pay, and fails as often as it is told to.
type bank struct {
	mu    sync.Mutex // guards what follows
	fails int
	keys  []string
}

func (b *bank) pay(_ context.Context, _ Claim, key string) (Payment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys = append(b.keys, key)
	if len(b.keys) <= b.fails {
		return Payment{}, errors.New("the bank is closed")
	}
	return Payment{Reference: "P-1"}, nil
}

func claim(cents int64) Claim { return Claim{ID: "c1", By: "Ada", What: "Taxi", Cents: cents} }

// start starts the workflow with a bank, in a world in which time passes at once.
func start(t *testing.T, b *bank, cents int64) (*workflowtest.Env, *workflowtest.Run[Payment]) {
	t.Helper()
	office := NewOffice()
	office.Pay = b.pay
	env := workflowtest.Load(t, "skein.jsonc", Workflows(office)...)
	return env, workflowtest.Start[Payment](env, "REIMBURSEMENT", claim(cents))
}

// TestApprovedIsPaidOnce: the bank is asked again until it answers, each time under the same key, and no more after a crash.
func TestApprovedIsPaidOnce(t *testing.T) {
	t.Parallel()
	b := &bank{fails: 2}
	env, run := start(t, b, 24_50)
	env.CrashAfter("check the amount")
	env.CrashAfter("approval")
	env.CrashAfter("pay")
	env.After(24*time.Hour, func() {
		if err := run.Approve(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
	if payment, err := run.Result(); err != nil || payment.Reference != "P-1" {
		t.Errorf("payment %+v, %v", payment, err)
	}
	if keys := slices.Compact(slices.Clone(b.keys)); len(b.keys) != 3 || len(keys) != 1 {
		t.Errorf("the bank was asked under %q, want one key three times", b.keys)
	}
}

func TestNothingIsPaid(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		cents  int64
		answer func(*workflowtest.Run[Payment]) error
		ends   func(error) bool
	}{
		{"rejected", 24_50, func(r *workflowtest.Run[Payment]) error { return r.Reject(t.Context(), "no") },
			func(err error) bool { return errors.Is(err, workflow.ErrRejected) }},
		{"not answered", 24_50, nil, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
		{"too much", 5_000_01, nil, func(err error) bool { return strings.Contains(reason(err), "more than is paid without an invoice") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := &bank{}
			_, run := start(t, b, test.cents)
			if test.answer != nil {
				if err := test.answer(run); err != nil {
					t.Fatal(err)
				}
			}
			if payment, err := run.Result(); err == nil || !test.ends(err) {
				t.Errorf("payment %+v, %v", payment, err)
			}
			if len(b.keys) > 0 {
				t.Error("the bank was asked")
			}
		})
	}
}
