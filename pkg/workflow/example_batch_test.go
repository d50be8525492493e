package workflow_test

import (
	"context"
	"fmt"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// Orders that were started before are left alone.
func ExampleBound_CreateBatch() {
	start := func(ctx context.Context, p *project.Project, ids []string) error {
		var items []workflow.BatchItem[string]
		for _, id := range ids {
			items = append(items, workflow.Item("params of "+id, workflow.ID(id)))
		}
		batch, err := orders.In(p).CreateBatch(ctx, items)
		if err != nil {
			return err // nothing is stored
		}
		fmt.Println(len(batch.Instances()), "are new")
		return batch.Err()
	}
	_ = start
}

// Everything that failed is told and taken away.
func ExampleBound_List() {
	clear := func(ctx context.Context, p *project.Project) error {
		failed := workflow.States(workflow.Errored)
		for status, err := range orders.In(p).List(ctx, failed) {
			if err != nil {
				return err
			}
			fmt.Println(status.ID, status.Error.Message)
		}
		for order, err := range orders.In(p).DeleteAll(ctx, failed) {
			if err != nil {
				return err
			}
			fmt.Println(order.ID, order.Err)
		}
		return nil
	}
	_ = clear
}
