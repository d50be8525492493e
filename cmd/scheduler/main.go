// Command scheduler makes the schedules of all projects come due, those of agents and of workflows, cleans up after
// workflows, and has those go on that have lost what they need for that. Run as many as you like.
package main

import (
	_ "time/tzdata" // schedules name time zones, on machines without zone files too

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
)

func main() { process.Main(scheduler.Command(doctor.Rounds)) }
