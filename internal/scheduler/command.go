package scheduler

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/process"
)

// Command makes the command that runs a scheduler until it is told to stop. Rounds looks after the instances of projects; nil: nobody does.
func Command(rounds janitor.Rounds) *cobra.Command {
	return process.Command(process.Spec{
		Use:      "scheduler",
		Short:    "Make the schedules of agents and workflows come due, and clean up after workflows",
		Settings: []string{process.SettingCleanAfter, process.SettingDoctorEvery, process.SettingLateAfter, process.SettingNATSUsers},
		Parts:    []string{partClock, partProjects},
		Run: func(ctx context.Context, env *process.Env) error {
			if env.Settings.NATSUsers != "" {
				return newAccounts(env, rounds).Run(ctx)
			}
			return New(optionsOf(env, rounds)).Run(ctx)
		},
	})
}

func optionsOf(env *process.Env, rounds janitor.Rounds) Options {
	return Options{
		NC: env.NC, JS: env.JS, Log: env.Log, Health: env.Health, Replicas: env.Settings.Replicas,
		Monitor: env.Settings.NATSMonitor, Production: env.Settings.Production,
		Cleaning: janitor.Settings{Age: time.Duration(env.Settings.CleanAfter)},
		Rounds:   rounds, RoundsEvery: time.Duration(env.Settings.DoctorEvery),
		Metrics: env.Metrics, LateAfter: time.Duration(env.Settings.ScheduleLateAfter),
	}
}
