package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// alarm is an agent that notes how late its schedule calls it.
type alarm struct{ agent.Base[[]time.Duration] }

const (
	alarmClass    = "Alarm"
	alarmCallback = "Ring"
)

var alarms = agent.Bind[*alarm](alarmClass)

func alarmsClass() agent.Class {
	return agent.Define(alarmClass, func() *alarm { return &alarm{} }, agent.Reads((*alarm).Rung), agent.IdleAfter(time.Hour))
}

// ringing says when an alarm rings.
type ringing struct {
	Every       time.Duration
	From, Until time.Time
}

// Arm makes the schedule.
func (a *alarm) Arm(ctx context.Context, r ringing) (string, error) {
	task, err := agent.Schedule(ctx, agent.Every(r.Every), a.Ring, struct{}{},
		agent.From(r.From), agent.Until(r.Until), agent.CatchUp(protocol.MaxCatchUp))
	return task.ID, err
}

// Ring is what schedules call.
func (a *alarm) Ring(ctx context.Context, _ struct{}) error {
	moment, _ := agent.Firing(ctx)
	return a.SetState(ctx, append(a.State(), moment.Actual.Sub(moment.Planned)))
}

// Rung tells how late each was.
func (a *alarm) Rung(context.Context, struct{}) ([]time.Duration, error) { return a.State(), nil }

// scheduleRun is a measurement of schedules that is under way.
type scheduleRun struct {
	scheduleLoad
	*processes
	p         *project.Project
	report    AgentReport
	scheduler *exec.Cmd
}

func (l scheduleLoad) run(ctx context.Context, procs *processes) (AgentReport, error) {
	p, err := project.Open(ctx, config(procs.url))
	if err != nil {
		return AgentReport{}, err
	}
	defer p.Close()
	r := &scheduleRun{scheduleLoad: l, processes: procs, p: p, report: AgentReport{
		Benchmark: "schedules", Setup: "server, scheduler, host and client as processes, TCP on loopback, one NATS server, file store, default sync",
		Go: runtime.Version(), CPUs: runtime.NumCPU(), Procs: l.procs,
	}}
	options := streams.Options{}
	if err := errors.Join(
		streams.EnsureProjects(ctx, p.JS, options), streams.EnsureAgents(ctx, p.JS, projectName, options),
		streams.RegisterAgents(ctx, p.JS, projectName, []string{alarmClass}),
	); err != nil {
		return r.report, err
	}
	if err := r.startScheduler(ctx); err != nil {
		return r.report, err
	}
	defer func() { end(r.scheduler) }()
	for _, m := range []struct {
		what    string
		measure func(context.Context) error
	}{
		{"arm", r.measureArming}, {"idle", r.measureIdle}, {"firings", r.measureFirings}, {"firings at once", r.measureBursts}, {"turns", r.measureRings},
		{"restart of the scheduler", r.measureRestarts}, {"restart of the server", r.measureServerRestart},
	} {
		if err := m.measure(ctx); err != nil {
			return r.report, fmt.Errorf("%s: %w", m.what, err)
		}
	}
	return r.report, nil
}

func (r *scheduleRun) startScheduler(ctx context.Context) error {
	health, err := freeAddr()
	if err != nil {
		return err
	}
	r.scheduler, _, err = start(ctx, r.cmd, r.scheduleLoad.procs, "scheduler", "--nats-url", r.url, "--health-addr", health, "--log-level", "error")
	return err
}

// row is a schedule of an agent of its own.
func row(name string, change func(*protocol.Schedule)) protocol.Schedule {
	s := protocol.Schedule{
		ID: "s", Class: alarmClass, Name: name, Callback: alarmCallback, CatchUp: new(protocol.MaxCatchUp), Created: time.Now().UTC(),
	}
	change(&s)
	if !s.Kind.Recurs() {
		s.CatchUp = nil
	}
	s.SetVersion()
	return s
}

// put stores rows as a host does, and returns when all are armed. They must be before the first of their moments.
func (r *scheduleRun) put(ctx context.Context, n int, first time.Time, of func(i int) protocol.Schedule) error {
	before, err := r.armedNow(ctx)
	if err != nil {
		return err
	}
	bucket := protocol.SchedulesBucket(projectName)
	for i := range n {
		s := of(i)
		body, err := json.Marshal(s)
		if err != nil {
			return err
		}
		m := &nats.Msg{Subject: protocol.KVSubject(bucket, protocol.ScheduleKey(s.Class, s.Name, s.ID)), Data: body}
		if _, err := r.p.JS.PublishMsgAsync(m); err != nil {
			return err
		}
		if i%1000 != 999 && i != n-1 {
			continue
		}
		select { // more at a time are refused
		case <-r.p.JS.PublishAsyncComplete():
		case <-time.After(within):
			return errors.New("the rows are not stored in time")
		}
	}
	return r.awaitArmed(ctx, before+uint64(n), first)
}

// armedNow is how many moments are on the clock.
func (r *scheduleRun) armedNow(ctx context.Context) (uint64, error) {
	state, err := r.p.Journal().State(ctx, protocol.StreamClock)
	return state.Messages, err
}

// awaitArmed waits until so many moments are on the clock, as long as they become more. From the first moment on they become fewer.
func (r *scheduleRun) awaitArmed(ctx context.Context, n uint64, first time.Time) error {
	most := uint64(0)
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		armed, err := r.armedNow(ctx)
		switch {
		case err != nil:
			return err
		case armed >= n || time.Since(first) > 0:
			return inTime(first)
		case armed > most:
			most, deadline = armed, time.Now().Add(within)
		case time.Now().After(deadline):
			return fmt.Errorf("%d of %d are armed, and for %v no more", armed, n, within)
		}
	}
}

// measureArming stores schedules that fire in a month.
func (r *scheduleRun) measureArming(ctx context.Context) error {
	scheduler, err := memory(r.scheduler, r.settle)
	if err != nil {
		return err
	}
	server, err := memory(r.server, r.settle)
	if err != nil {
		return err
	}
	began := time.Now()
	far := began.AddDate(0, 1, 0).UTC()
	if err := r.put(ctx, r.armed, far, func(i int) protocol.Schedule {
		return row(fmt.Sprint("far-", i), func(s *protocol.Schedule) {
			s.Kind, s.At = protocol.ScheduleDate, new(far.Add(time.Duration(i)*time.Millisecond))
		})
	}); err != nil {
		return err
	}
	took := time.Since(began)
	r.report.add("schedules stored and armed", float64(r.armed)/took.Seconds(), "schedules/s", r.armed)
	for _, m := range []struct {
		name   string
		of     *exec.Cmd
		before int64
	}{{"scheduler", r.scheduler, scheduler}, {"server", r.server, server}} {
		used, err := memory(m.of, r.settle)
		if err != nil {
			return err
		}
		r.report.add("memory of the "+m.name+" with armed schedules", float64(used)/1e6, "MB", r.armed)
		r.report.add("memory of the "+m.name+" for an armed schedule", float64(used-m.before)/float64(r.armed), "B", r.armed)
	}
	return nil
}

// measureIdle measures the CPU time of a scheduler that has nothing to do.
func (r *scheduleRun) measureIdle(ctx context.Context) error {
	before, err := cpuTime(r.scheduler)
	if err != nil {
		return err
	}
	server, err := cpuTime(r.server)
	if err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-time.After(r.idleFor):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	after, err := cpuTime(r.scheduler)
	if err != nil {
		return err
	}
	serverAfter, err := cpuTime(r.server)
	if err != nil {
		return err
	}
	took := time.Since(began)
	r.report.add("CPU time of an idle scheduler", 100*float64(after-before)/float64(took), "% of a CPU", r.armed)
	r.report.limit(idlePercent)
	r.report.add("CPU time of the server meanwhile", 100*float64(serverAfter-server)/float64(took), "% of a CPU", r.armed)
	return nil
}

// measureRestarts kills schedulers, and measures until another one takes work.
func (r *scheduleRun) measureRestarts(ctx context.Context) error {
	var took []time.Duration
	for range r.restarts {
		if err := r.scheduler.Process.Kill(); err != nil {
			return err
		}
		_ = r.scheduler.Wait() // it was killed
		began := time.Now()
		if err := r.startScheduler(ctx); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	r.report.times("start of a scheduler until it takes work", took, 0.5, 1)
	return nil
}

// measureServerRestart kills the server, and measures until a schedule fires that came due meanwhile.
func (r *scheduleRun) measureServerRestart(ctx context.Context) error {
	at := time.Now().Add(r.lead).UTC()
	if err := r.put(ctx, 1, at, func(int) protocol.Schedule {
		return row("meanwhile", func(s *protocol.Schedule) { s.Kind, s.At = protocol.ScheduleDate, &at })
	}); err != nil {
		return err
	}
	if err := r.server.Process.Kill(); err != nil {
		return err
	}
	_ = r.server.Wait() // it was killed
	if err := inTime(at); err != nil {
		return err
	}
	time.Sleep(time.Until(at))
	u, err := url.Parse(r.url)
	if err != nil {
		return err
	}
	began := time.Now()
	r.server, _, err = start(ctx, r.cmd, r.scheduleLoad.procs, "server", "--data", filepath.Join(filepath.Dir(r.config), "nats"), "--port", u.Port())
	if err != nil {
		return err
	}
	ready := time.Since(began)
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	subject := protocol.Agent{Project: projectName, Class: alarmClass, Name: "meanwhile"}.InboxSubject(projectName)
	m, err := r.p.Journal().NextFromLeader(ctx, protocol.InboxStream(projectName), subject, 1)
	for ; err != nil; m, err = r.p.Journal().NextFromLeader(ctx, protocol.InboxStream(projectName), subject, 1) {
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.report.add("start of a killed server until it takes connections", ready.Seconds(), "s", r.armed)
	r.report.add("start of a killed server until a schedule fires", m.Time.Sub(began).Seconds(), "s", r.armed)
	return nil
}
