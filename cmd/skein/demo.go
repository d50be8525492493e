package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/demo"
	"github.com/skein-run/skein/pkg/protocol"
)

var errDemo = errors.New("the demo went wrong")

func newDemo() *cobra.Command {
	o := demo.Options{}
	output := "text"
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run an agent, a workflow and a crash on real processes, and check that nothing is lost",
		Long: "Start a NATS server, a mail server and four processes: a scheduler, an agent host and two workflow runners.\n" +
			"Ask the agent over HTTP, let it start a workflow of another project, kill the runner that executes it, and\n" +
			"check what came of it. Everything is on 127.0.0.1 and goes away at the end. Exit code 1: something was lost.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if o.Limit <= 0 {
				return fmt.Errorf("--limit: %s: allowed is more than 0", o.Limit)
			}
			if o.Shards < 1 || o.Shards > protocol.MaxShards {
				return fmt.Errorf("--shards: %d: allowed is 1 to %d", o.Shards, protocol.MaxShards)
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			out := cmd.OutOrStdout()
			o.Progress = out
			if output == "json" {
				o.Progress = cmd.ErrOrStderr()
			}
			report, err := demo.Run(ctx, o)
			if err != nil {
				return err
			}
			write := report.WriteText
			if output == "json" {
				write = report.WriteJSON
			}
			if err := write(out); err != nil {
				return err
			}
			if !report.OK {
				return errDemo
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&output, "output", output, "text or json; json is one object, and progress goes to the error stream")
	flags.BoolVar(&o.Keep, "keep", false, "keep the folder with the data of the NATS server and the logs")
	flags.DurationVar(&o.Limit, "limit", demo.Limit, "how long the job may take")
	flags.IntVar(&o.Shards, "shards", 1, "streams that the instances of the workflow's project are spread over")
	flags.BoolVar(&o.Unconfirmed, "unconfirmed", false, "do not confirm, so that the job cannot end")
	if err := flags.MarkHidden("unconfirmed"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
