package workflow

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// ReportProgress says how far the instance is: to the agent that has started it with agent.RunWorkflow, whose
// OnWorkflowProgress gets it, and to whoever subscribes. It is recorded and told once, however often the code runs and
// whoever dies meanwhile; what one instance reports is told in the order in which it was reported. It returns at once.
//
// It is for workflow code between steps; the body of a step calls the agent, or tells it something. A report counts as a
// step against limits.steps. What is reported decides about nothing: reports may be added to and taken from code that has
// instances under way, which then may tell one once more. At most protocol.InlinePayload bytes as JSON.
func ReportProgress(ctx context.Context, progress any) error {
	return report(ctx, "report progress", "", progress)
}

// ReportEvent is ReportProgress for something that has happened, of a type. OnWorkflowEvent of the agent gets it.
func ReportEvent(ctx context.Context, eventType string, payload any) error {
	if err := protocol.CheckEventType(eventType); err != nil {
		return fmt.Errorf("report event: %w", err)
	}
	return report(ctx, fmt.Sprintf("report event %q", eventType), eventType, payload)
}

func report(ctx context.Context, what, eventType string, value any) error {
	scope, err := execution.From(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return &EncodingError{What: what, Err: err}
	}
	if len(raw) > protocol.InlinePayload {
		return &SizeError{What: what, Size: int64(len(raw)), Limit: protocol.InlinePayload}
	}
	if err := scope.Report(ctx, eventType, raw); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
