package workflow_test

import (
	"context"
	"fmt"
	"io"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

var orders = workflow.Bind[string, string]("ORDERS")

// A subscription goes on where the last one stopped: its cursor is stored with what was made of the notices.
func ExampleInstance_Subscribe() {
	show := func(ctx context.Context, p *project.Project, id string, last workflow.Cursor, out io.Writer) (workflow.Cursor, error) {
		order, err := orders.In(p).Get(ctx, id)
		if err != nil {
			return last, err
		}
		wanted := workflow.Only(workflow.NoticeStepStarted, workflow.NoticeStepCompleted, workflow.NoticeStepFailed)
		for notice, err := range order.Subscribe(ctx, workflow.After(last), wanted) {
			if err != nil {
				return last, err
			}
			fmt.Fprintln(out, notice.Time.Format("15:04:05"), notice.Kind, notice.Step.Name)
			last = notice.Cursor
		}
		return last, nil // it has ended
	}
	_ = show
}
