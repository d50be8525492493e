package bench

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// patience bounds what has many clients do something.
	patience = 3 * time.Minute
	// idlePerAgent is how many idle sockets there are to an agent.
	idlePerAgent = protocol.MaxConnections / 2
)

// socketLoad says how much is measured.
type socketLoad struct {
	calls, idle, audience, turns, storm, procs int
	idleFor, pause, settle                     time.Duration
	// equal has the clients that hear broadcasts run at the priority of everything else.
	equal bool
}

// notes say at which priority the clients run.
func (l socketLoad) notes() string {
	if l.equal {
		return "clients that hear broadcasts share the CPUs with server and hosts as equals (--equal-clients)"
	}
	return "clients that hear broadcasts are on other machines in earnest: here they run when neither server nor hosts want the CPUs (see --equal-clients)"
}

func socketsCommand() *cobra.Command {
	var l socketLoad
	cmd := measured{
		use: "sockets", short: "Calls, broadcasts, memory and returns of clients over sockets",
		procs: &l.procs, procsOf: "server, hosts and clients",
		counts: []count{
			{"calls", &l.calls, 2000, 1, 1_000_000, "calls of each kind"},
			{"idle", &l.idle, 10_000, 1, 100_000, "sockets that are open while their agents sleep"},
			{"audience", &l.audience, 1000, 1, protocol.MaxConnections, "sockets that hear what an agent says, and whose host is stopped"},
			{"turns", &l.turns, 500, 1, 10_000, "turns of each kind"},
			{"storm", &l.storm, protocol.MaxConnections, 1, protocol.MaxConnections, "clients that connect to one agent at once"},
		},
		spans: []span{
			{"idle-for", &l.idleFor, 40 * time.Second, 0, 2 * time.Minute,
				"how long sockets are idle before memory is measured; clients are asked every 30s whether they are there"},
			{"pause", &l.pause, 50 * time.Millisecond, 0, 2 * time.Minute, "what lies between two turns when an agent talks to its clients"},
			{"settle", &l.settle, 5 * time.Second, 0, 2 * time.Minute, "how long a process rests before its memory is measured"},
		},
		run: func(ctx context.Context, p *processes) (AgentReport, error) { return l.run(ctx, p) },
	}.command()
	cmd.Flags().BoolVar(&l.equal, "equal-clients", false,
		"have the clients that hear broadcasts compete with server and hosts for the CPUs; without that they run only when those rest (on Linux: SCHED_IDLE)")
	return cmd
}
