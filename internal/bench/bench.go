// Package bench measures what users feel: the time from create to result of a workflow, how many instances complete per
// second, how long calls of agents take and how long they are silent when their host dies, what sockets of clients cost, and
// how late schedules fire; with server, runners, hosts and client as processes of their own.
//
// It must never report a figure of a run in which an instance failed or was lost.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Params start one instance of the measured workflow.
type Params struct {
	Steps int `json:"steps"`
}

// binding and class of the measured workflow.
const (
	projectName = "bench"
	bindingName = "STEPS"
	className   = "Steps"
)

// steps is the measured workflow: steps whose bodies do nothing, each waiting for the one before.
func steps(ctx context.Context, event workflow.Event[Params]) (int, error) {
	sum := 0
	for i := range event.Payload.Steps {
		n, err := workflow.Do(ctx, fmt.Sprintf("step %d", i+1), func(context.Context) (int, error) { return sum + 1, nil })
		if err != nil {
			return 0, err
		}
		sum = n
	}
	return sum, nil
}

// configFile is the skein.jsonc of the runner: what config says.
var configFile = fmt.Sprintf(`{ "name": %q, "workflows": [
	{ "name": %q, "class_name": %q }, { "name": %q, "class_name": %q, "limits": { "steps": %d } },
	{ "name": %q, "class_name": %q },
] }`, projectName, bindingName, className, longBinding, longClass, longLimit, busyBinding, busyClass)

// config is what the measuring process opens, as the user that the environment names, whom all processes beside it take from there.
func config(url string) project.Config {
	c := project.Config{Name: projectName, Workflows: []project.Workflow{
		{Name: bindingName, ClassName: className}, {Name: longBinding, ClassName: longClass, StepLimit: longLimit},
		{Name: busyBinding, ClassName: busyClass},
	}}
	c.Settings.NATSURL = url
	c.Settings.LogLevel = "warn"
	for setting, at := range map[string]*string{
		"nats_creds": &c.Settings.NATSCreds, "nats_nkey": &c.Settings.NATSNKey, "nats_ca": &c.Settings.NATSCA,
		"nats_cert": &c.Settings.NATSCert, "nats_key": &c.Settings.NATSKey,
	} {
		*at = os.Getenv(process.EnvName(setting))
	}
	return c
}

// Setting says where something was measured.
type Setting struct {
	Benchmark string `json:"benchmark"`
	Setup     string `json:"setup"`
	Go        string `json:"go"`
	CPUs      int    `json:"cpus"`
	// Procs is the GOMAXPROCS of each of the processes.
	Procs int `json:"gomaxprocs"`
}

func setting(benchmark string, w world) Setting {
	setup := "server, runner and client as three processes, TCP on loopback, one NATS server, file store, default sync"
	switch {
	case w.url != "":
		setup = "runner and client as two processes, the servers of --nats-url as they are"
	case w.syncAlways:
		setup = "server, runner and client as three processes, TCP on loopback, one NATS server, file store, sync always"
	}
	return Setting{
		Benchmark: benchmark, Setup: setup,
		Go: runtime.Version(), CPUs: runtime.NumCPU(), Procs: w.procs,
	}
}

// table begins a table with the setting.
func (s Setting) table(w io.Writer) *tabwriter.Writer {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "benchmark\t%s\n", s.Benchmark)
	fmt.Fprintf(t, "setup\t%s\n", s.Setup)
	fmt.Fprintf(t, "machine\t%d CPUs, GOMAXPROCS %d for each process, %s\n", s.CPUs, s.Procs, s.Go)
	return t
}

func writeJSON(w io.Writer, report any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}

// Report is the outcome of a measurement.
type Report struct {
	Setting
	Shards    int     `json:"shards"`
	Steps     int     `json:"steps"`
	InFlight  int     `json:"in_flight"`
	Completed int     `json:"completed"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"completed_per_second"`
	// P50 to Max are milliseconds from before the create to after the result.
	P50 float64 `json:"p50_ms"`
	P90 float64 `json:"p90_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// load is one measurement.
type load struct {
	name     string
	steps    int
	inFlight int
	world    world
	warmUp   time.Duration
	duration time.Duration
}

// run keeps inFlight instances going for the duration and measures those that began after the warm-up.
func (l load) run(ctx context.Context, url string) (Report, error) {
	p, err := project.Open(ctx, config(url))
	if err != nil {
		return Report{}, err
	}
	defer p.Close()
	binding := workflow.Bind[Params, int](bindingName).In(p)
	begin := time.Now().Add(l.warmUp)
	end := begin.Add(l.duration)
	took := make([][]time.Duration, l.inFlight)
	group, ctx := errgroup.WithContext(ctx)
	for i := range took {
		group.Go(func() error {
			for time.Now().Before(end) {
				start := time.Now()
				if err := one(ctx, binding, l.steps); err != nil {
					return err
				}
				if start.After(begin) {
					took[i] = append(took[i], time.Since(start))
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Report{}, fmt.Errorf("%s: %w", l.name, err)
	}
	return l.report(time.Since(begin), slices.Concat(took...)), nil
}

func one(ctx context.Context, binding workflow.Bound[Params, int], steps int) error {
	instance, err := binding.Create(ctx, Params{Steps: steps})
	if err != nil {
		return err
	}
	result, err := instance.Result(ctx)
	if err != nil {
		return err
	}
	if result != steps {
		return fmt.Errorf("instance %s ended with %d, want %d", instance.ID(), result, steps)
	}
	return nil
}

func (l load) report(took time.Duration, each []time.Duration) Report {
	slices.Sort(each)
	return Report{
		Setting: setting(l.name, l.world), Shards: l.world.shards, Steps: l.steps, InFlight: l.inFlight, Completed: len(each),
		Seconds: took.Seconds(), PerSecond: float64(len(each)) / took.Seconds(),
		P50: quantile(each, 0.5), P90: quantile(each, 0.9), P99: quantile(each, 0.99), Max: quantile(each, 1),
	}
}

// quantile is the q-th quantile of sorted durations in milliseconds, rounded to microseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return math.Round(float64(sorted[i])/float64(time.Microsecond)) / 1000
}

func (r Report) print(w io.Writer, output string) error {
	if output == "json" {
		return writeJSON(w, r)
	}
	t := r.table(w)
	fmt.Fprintf(t, "load\t%d steps, %d in flight, %d shards\n", r.Steps, r.InFlight, r.Shards)
	fmt.Fprintf(t, "completed\t%d in %.1f s\n", r.Completed, r.Seconds)
	fmt.Fprintf(t, "throughput\t%.0f completed/s\n", r.PerSecond)
	fmt.Fprintf(t, "create to result\tp50 %.2f ms, p90 %.2f ms, p99 %.2f ms, max %.2f ms\n", r.P50, r.P90, r.P99, r.Max)
	return t.Flush()
}

// Command is `skein bench`.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure what users of workflows and agents feel, on this machine"}
	cmd.AddCommand(
		measure(load{name: "latency", steps: 10, inFlight: 1}, "Time from create to result, one instance at a time"),
		measure(load{name: "throughput", steps: 5, inFlight: 64}, "Completed instances per second"),
		longCommand(), agentsCommand(), socketsCommand(), schedulesCommand(), runnersCommand(), serverCommand(), runnerCommand(), hostCommand(), schedulerCommand(), audienceCommand(), burnerCommand(),
	)
	return cmd
}

func measure(l load, short string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: l.name, Short: short, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.validate(output); err != nil {
				return err
			}
			runtime.GOMAXPROCS(l.world.procs)
			report, err := withProcesses(cmd, l.world, func(ctx context.Context, p *processes) (Report, error) { return l.run(ctx, p.url) })
			if err != nil {
				return err
			}
			return report.print(cmd.OutOrStdout(), output)
		},
	}
	cmd.Flags().IntVar(&l.steps, "steps", l.steps, "steps of one instance")
	cmd.Flags().IntVar(&l.inFlight, "in-flight", l.inFlight, "instances under way at a time")
	// Processes that share the CPUs wake each other: with more threads than their share, half of the time of an idle
	// round trip goes into waking a thread of the same process.
	cmd.Flags().IntVar(&l.world.procs, "procs", max(1, runtime.NumCPU()/3), "GOMAXPROCS of server, runner and client each")
	cmd.Flags().DurationVar(&l.duration, "duration", 10*time.Second, "how long to measure")
	cmd.Flags().DurationVar(&l.warmUp, "warm-up", 2*time.Second, "how long to run before measuring")
	cmd.Flags().IntVar(&l.world.shards, "shards", 1, "streams that the instances are spread over")
	cmd.Flags().BoolVar(&l.world.syncAlways, "sync-always", false, "let the NATS server sync each message to disk before it acknowledges it")
	cmd.Flags().StringVar(&l.world.url, "nats-url", "", "measure on this NATS server instead of one that is started for it")
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func (l load) validate(output string) error {
	switch {
	case l.steps < 1 || l.steps > 1000:
		return fmt.Errorf("--steps: %d: allowed is 1 to 1000", l.steps)
	case l.inFlight < 1 || l.inFlight > 10_000:
		return fmt.Errorf("--in-flight: %d: allowed is 1 to 10000", l.inFlight)
	case l.world.procs < 1 || l.world.procs > 1024:
		return fmt.Errorf("--procs: %d: allowed is 1 to 1024", l.world.procs)
	case l.world.shards < 1 || l.world.shards > protocol.MaxShards:
		return fmt.Errorf("--shards: %d: allowed is 1 to %d", l.world.shards, protocol.MaxShards)
	case l.world.syncAlways && l.world.url != "":
		return fmt.Errorf("--sync-always: a server of --nats-url has its own sync policy")
	case l.duration <= 0 || l.duration > time.Hour:
		return fmt.Errorf("--duration: %v: allowed is more than 0 and at most 1h", l.duration)
	case l.warmUp < 0 || l.warmUp > time.Hour:
		return fmt.Errorf("--warm-up: %v: allowed is 0 to 1h", l.warmUp)
	case output != "text" && output != "json":
		return fmt.Errorf("--output: %q: allowed is text or json", output)
	}
	return nil
}
