package bench

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/spf13/cobra"

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
}

func (l scheduleLoad) validate(output string) error {
	for _, f := range []struct {
		flag            string
		value, min, max int
	}{
		{"armed", l.armed, 1, 10_000_000}, {"rate", l.rate, 1, 100_000}, {"turns", l.turns, 1, 100_000}, {"restarts", l.restarts, 1, 1000},
		{"procs", l.procs, 1, 1024},
	} {
		if f.value < f.min || f.value > f.max {
			return fmt.Errorf("--%s: %d: allowed is %d to %d", f.flag, f.value, f.min, f.max)
		}
	}
	for _, f := range []struct {
		flag       string
		value, min time.Duration
	}{{"every", l.every, time.Second}, {"duration", l.duration, l.every}, {"idle-for", l.idleFor, 100 * time.Millisecond}, {"settle", l.settle, 0}} {
		if f.value < f.min || f.value > time.Hour {
			return fmt.Errorf("--%s: %v: allowed is %v to 1h", f.flag, f.value, f.min)
		}
	}
	if output != "text" && output != "json" {
		return fmt.Errorf("--output: %q: allowed is text or json", output)
	}
	return nil
}

func schedulesCommand() *cobra.Command {
	l := scheduleLoad{procs: max(1, runtime.NumCPU()/3)}
	var output string
	cmd := &cobra.Command{
		Use: "schedules", Short: "Memory, restarts, lateness and idle CPU time of schedules", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
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
		{"armed", &l.armed, 100_000, "schedules that are armed far in the future"},
		{"rate", &l.rate, 1000, "firings per second"},
		{"turns", &l.turns, 200, "firings per second of agents that are there and take them"},
		{"restarts", &l.restarts, 5, "schedulers that are killed and started again"},
		{"procs", &l.procs, l.procs, "GOMAXPROCS of server, scheduler, host and client each"},
	} {
		cmd.Flags().IntVar(f.into, f.name, f.value, f.usage)
	}
	for _, f := range []struct {
		name  string
		into  *time.Duration
		value time.Duration
		usage string
	}{
		{"every", &l.every, 5 * time.Second, "interval of the schedules that fire"},
		{"duration", &l.duration, 30 * time.Second, "how long they fire"},
		{"idle-for", &l.idleFor, 30 * time.Second, "how long the scheduler has nothing to do while its CPU time is measured"},
		{"settle", &l.settle, 5 * time.Second, "how long a process rests before its memory is measured"},
	} {
		cmd.Flags().DurationVar(f.into, f.name, f.value, f.usage)
	}
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

// schedulerCommand is a scheduler like any other; it only says on stdout when it takes work. It needs a health_addr.
func schedulerCommand() *cobra.Command {
	cmd := scheduler.Command()
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
