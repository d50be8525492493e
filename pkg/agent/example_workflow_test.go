package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/workflow"
)

// Expense is what somebody wants back, Payment what came of it.
type Expense struct {
	ID, By string
	Cents  int
}

// Payment is the result of the workflow.
type Payment struct{ Cents int }

var expenses = workflow.Bind[Expense, Payment]("EXPENSES")

// payExpense is the workflow: it asks the agent's person and waits for up to a week.
func payExpense(ctx context.Context, event workflow.Event[Expense]) (Payment, error) {
	if err := workflow.ReportProgress(ctx, "waiting for approval"); err != nil {
		return Payment{}, err
	}
	limit, err := workflow.WaitForApproval[int](ctx, "manager", workflow.Timeout(7*24*time.Hour))
	if err != nil {
		return Payment{}, err // workflow.ErrRejected, or nobody answered
	}
	return Payment{Cents: min(event.Payload.Cents, limit.Metadata)}, nil
}

// Manager is the agent: it starts the workflow, hands on what its person decides, and hears what comes of it.
type Manager struct{ agent.Base[map[string]string] }

// OnRequest answers the question of a workflow.
func (m *Manager) OnRequest(_ http.ResponseWriter, r *http.Request) error {
	expense, err := agent.GetWorkflow(r.Context(), expenses, r.URL.Query().Get("id"))
	if err != nil {
		return err
	}
	instance, err := expense.Instance(r.Context())
	if err != nil {
		return err
	}
	if r.URL.Query().Has("no") {
		return instance.Reject(r.Context(), "too dear")
	}
	return instance.Approve(r.Context(), 50_00, workflow.Reason("as agreed"))
}

// File is called by whoever wants money back.
func (m *Manager) File(ctx context.Context, e Expense) (string, error) {
	instance, err := agent.RunWorkflow(ctx, expenses, e, workflow.ID(e.ID), workflow.Metadata(map[string]string{"by": e.By}))
	if err != nil {
		return "", err
	}
	return instance.ID(), nil
}

// OnWorkflowProgress is called once for each report.
func (m *Manager) OnWorkflowProgress(ctx context.Context, w agent.Tracked, progress agent.Value) error {
	text, err := agent.Decode[string](ctx, progress)
	if err != nil {
		return err
	}
	return m.note(ctx, w, text)
}

// OnWorkflowComplete is called once when it has completed.
func (m *Manager) OnWorkflowComplete(ctx context.Context, w agent.Tracked, result agent.Value) error {
	payment, err := agent.Decode[Payment](ctx, result)
	if err != nil {
		return err
	}
	return m.note(ctx, w, fmt.Sprintf("paid %d to %s", payment.Cents, w.Metadata["by"]))
}

// OnWorkflowError is called once if it has ended in any other way.
func (m *Manager) OnWorkflowError(ctx context.Context, w agent.Tracked, err error) error {
	if errors.Is(err, workflow.ErrRejected) {
		return m.note(ctx, w, "rejected")
	}
	return m.note(ctx, w, "failed: "+err.Error())
}

func (m *Manager) note(ctx context.Context, w agent.Tracked, text string) error {
	return m.Update(ctx, func(notes *map[string]string) error {
		if *notes == nil {
			*notes = map[string]string{}
		}
		(*notes)[w.ID] = text
		return nil
	})
}

func ExampleRunWorkflow() {
	manager := agent.Define("Manager", func() *Manager { return &Manager{} }, agent.Uses(expenses))
	pay := workflow.Define("Expenses", payExpense)
	_, _ = agent.Host(manager), workflow.Runner(pay) // in two programs, or in one
}
