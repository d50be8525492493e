package expenses

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/workflow"
)

// What becomes of workflows comes here, each thing once and in a turn of its own. It changes the sheet, which every page gets, and
// what people want to hear of is said to every page as {"news": expense}.

// OnWorkflowProgress notes how far a workflow has got.
func (b *Board) OnWorkflowProgress(ctx context.Context, w agent.Tracked, value agent.Value) error {
	progress, err := agent.Decode[Progress](ctx, value)
	if err != nil {
		return err
	}
	return b.note(ctx, w, progress, progress.Status == Waiting)
}

// OnWorkflowComplete notes that an expense is paid.
func (b *Board) OnWorkflowComplete(ctx context.Context, w agent.Tracked, value agent.Value) error {
	payment, err := agent.Decode[Payment](ctx, value)
	if err != nil {
		return err
	}
	return b.note(ctx, w, Progress{Paid, 100, "Paid, reference " + payment.Reference}, true)
}

// OnWorkflowError notes that there is nothing to be paid, and why.
func (b *Board) OnWorkflowError(ctx context.Context, w agent.Tracked, err error) error {
	switch {
	case errors.Is(err, workflow.ErrRejected):
		return b.note(ctx, w, Progress{Status: Rejected}, true)
	case errors.Is(err, context.DeadlineExceeded):
		return b.note(ctx, w, Progress{Status: Failed, Note: "Nobody has answered"}, true)
	}
	return b.note(ctx, w, Progress{Status: Failed, Note: "Refused: " + reason(err)}, true)
}

// reason is what the innermost error of a workflow says.
func reason(err error) string {
	e, ok := errors.AsType[*workflow.InstanceError](err)
	if !ok {
		return err.Error()
	}
	if n := len(e.Causes); n > 0 {
		return e.Causes[n-1].Message
	}
	return e.Message
}

// note changes the expense that a workflow is about, and tells the pages if it is news. An expense that was removed is not there any more.
func (b *Board) note(ctx context.Context, w agent.Tracked, p Progress, isNews bool) error {
	sheet := b.State()
	e, err := sheet.find(w.Metadata["expense"])
	if err != nil || e.Workflow != w.ID {
		return nil
	}
	e.Status, e.Percent = p.Status, max(p.Percent, e.Percent)
	if p.Note != "" {
		e.Note = p.Note
	}
	if isNews {
		text, err := json.Marshal(map[string]Expense{"news": *e})
		if err != nil {
			return fmt.Errorf("news of expense %q: %w", e.ID, err)
		}
		if err := agent.Broadcast(ctx, agent.Text(string(text))); err != nil {
			return err
		}
	}
	return b.SetState(ctx, sheet)
}
