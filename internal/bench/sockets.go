package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// What is promised of sockets.
const (
	sameHostMillis  = 0.6
	otherHostMillis = 1
	loudTurns       = 2 // times as long as quiet ones
	idleMegabytes   = 400
	backMillis      = 2000
)

// socketRun is a measurement of sockets that is under way.
type socketRun struct {
	socketLoad
	*processes
	p      *project.Project
	report AgentReport
	// host has the halls, other came later. Their addresses.
	host, other         *exec.Cmd
	hostAddr, otherAddr string
	// prober is a meter that lives at the other host.
	prober string
}

func (l socketLoad) run(ctx context.Context, procs *processes) (AgentReport, error) {
	p, err := project.Open(ctx, config(procs.url))
	if err != nil {
		return AgentReport{}, err
	}
	defer p.Close()
	r := &socketRun{socketLoad: l, processes: procs, p: p, report: AgentReport{
		Benchmark: "sockets", Setup: "server, hosts and clients as processes, TCP on loopback, one NATS server, file store, default sync",
		Notes: l.notes(), Go: runtime.Version(), CPUs: runtime.NumCPU(), Procs: l.procs,
	}}
	if err := r.measureIdle(ctx); err != nil {
		return r.report, fmt.Errorf("idle sockets: %w", err)
	}
	if r.host, r.hostAddr, err = r.startHost(ctx, r.url); err != nil {
		return r.report, err
	}
	defer end(r.host)
	if err := r.measureCalls(ctx, "at the host of the agent", r.hostAddr, sameHostMillis); err != nil {
		return r.report, err
	}
	if err := r.makeHalls(ctx); err != nil {
		return r.report, err
	}
	if r.other, r.otherAddr, err = r.startHost(ctx, r.url); err != nil {
		return r.report, err
	}
	defer end(r.other)
	if err := r.measureCalls(ctx, "at another host", r.otherAddr, otherHostMillis); err != nil {
		return r.report, err
	}
	if err := r.findProber(ctx); err != nil {
		return r.report, err
	}
	if err := r.measureCrowd(ctx); err != nil {
		return r.report, fmt.Errorf("many sockets: %w", err)
	}
	if err := r.measureDrain(ctx); err != nil {
		return r.report, fmt.Errorf("drain: %w", err)
	}
	return r.report, nil
}

// halls that live at the first host.
const (
	callHall  = "calls"
	crowdHall = "crowd"
	calmHall  = "calm"
)

// makeHalls brings agents into the memory of the first host, while it is the only one.
func (r *socketRun) makeHalls(ctx context.Context) error {
	for _, name := range []string{crowdHall, calmHall} {
		if _, err := agent.Call(ctx, halls.In(r.p).Agent(name), (*hall).Rest, struct{}{}, agent.Fresh()); err != nil {
			return err
		}
	}
	return nil
}

// findProber finds an agent that lives at the other host.
func (r *socketRun) findProber(ctx context.Context) error {
	here, err := recordOf(ctx, r.p, hallClass, crowdHall)
	if err != nil {
		return err
	}
	for i := range 100 {
		r.prober = fmt.Sprint("prober-", i)
		if _, err := agent.Call(ctx, meters.In(r.p).Agent(r.prober), (*meter).Set, 1); err != nil {
			return err
		}
		record, err := recordOf(ctx, r.p, meterClass, r.prober)
		if err != nil || record.Owner != here.Owner {
			return err
		}
	}
	return errors.New("the second host gets no agent")
}

// measureCalls has a client call its agent.
func (r *socketRun) measureCalls(ctx context.Context, where, addr string, limit float64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := connect(ctx, addr, hallPath+callHall)
	if err != nil {
		return err
	}
	for _, m := range []struct{ name, method, args string }{
		{"call that looks, socket " + where, "look", "[]"}, {"call that stores a state, socket " + where, "set", "[1000]"},
	} {
		var took []time.Duration
		for i := range 2 * r.calls { // the first half warms up
			began := time.Now()
			if err := c.call(ctx, m.method, m.args); err != nil {
				return err
			}
			if i >= r.calls {
				took = append(took, time.Since(began))
			}
		}
		r.report.times(m.name, took, 0.5)
		r.report.limit(limit)
		r.report.times(m.name, took, 0.99)
	}
	return c.ws.Close(1000, "")
}

// measureCrowd has ever more clients at a hall, and measures its turns.
func (r *socketRun) measureCrowd(ctx context.Context) error {
	if err := r.measureTurns(ctx, 0); err != nil {
		return err
	}
	if err := r.measureLoud(ctx); err != nil {
		return err
	}
	began := time.Now()
	storm, err := r.gather(ctx, r.hostAddr, r.storm, r.storm, func(int) string { return hallPath + crowdHall })
	if err != nil {
		return err
	}
	took := time.Since(began)
	r.report.add("clients that connect to one agent at once, until all are there", took.Seconds(), "s", r.storm)
	r.report.times("client that connects among them", storm.took, 0.5, 0.99, 1)
	storm.listen(ctx)
	if err := r.measureTurns(ctx, r.storm); err != nil {
		return err
	}
	began = time.Now()
	if err := r.leave(ctx, storm); err != nil {
		return err
	}
	r.report.add("all of them leave, until the agent knows", time.Since(began).Seconds(), "s", r.storm)
	return nil
}

// gather connects clients, in time.
func (r *socketRun) gather(ctx context.Context, addr string, n, atATime int, path func(int) string) (*crowd, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return gather(ctx, addr, n, atATime, path)
}

// leave closes the sockets of a crowd, and returns when no host has any.
func (r *socketRun) leave(ctx context.Context, c *crowd) error {
	if err := c.leave(); err != nil {
		return err
	}
	return r.isLeft(ctx)
}

// isLeft returns when no host has any sockets.
func (r *socketRun) isLeft(ctx context.Context) error {
	stream := protocol.KVStream(protocol.ConnectionsBucket(projectName))
	return await(ctx, "the agents know that the sockets have ended", func() (bool, error) {
		left, err := r.p.Journal().State(ctx, stream)
		return left.Messages == 0, err
	})
}

func (r *socketRun) talk(ctx context.Context, t talk) (talked, error) {
	t.To, t.Other = crowdHall, calmHall
	return agent.Call(ctx, meters.In(r.p).Agent(r.prober), (*meter).Talk, t, agent.Timeout(patience))
}

// measureTurns measures turns that write and say nothing to clients.
func (r *socketRun) measureTurns(ctx context.Context, open int) error {
	took, err := r.talk(ctx, talk{Rounds: 2 * r.turns})
	if err != nil {
		return err
	}
	r.report.times(fmt.Sprintf("turn with %d sockets open", open), took.Quiet[r.turns:], 0.5, 0.99)
	return nil
}

// measureLoud has an agent talk to its clients, and measures its turns, in between with those in which it does not.
func (r *socketRun) measureLoud(ctx context.Context) error {
	clients, err := r.startAudience(ctx)
	if err != nil {
		return err
	}
	if err := r.measureTurns(ctx, r.audience); err != nil {
		end(clients)
		return err
	}
	took, err := r.talk(ctx, talk{Rounds: r.turns, Pause: r.pause, Text: mark})
	if err != nil {
		end(clients)
		return err
	}
	if err := r.hasHeard(ctx, clients); err != nil {
		return err
	}
	name := fmt.Sprintf("a broadcast to %d sockets", r.audience)
	r.report.times("turn without "+name, took.Quiet, 0.5, 0.99)
	for _, reading := range []struct {
		turn string
		took []time.Duration
	}{{"turn with ", took.Loud}, {"turn of another agent right after ", took.After}, {"turn of another agent amid ", took.Amid}} {
		r.report.times(reading.turn+name, reading.took, 0.5, 0.99)
		ratio := quantile(reading.took, 0.99) / quantile(took.Quiet, 0.99)
		r.report.add(reading.turn+name+", p99 to that of a turn without", ratio, "times", len(reading.took))
		r.report.limit(loudTurns)
	}
	return nil
}

// measureIdle has a host of its own hold sockets of agents that sleep.
func (r *socketRun) measureIdle(ctx context.Context) error {
	host, addr, err := r.startHost(ctx, r.url)
	if err != nil {
		return err
	}
	defer end(host)
	before, err := memory(host, r.settle)
	if err != nil {
		return err
	}
	agents := r.idle/idlePerAgent + 2
	c, err := r.gather(ctx, addr, r.idle, atOnce, func(i int) string { return fmt.Sprintf("%s%d", quietPath, i%agents) })
	if err != nil {
		return err
	}
	c.listen(ctx)
	for i := range agents {
		if err := await(ctx, fmt.Sprintf("agent %d sleeps", i), func() (bool, error) {
			record, err := recordOf(ctx, r.p, quietClass, fmt.Sprint(i))
			return record.Owner == "", err
		}); err != nil {
			return err
		}
	}
	time.Sleep(r.idleFor)
	asItIs, err := resident(host)
	if err != nil {
		return err
	}
	peak, err := atMost(host)
	if err != nil {
		return err
	}
	after, err := memory(host, r.settle)
	if err != nil {
		return err
	}
	r.report.add("memory of a host with idle sockets", float64(after)/1e6, "MB", r.idle)
	r.report.limit(idleMegabytes)
	r.report.add("memory of a host with idle sockets, before it has given back what it does not need", float64(asItIs)/1e6, "MB", r.idle)
	r.report.limit(idleMegabytes)
	r.report.add("memory of that host at most, also while all of them connected", float64(peak)/1e6, "MB", r.idle)
	r.report.add("memory of an idle socket", float64(after-before)/1e3/float64(r.idle), "kB", r.idle)
	return r.leave(ctx, c)
}

// measureDrain stops a host, and measures when each of its clients is back at the other one.
func (r *socketRun) measureDrain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := gather(ctx, r.hostAddr, r.audience, atOnce, func(int) string { return hallPath + crowdHall })
	if err != nil {
		return err
	}
	n := len(c.clients)
	closed, back, errs := make([]time.Time, n), make([]time.Time, n), make([]error, n)
	var running sync.WaitGroup
	for i, one := range c.clients {
		running.Go(func() {
			_, _ = one.find(ctx, []byte("nothing is said"))
			closed[i] = time.Now()
			c.clients[i], errs[i] = comeBack(ctx, hallPath+crowdHall, r.hostAddr, r.otherAddr)
			back[i] = time.Now()
		})
	}
	stopped := time.Now()
	if err := r.host.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.host.Wait(); err != nil {
		return fmt.Errorf("the host that was told to stop: %w", err)
	}
	var all, gaps []time.Duration
	for i := range n {
		all, gaps = append(all, back[i].Sub(stopped)), append(gaps, back[i].Sub(closed[i]))
	}
	r.report.times("client back at another host, since its own was told to stop", all, 0.5, 0.99, 1)
	r.report.limit(backMillis)
	r.report.times("client back at another host, since its socket was closed", gaps, 0.5, 0.99, 1)
	c.listen(ctx)
	return r.leave(ctx, c)
}
