package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"
)

func (w *workflows) export() *cobra.Command {
	return &cobra.Command{
		Use:   "export WORKFLOW ID",
		Short: "Write all that is stored of an instance as JSON, to look at it or to replay it in tests",
		Long: "Write all that is stored of an instance of this project to the output, as JSON: how it began, its log, and the\n" +
			"values that were too large for messages. It shows the results of sensitive steps, too: nothing can be replayed\n" +
			"without them. workflowtest.Replay holds code against such a file.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return w.one(cmd, args, func(ctx context.Context, i *instance) error {
				history, err := i.Export(ctx)
				if err != nil {
					return err
				}
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(history)
			})
		},
	}
}
