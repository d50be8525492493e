package bench

import (
	"fmt"
	"runtime"
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

func (l socketLoad) validate(output string) error {
	for _, f := range []struct {
		flag            string
		value, min, max int
	}{
		{"calls", l.calls, 1, 1_000_000}, {"idle", l.idle, 1, 100_000}, {"audience", l.audience, 1, protocol.MaxConnections},
		{"turns", l.turns, 1, 10_000}, {"storm", l.storm, 1, protocol.MaxConnections}, {"procs", l.procs, 1, 1024},
	} {
		if f.value < f.min || f.value > f.max {
			return fmt.Errorf("--%s: %d: allowed is %d to %d", f.flag, f.value, f.min, f.max)
		}
	}
	for _, f := range []struct {
		flag  string
		value time.Duration
	}{{"idle-for", l.idleFor}, {"pause", l.pause}, {"settle", l.settle}} {
		if f.value < 0 || f.value > 2*time.Minute {
			return fmt.Errorf("--%s: %v: allowed is 0 to 2m", f.flag, f.value)
		}
	}
	if output != "text" && output != "json" {
		return fmt.Errorf("--output: %q: allowed is text or json", output)
	}
	return nil
}

func socketsCommand() *cobra.Command {
	l := socketLoad{procs: max(1, runtime.NumCPU()/3)}
	var output string
	cmd := &cobra.Command{
		Use: "sockets", Short: "Calls, broadcasts, memory and returns of clients over sockets", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.validate(output); err != nil {
				return err
			}
			runtime.GOMAXPROCS(l.procs)
			report, err := withServer(cmd, "", l.procs, l.run)
			if err != nil {
				return err
			}
			return report.print(cmd.OutOrStdout(), output)
		},
	}
	for _, f := range []struct {
		name  string
		into  *int
		value int
		usage string
	}{
		{"calls", &l.calls, 2000, "calls of each kind"},
		{"idle", &l.idle, 10_000, "sockets that are open while their agents sleep"},
		{"audience", &l.audience, 1000, "sockets that hear what an agent says, and whose host is stopped"},
		{"turns", &l.turns, 500, "turns of each kind"},
		{"storm", &l.storm, protocol.MaxConnections, "clients that connect to one agent at once"},
		{"procs", &l.procs, l.procs, "GOMAXPROCS of server, hosts and clients each"},
	} {
		cmd.Flags().IntVar(f.into, f.name, f.value, f.usage)
	}
	for _, f := range []struct {
		name  string
		into  *time.Duration
		value time.Duration
		usage string
	}{
		{"idle-for", &l.idleFor, 40 * time.Second, "how long sockets are idle before memory is measured; clients are asked every 30s whether they are there"},
		{"pause", &l.pause, 50 * time.Millisecond, "what lies between two turns when an agent talks to its clients"},
		{"settle", &l.settle, 5 * time.Second, "how long a process rests before its memory is measured"},
	} {
		cmd.Flags().DurationVar(f.into, f.name, f.value, f.usage)
	}
	cmd.Flags().BoolVar(&l.equal, "equal-clients", false,
		"have the clients that hear broadcasts compete with server and hosts for the CPUs; without that they run only when those rest (on Linux: SCHED_IDLE)")
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}
