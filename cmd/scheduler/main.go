// Command scheduler makes the schedules of all projects come due, those of agents and of workflows, and cleans up after
// workflows. Run as many as you like.
package main

import (
	_ "time/tzdata" // schedules name time zones, on machines without zone files too

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
)

func main() { process.Main(scheduler.Command()) }
