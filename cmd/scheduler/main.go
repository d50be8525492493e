// Command scheduler makes the schedules of all projects' agents come due. Run as many as you like.
package main

import (
	"context"
	_ "time/tzdata" // schedules name time zones, on machines without zone files too

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
)

func main() {
	process.Main(process.Command(process.Spec{
		Use:   "scheduler",
		Short: "Make the schedules of agents come due",
		Run: func(ctx context.Context, env *process.Env) error {
			return scheduler.New(scheduler.Options{
				NC: env.NC, JS: env.JS, Log: env.Log, Health: env.Health, Replicas: env.Settings.Replicas,
			}).Run(ctx)
		},
	}))
}
