package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/scheduler"
)

// What is promised of schedules.
const (
	lateMillis  = 1500
	idlePercent = 0.1 // of a CPU
)

// scheduleLoad says how much is measured.
type scheduleLoad struct {
	armed, rate, turns, restarts, procs int
	every, duration, idleFor, settle    time.Duration
	// lead is how long before they fire schedules are stored.
	lead time.Duration
}

func schedulesCommand() *cobra.Command {
	var l scheduleLoad
	return measured{
		use: "schedules", short: "Memory, restarts, lateness and idle CPU time of schedules",
		procs: &l.procs, procsOf: "server, scheduler, host and client",
		counts: []count{
			{"armed", &l.armed, 100_000, 1, 10_000_000, "schedules that are armed far in the future"},
			{"rate", &l.rate, 1000, 1, 100_000, "firings per second"},
			{"turns", &l.turns, 200, 1, 100_000, "firings per second of agents that are there and take them"},
			{"restarts", &l.restarts, 5, 1, 1000, "schedulers that are killed and started again"},
		},
		spans: []span{
			{"every", &l.every, 5 * time.Second, time.Second, time.Hour, "interval of the schedules that fire"},
			{"duration", &l.duration, 30 * time.Second, time.Second, time.Hour, "how long they fire, at least once"},
			{"idle-for", &l.idleFor, 30 * time.Second, 100 * time.Millisecond, time.Hour, "how long the scheduler has nothing to do while its CPU time is measured"},
			{"settle", &l.settle, 5 * time.Second, 0, time.Hour, "how long a process rests before its memory is measured"},
			{"lead", &l.lead, 2 * time.Second, time.Second, time.Hour, "how long before they fire schedules are stored, beside 3 ms for each"},
		},
		run: func(ctx context.Context, p *processes) (AgentReport, error) {
			l.duration = max(l.duration, l.every)
			return l.run(ctx, p)
		},
	}.command()
}

// schedulerCommand is a scheduler like any other; it only says on stdout when it takes work. It needs a health_addr.
func schedulerCommand() *cobra.Command {
	cmd := scheduler.Command(doctor.Rounds)
	cmd.Hidden = true
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		go func() { // ends with the process, at the latest
			url := "http://" + cmd.Flag("health-addr").Value.String() + "/readyz"
			for tick := time.Tick(5 * time.Millisecond); !answersOK(url); {
				<-tick
			}
			freeOnSignal(cmd.Context())
			fmt.Fprintln(cmd.OutOrStdout(), "ready scheduler")
		}()
		return run(cmd, args)
	}
	return cmd
}

// answersOK asks on a connection of its own: one that stayed open would have to be looked after.
func answersOK(url string) bool {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return false
	}
	_ = response.Body.Close() // nothing in it is wanted
	return response.StatusCode == http.StatusOK
}

// freeAddr is an address that nobody listens on.
func freeAddr() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
