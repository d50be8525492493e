package scheduler

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
)

// Command makes the command that runs a scheduler until it is told to stop.
func Command() *cobra.Command {
	return process.Command(process.Spec{
		Use:   "scheduler",
		Short: "Make the schedules of agents come due",
		Run: func(ctx context.Context, env *process.Env) error {
			return New(Options{
				NC: env.NC, JS: env.JS, Log: env.Log, Health: env.Health, Replicas: env.Settings.Replicas,
			}).Run(ctx)
		},
	})
}
