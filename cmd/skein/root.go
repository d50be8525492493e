package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bench"
	"github.com/skein-run/skein/internal/demo"
	"github.com/skein-run/skein/internal/process"
)

// newRoot makes the command with everything below it.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "skein",
		Short:         "Durable workflows and stateful agents on NATS",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return process.WithHint(err, "see "+cmd.CommandPath()+" --help")
	})
	root.AddCommand(
		newDev(),
		newDemo(),
		newWorkflows(),
		newAgents(),
		newSchedules(),
		newDeadLetters(),
		newDoctor(),
		newBackup(),
		newRestore(),
		newScale(),
		newAuth(),
		newReady(),
		bench.Command(),
		demo.ProcessCommand(),
	)
	return root
}

// untilSignal ends the returned context at the first SIGINT or SIGTERM. A second one ends the program.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// checkOutput refuses what --output cannot be.
func checkOutput(output string) error {
	if !slices.Contains([]string{"text", "json"}, output) {
		return fmt.Errorf("--output: %q: allowed is text or json", output)
	}
	return nil
}
