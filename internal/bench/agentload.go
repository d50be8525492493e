package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// callers is how many calls are under way at a time where that is not what is measured.
const callers = 32

// within bounds what must happen and is not measured.
const within = time.Minute

// agentRun is a measurement of agents that is under way.
type agentRun struct {
	agentLoad
	*processes
	p      *project.Project
	report AgentReport
}

func (l agentLoad) run(ctx context.Context, procs *processes) (AgentReport, error) {
	p, err := project.Open(ctx, config(procs.url))
	if err != nil {
		return AgentReport{}, err
	}
	defer p.Close()
	r := &agentRun{agentLoad: l, processes: procs, p: p, report: AgentReport{
		Benchmark: "agents", Setup: "server, hosts and client as processes, TCP on loopback, one NATS server, file store, default sync",
		Go: runtime.Version(), CPUs: runtime.NumCPU(), Procs: l.procs,
	}}
	first, err := r.host(ctx)
	if err != nil {
		return r.report, err
	}
	defer end(first)
	for _, measure := range []func(context.Context, *exec.Cmd) error{
		r.measureCalls, r.measureWaking, r.measureMail, r.measureMemory, r.measureSleepers, r.measureTakeOver,
	} {
		if err := measure(ctx, first); err != nil {
			return r.report, err
		}
	}
	return r.report, nil
}

func (r *agentRun) host(ctx context.Context) (*exec.Cmd, error) { return r.hostAt(ctx, r.url) }

func (r *agentRun) hostAt(ctx context.Context, url string) (*exec.Cmd, error) {
	host, _, err := r.startHost(ctx, url)
	return host, err
}

func (r *agentRun) meter(name string) agent.Ref[*meter] { return meters.In(r.p).Agent(name) }

// owner is the id of the host that has an agent.
func (r *agentRun) owner(ctx context.Context, class, name string) (string, error) {
	record, err := r.record(ctx, class, name)
	return record.Owner, err
}

func (r *agentRun) record(ctx context.Context, class, name string) (protocol.Record, error) {
	return recordOf(ctx, r.p, class, name)
}

func recordOf(ctx context.Context, p *project.Project, class, name string) (record protocol.Record, err error) {
	bucket := protocol.AgentsBucket(projectName)
	m, err := p.Journal().Last(ctx, protocol.KVStream(bucket), protocol.KVSubject(bucket, protocol.AgentKey(class, name)))
	if err == nil {
		err = json.Unmarshal(m.Data, &record)
	}
	return record, err
}

// measureCalls has an agent call another one of its host, and one of another host, and a program call.
func (r *agentRun) measureCalls(ctx context.Context, _ *exec.Cmd) error {
	sizes := []struct {
		name  string
		bytes int
	}{{"1 KiB", 1000}, {"60 KiB", 60_000}} // inline: with 64 KiB of state and more, it is an object
	for _, size := range sizes {
		if err := r.probe(ctx, "caller", "same", "call, state of "+size.name, size.bytes); err != nil {
			return err
		}
	}
	second, err := r.host(ctx)
	if err != nil {
		return err
	}
	defer end(second)
	here, err := r.owner(ctx, meterClass, "caller")
	if err != nil {
		return err
	}
	for i := range 100 {
		name := fmt.Sprint("other-", i)
		if _, err := agent.Call(ctx, r.meter(name), (*meter).Set, 1); err != nil {
			return err
		}
		owner, err := r.owner(ctx, meterClass, name)
		if err != nil {
			return err
		}
		if owner == here {
			continue
		}
		for _, size := range sizes {
			if err := r.probe(ctx, "caller", name, "call through another host, state of "+size.name, size.bytes); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("the second host gets no agent")
}

func (r *agentRun) probe(ctx context.Context, from, to, name string, size int) error {
	batch := min(r.calls, 500)
	var all []time.Duration
	for len(all) < r.calls+batch { // the first batch warms up
		took, err := agent.Call(ctx, r.meter(from), (*meter).Probe, probe{To: to, Times: batch, Size: size}, agent.Timeout(within))
		if err != nil {
			return err
		}
		all = append(all, took...)
	}
	r.report.times(name, all[batch:], 0.5, 0.99)
	return nil
}

// measureWaking calls agents that have left memory.
func (r *agentRun) measureWaking(ctx context.Context, _ *exec.Cmd) error {
	agents := min(r.calls, 200)
	var took []time.Duration
	for round := range 2 {
		for i := range agents {
			name := fmt.Sprint("napper-", i)
			if round > 0 {
				if err := await(ctx, name+" sleeps", func() (bool, error) {
					owner, err := r.owner(ctx, napperClass, name)
					return owner == "", err
				}); err != nil {
					return err
				}
			}
			began := time.Now()
			if _, err := agent.Call(ctx, nappers.In(r.p).Agent(name), (*meter).Set, 1000); err != nil {
				return err
			}
			if round > 0 {
				took = append(took, time.Since(began))
			}
		}
	}
	r.report.times("call that wakes an agent", took, 0.5, 0.99)
	return nil
}

// measureMail tells one agent much.
func (r *agentRun) measureMail(ctx context.Context, _ *exec.Cmd) error {
	began := time.Now()
	var senders errgroup.Group
	senders.SetLimit(callers)
	for range r.mail {
		senders.Go(func() error { return agent.Tell(ctx, r.meter("told"), (*meter).Count, 0) })
	}
	if err := senders.Wait(); err != nil {
		return err
	}
	sent := time.Since(began)
	if err := r.awaitCount(ctx, "told", r.mail); err != nil {
		return err
	}
	r.report.add("mail stored", float64(r.mail)/sent.Seconds(), "messages/s", r.mail)
	r.report.add("mail applied by one agent", float64(r.mail)/time.Since(began).Seconds(), "messages/s", r.mail)
	return nil
}

func (r *agentRun) awaitCount(ctx context.Context, name string, n int) error {
	return await(ctx, fmt.Sprintf("%s has counted to %d", name, n), func() (bool, error) {
		got, err := agent.Call(ctx, r.meter(name), (*meter).Look, struct{}{}, agent.Timeout(within))
		return got >= n, err
	})
}

// measureMemory brings many agents into the memory of the host.
func (r *agentRun) measureMemory(ctx context.Context, host *exec.Cmd) error {
	var group errgroup.Group
	group.SetLimit(callers)
	for i := range r.active {
		group.Go(func() error {
			_, err := agent.Call(ctx, r.meter(fmt.Sprint("active-", i)), (*meter).Set, 1000, agent.Timeout(within))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	used, err := r.memory(host)
	if err != nil {
		return err
	}
	r.report.add("memory of a host with active agents", float64(used)/1e6, "MB", r.active)
	return nil
}

// measureSleepers stores agents that sleep.
func (r *agentRun) measureSleepers(ctx context.Context, _ *exec.Cmd) error {
	before, err := r.memory(r.server)
	if err != nil {
		return err
	}
	bucket := protocol.AgentsBucket(projectName)
	for i := range r.sleeping {
		name := fmt.Sprint("sleeping-", i)
		body, err := json.Marshal(protocol.Record{V: protocol.Version, Class: meterClass, Name: name, Turn: 1, Commit: name,
			Updated: time.Now(), State: json.RawMessage(`{"n":1}`), Revision: 1})
		if err != nil {
			return err
		}
		m := &nats.Msg{Subject: protocol.KVSubject(bucket, protocol.AgentKey(meterClass, name)), Data: body}
		if _, err := r.p.JS.PublishMsgAsync(m); err != nil {
			return err
		}
		if i%1000 != 999 && i != r.sleeping-1 {
			continue
		}
		select { // more at a time are refused
		case <-r.p.JS.PublishAsyncComplete():
		case <-time.After(within):
			return errors.New("the sleeping agents are not stored in time")
		}
	}
	after, err := r.memory(r.server)
	if err != nil {
		return err
	}
	r.report.add("memory of the server for a sleeping agent", float64(after-before)/float64(r.sleeping), "B", r.sleeping)
	if _, err := agent.Call(ctx, r.meter("sleeping-0"), (*meter).Look, struct{}{}); err != nil {
		return fmt.Errorf("a sleeping agent does not wake: %w", err)
	}
	return nil
}

// await polls until something is so.
func await(ctx context.Context, what string, cond func() (bool, error)) error {
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		is, err := cond()
		switch {
		case err != nil || is:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("not within %v: %s", within, what)
		}
	}
}

func (r *agentRun) memory(of *exec.Cmd) (bytes int64, err error) { return memory(of, r.settle) }

// memory is what a process has of the machine's, after it has given back what it does not need.
func memory(of *exec.Cmd, settle time.Duration) (bytes int64, err error) {
	for range 2 { // what caches of the server hold for two seconds goes at the second time
		if err := of.Process.Signal(syscall.SIGUSR1); err != nil {
			return 0, err
		}
		time.Sleep(settle)
	}
	return resident(of)
}

// resident is what a process has of the machine's memory, as it is.
func resident(of *exec.Cmd) (bytes int64, err error) { return memoryAs(of, "VmRSS:") }

// atMost is the most that it has had so far.
func atMost(of *exec.Cmd) (bytes int64, err error) { return memoryAs(of, "VmHWM:") }

// memoryAs is what the kernel tells of a process under a name.
func memoryAs(of *exec.Cmd, name string) (bytes int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", of.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of a process: %w", err)
	}
	_, line, _ := strings.Cut(string(text), name)
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return 0, errors.New("memory of a process: the kernel does not say")
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}
