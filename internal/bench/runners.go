package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

const (
	busyBinding = "BUSY"
	busyClass   = "Busy"
	// busySteps is how many steps an instance has that is executed when its runner is killed, busyFor how long the body of each takes.
	busySteps = 200
	busyFor   = 100 * time.Millisecond
	// fleet is how many runners there are.
	fleet = 3
	// defaultTakeOver is the setting take_over_after of consumers that are created without one.
	defaultTakeOver = 5 * time.Second
	// takenWithin and takenWithinFast are the limits for the next step of an instance whose runner was killed, in milliseconds.
	takenWithin     = 6000
	takenWithinFast = 2000
)

// busy is a workflow that is in the middle of a step whenever its runner is killed.
func busy(ctx context.Context, _ workflow.Event[Params]) (int, error) {
	for i := range busySteps {
		_, err := workflow.Do(ctx, "step", func(ctx context.Context) (int, error) {
			select {
			case <-time.After(busyFor):
				return i, nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return busySteps, nil
}

// runnerLoad says how much is measured.
type runnerLoad struct {
	instances, rounds, fastRounds, leaders, burners, procs int
	fast                                                   time.Duration
}

func runnersCommand() *cobra.Command {
	var l runnerLoad
	return measured{
		use: "runners", short: "How long instances stand still whose runner is killed, or whose NATS server",
		procs: &l.procs, procsOf: "servers and runners",
		counts: []count{
			{"instances", &l.instances, 30, fleet, 1000, "instances that are executed at a time, by three runners"},
			{"rounds", &l.rounds, 10, 0, 1000, "runners that are killed with the default setting, and as many with all CPUs busy"},
			{"fast-rounds", &l.fastRounds, 20, 0, 1000, "runners that are killed with a setting of --fast, and as many with all CPUs busy"},
			{"leaders", &l.leaders, 3, 0, 100, "leading NATS servers, of three, that are killed"},
			{"burners", &l.burners, 2 * runtime.NumCPU(), 1, 1024, "processes that never rest, where all CPUs are to be busy"},
		},
		spans: []span{{"fast", &l.fast, 1500 * time.Millisecond, time.Second, time.Minute, "the setting take_over_after beside the default"}},
		run:   func(ctx context.Context, p *processes) (AgentReport, error) { return l.run(ctx, p) },
	}.command()
}

// runnerRun is a measurement under way.
type runnerRun struct {
	runnerLoad
	*processes
	report  *AgentReport
	project *project.Project
	fleet   []*exec.Cmd
}

func (l runnerLoad) run(ctx context.Context, p *processes) (AgentReport, error) {
	report := AgentReport{
		Benchmark: "runners", Setup: "servers, runners and client as processes, TCP on loopback, file store", Go: runtime.Version(), CPUs: runtime.NumCPU(), Procs: l.procs,
		Notes: fmt.Sprintf("bodies of steps take %v; from SIGKILL to the next committed step of an instance that the runner was executing", busyFor),
	}
	r := &runnerRun{runnerLoad: l, processes: p, report: &report}
	for _, s := range []struct {
		kills kills
		limit float64
	}{
		{kills{"default setting", l.rounds, defaultTakeOver}, takenWithin},
		{kills{fmt.Sprintf("take_over_after %v", l.fast), l.fastRounds, l.fast}, takenWithinFast},
	} {
		if s.kills.rounds == 0 {
			continue
		}
		if err := r.measure(ctx, s.kills, s.limit, func(context.Context) (func(), error) { return func() {}, nil }); err != nil {
			return report, fmt.Errorf("%s: %w", s.kills.name, err)
		}
		s.kills.name += ", all CPUs busy"
		if err := r.measure(ctx, s.kills, s.limit, r.burn); err != nil {
			return report, fmt.Errorf("%s: %w", s.kills.name, err)
		}
	}
	if l.leaders > 0 {
		if err := r.measureLeaders(ctx); err != nil {
			return report, fmt.Errorf("leaders: %w", err)
		}
	}
	return report, nil
}

// kills are runners that are killed, one after the other, all with the same setting.
type kills struct {
	name     string
	rounds   int
	takeOver time.Duration
}

// measure kills runners under a load on the CPUs.
func (r *runnerRun) measure(ctx context.Context, k kills, limit float64, load func(context.Context) (stop func(), err error)) error {
	return r.withFleet(ctx, r.url, 1, k.takeOver, func(ctx context.Context, w *watch) error {
		stop, err := load(ctx)
		if err != nil {
			return err
		}
		defer stop()
		var took []time.Duration
		wrong := 0
		for i := range k.rounds {
			more, others, err := r.killOne(ctx, w, i%fleet, k.takeOver)
			if err != nil {
				return err
			}
			took, wrong = append(took, more...), wrong+others
			if err := r.startOne(ctx, i%fleet, r.url, 1, k.takeOver); err != nil {
				return err
			}
		}
		r.report.times("next step after a runner is killed, "+k.name, took, 0.5, 1)
		r.report.times("next step after a runner is killed, "+k.name, took, 0.99)
		r.report.limit(limit)
		r.report.add("instances taken from runners that live, "+k.name, float64(wrong), "of them", k.rounds)
		return nil
	})
}

// withFleet has runners execute instances while measure runs.
func (r *runnerRun) withFleet(ctx context.Context, url string, replicas int, takeOver time.Duration, measure func(context.Context, *watch) error) error {
	r.fleet = make([]*exec.Cmd, fleet)
	defer func() {
		for _, one := range r.fleet {
			if one != nil {
				end(one)
			}
		}
	}()
	for i := range r.fleet {
		if err := r.startOne(ctx, i, url, replicas, takeOver); err != nil {
			return err
		}
	}
	p, err := project.Open(ctx, config(url))
	if err != nil {
		return err
	}
	defer p.Close()
	r.project = p
	w, stop, err := follow(ctx, p.Journal(), protocol.WorkflowsStream(projectName, 0))
	if err != nil {
		return err
	}
	defer stop()
	fed, cancel := context.WithCancel(ctx)
	defer cancel()
	feeding := feed(fed, p, r.instances)
	began := time.Now()
	err = until(ctx, func() bool { return w.count() >= r.instances && w.haveAllStepped(began) })
	if err == nil {
		w.since(began, "") // what others have left does not count
		err = measure(ctx, w)
	}
	cancel()
	<-feeding
	return err
}

// feed keeps a number of instances going until ctx ends, and then has them end.
func feed(ctx context.Context, p *project.Project, n int) (done <-chan struct{}) {
	ended := make(chan struct{})
	binding := workflow.Bind[Params, int](busyBinding).In(p)
	each := make(chan struct{}, n)
	for range n {
		go func() {
			defer func() { each <- struct{}{} }()
			for ctx.Err() == nil {
				instance, err := binding.Create(ctx, Params{})
				if err != nil {
					continue
				}
				if _, err := instance.Result(ctx); err != nil { // it is not needed any more
					ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin)
					_ = instance.Terminate(ending)
					cancel()
				}
			}
		}()
	}
	go func() {
		defer close(ended)
		for range n {
			<-each
		}
	}()
	return ended
}

func (r *runnerRun) startOne(ctx context.Context, i int, url string, replicas int, takeOver time.Duration) (err error) {
	r.fleet[i], _, err = start(ctx, r.cmd, r.runnerLoad.procs, "runner", "--config", r.config, "--nats-url", url, "--log-level", "error",
		"--replicas", fmt.Sprint(replicas), "--take-over-after", takeOver.String())
	return err
}

// killOne kills a runner and waits until all instances have gone on.
func (r *runnerRun) killOne(ctx context.Context, w *watch, i int, takeOver time.Duration) (took []time.Duration, others int, err error) {
	victim := r.fleet[i]
	r.fleet[i] = nil
	killed := time.Now()
	if err := victim.Process.Kill(); err != nil {
		return nil, 0, err
	}
	_ = victim.Wait() // it was killed
	if err := until(ctx, func() bool { return time.Since(killed) > takeOver && w.haveAllStepped(killed.Add(inFlight)) }); err != nil {
		return nil, 0, err
	}
	dead := w.silentSince(killed)
	if len(dead) != 1 {
		return nil, 0, fmt.Errorf("of the runners, %q are silent since one was killed: want one", dead)
	}
	took, others = w.since(killed, dead[0])
	return took, others, nil
}

// burn keeps all CPUs busy until the function that it returns is called.
func (r *runnerRun) burn(ctx context.Context) (stop func(), err error) {
	var burners []*exec.Cmd
	stop = func() {
		for _, b := range burners {
			end(b)
		}
	}
	for range r.burners {
		b, _, err := start(ctx, r.cmd, 1, "burner")
		if err != nil {
			stop()
			return nil, err
		}
		burners = append(burners, b)
	}
	return stop, nil
}

func burnerCommand() *cobra.Command {
	return &cobra.Command{Use: "burner", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		fmt.Fprintln(cmd.OutOrStdout(), "ready burner")
		for ctx.Err() == nil {
			for i := range 1_000_000 {
				_ = i
			}
		}
		return nil
	}}
}

// measureLeaders kills the NATS server that leads the instances' stream, of three, and measures how long no step is committed.
func (r *runnerRun) measureLeaders(ctx context.Context) error {
	c := &servers{r: r, dir: filepath.Join(filepath.Dir(r.config), "cluster")}
	defer c.end()
	if err := c.start(ctx); err != nil {
		return err
	}
	return r.withFleet(ctx, c.url(), len(c.all), defaultTakeOver, func(ctx context.Context, w *watch) error {
		var gaps []time.Duration
		for range r.leaders {
			w.longestGap()
			if err := c.killLeader(ctx); err != nil {
				return err
			}
			killed := time.Now()
			if err := until(ctx, func() bool { return w.haveAllStepped(killed.Add(time.Second)) }); err != nil {
				return err
			}
			gaps = append(gaps, w.longestGap())
			if err := c.restart(ctx); err != nil {
				return err
			}
		}
		r.report.times("no step committed after the leading NATS server of three is killed", gaps, 0.5, 1)
		return nil
	})
}

// until waits for a condition.
func until(ctx context.Context, condition func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("instances do not go on"))
	defer cancel()
	for tick := time.Tick(20 * time.Millisecond); !condition(); {
		select {
		case <-tick:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
