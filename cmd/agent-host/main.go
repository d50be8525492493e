// Command agent-host serves the agents of the example project flight-desk. The main of a project of your own looks the
// same, with your own classes.
package main

import (
	_ "time/tzdata" // schedules name time zones, on machines without zone files too

	"github.com/skein-run/skein/examples/flightdesk"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

func main() { project.Main(agent.Host(flightdesk.Classes()...)) }
