package expenses

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
)

// Claim starts the workflow: what somebody wants back.
type Claim struct {
	// ID is made by the page: if that sends a claim again, there is still one.
	ID    string `json:"id"`
	By    string `json:"by"`
	What  string `json:"what"`
	Cents int64  `json:"cents"`
}

// Progress is what the workflow reports on its way.
type Progress struct {
	Status  Status `json:"status"`
	Percent int    `json:"percent"`
	Note    string `json:"note"`
}

// Payment is what the workflow returns.
type Payment struct {
	Reference string `json:"reference"`
}

// Office is the workflow with what its steps need.
type Office struct {
	// Pay pays a claim. It may be called more than once for one, with the same key.
	Pay func(ctx context.Context, c Claim, key string) (Payment, error)
	// MostCents is what is paid without an invoice.
	MostCents int64
	// Pace is how long the workflow stops after each report, for people to see it.
	Pace time.Duration
	// AnswerWithin is how long the team may take to approve.
	AnswerWithin time.Duration
}

// NewOffice is an Office that pays nobody, but says that it has.
func NewOffice() *Office {
	return &Office{Pay: pretend, MostCents: 5_000_00, Pace: 1500 * time.Millisecond, AnswerWithin: 7 * 24 * time.Hour}
}

// pretend stands for a bank. As a bank would, it pays once for one key.
func pretend(_ context.Context, _ Claim, key string) (Payment, error) {
	return Payment{Reference: fmt.Sprintf("P-%.4X", sha256.Sum256([]byte(key)))}, nil
}

// Workflows defines the workflows of the project.
func Workflows(o *Office) []workflow.Definition {
	return []workflow.Definition{workflow.Define("Reimbursement", o.Reimburse)}
}

// Reimburse is the workflow: it checks a claim, waits for somebody to approve it, and pays. What it reports comes to the board that
// has started it, and so to every page.
func (o *Office) Reimburse(ctx context.Context, event workflow.Event[Claim]) (Payment, error) {
	claim := event.Payload
	if err := o.check(ctx, claim); err != nil {
		return Payment{}, err
	}
	if err := workflow.ReportProgress(ctx, Progress{Waiting, 60, "Waiting for approval"}); err != nil {
		return Payment{}, err
	}
	if _, err := workflow.WaitForApproval[any](ctx, "approval", workflow.Timeout(o.AnswerWithin)); err != nil {
		return Payment{}, err // workflow.ErrRejected, or nobody has answered
	}
	if err := o.report(ctx, Progress{Paying, 80, "Paying out"}); err != nil {
		return Payment{}, err
	}
	return workflow.Do(ctx, "pay", func(ctx context.Context) (Payment, error) {
		return o.Pay(ctx, claim, workflow.Step(ctx).IdempotencyKey)
	}, workflow.Retries(5, 10*time.Second, workflow.Exponential), workflow.Timeout(time.Minute))
}

// check looks at a claim in steps, which may take their time and fail for a while.
func (o *Office) check(ctx context.Context, claim Claim) error {
	for _, step := range []struct {
		name    string
		look    func(context.Context) error
		percent int
		note    string
	}{
		{"read the receipt", func(context.Context) error { return nil }, 10, "Reading the receipt"},
		{"check the amount", func(context.Context) error { return o.checkAmount(claim) }, 25, "Checking the amount"},
		{"look up the account", func(context.Context) error { return nil }, 45, "Looking up the account"},
	} {
		if err := o.report(ctx, Progress{Checking, step.percent, step.note}); err != nil {
			return err
		}
		if err := workflow.Exec(ctx, step.name, step.look, workflow.Timeout(time.Minute)); err != nil {
			return err
		}
	}
	return nil
}

func (o *Office) checkAmount(c Claim) error {
	if c.Cents > o.MostCents {
		return workflow.NonRetryable(errors.New("more than is paid without an invoice"))
	}
	return nil
}

// report reports and gives people time to see it.
func (o *Office) report(ctx context.Context, p Progress) error {
	if err := workflow.ReportProgress(ctx, p); err != nil {
		return err
	}
	return workflow.Sleep(ctx, p.Note, o.Pace)
}
