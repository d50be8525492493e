//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/test/lab/faults"
	"github.com/skein-run/skein/test/lab/history"
	"github.com/skein-run/skein/test/lab/load"
	"github.com/skein-run/skein/test/lab/work"
	"github.com/skein-run/skein/test/lab/world"
)

// laboratory is one run.
type laboratory struct {
	settings
	log    *slog.Logger
	began  time.Time
	world  *world.World
	nc     *nats.Conn
	js     jetstream.JetStream
	load   *load.Load
	inject *faults.Injector
	report report
}

func (l *laboratory) notes() string { return filepath.Join(l.dir, "notes") }

// say writes a line about how far it has come.
func (l *laboratory) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7s  %s\n", time.Since(l.began).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}

// run is the life of a lab: everything comes up, is used and broken at the same time, is mended, comes to rest, and is checked.
func run(ctx context.Context, s settings) (err error) {
	l := &laboratory{settings: s, began: time.Now()}
	file, err := os.Create(filepath.Join(s.dir, "lab.log"))
	if err != nil {
		return err
	}
	defer file.Close()
	l.log = slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := errors.Join(world.Private(), os.MkdirAll(l.notes(), 0o755), l.build()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.world.Close()) }()
	if err := l.up(ctx); err != nil {
		return err
	}
	defer l.nc.Close()
	if err := l.use(ctx); err != nil {
		return err
	}
	err = l.rest(ctx)
	if errors.Is(err, errNoQuorum) {
		l.report.NotJudged = err.Error()
		return errors.Join(err, l.tell())
	}
	if err != nil {
		return err
	}
	if err := l.judge(ctx); err != nil {
		return err
	}
	return l.tell()
}

// build makes the machines.
func (l *laboratory) build() error {
	configs, err := work.WriteConfigs(l.dir)
	if err != nil {
		return err
	}
	l.world, err = world.New(world.Options{
		Dir: l.dir, Configs: configs, Env: []string{work.EnvNotes + "=" + l.notes()}, Seed: l.seed, LogLevel: l.level, Log: l.log,
	})
	return err
}

// up starts everything and connects to it.
func (l *laboratory) up(ctx context.Context) (err error) {
	l.say("starting %d processes on %d machines", len(l.world.Processes()), len(l.world.Machines))
	if err := l.world.Up(ctx); err != nil {
		return err
	}
	l.nc, err = nats.Connect(l.world.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1),
		nats.PingInterval(2*time.Second), nats.Timeout(2*time.Second))
	if err != nil {
		return fmt.Errorf("connect the lab: %w", err)
	}
	if l.js, err = jetstream.New(l.nc); err != nil {
		return err
	}
	l.load, err = load.New(ctx, load.Options{
		URL: l.world.URL(), Hosts: l.world.Hosts, Notes: l.notes(), Seed: l.seed, Instances: l.instances, Over: l.over, Log: l.log,
	})
	return err
}

// use has clients work and things break at the same time.
func (l *laboratory) use(ctx context.Context) error {
	events, err := os.Create(filepath.Join(l.dir, "faults.jsonl"))
	if err != nil {
		return err
	}
	defer events.Close()
	l.inject = &faults.Injector{World: l.world, NC: l.nc, JS: l.js, Events: events, Log: l.log}
	l.say("everything is up; %d instances and %d faults from now on", l.instances, l.faults)
	watched, stop := l.watch(ctx)
	used := make(chan error, 1)
	go func() { // waited for below
		counts, err := l.load.Run(ctx)
		l.report.Load = counts
		used <- err
	}()
	l.report.Faults, err = l.inject.Run(ctx, faults.Plan(l.world, l.seed, l.faults, l.over, l.without...))
	l.say("all faults are over; waiting for clients")
	err = errors.Join(err, <-used)
	stop()
	<-watched
	return err
}

// watch says every few seconds how far it has come, and measures for how long nothing was stored.
func (l *laboratory) watch(ctx context.Context) (watched chan struct{}, stop context.CancelFunc) {
	ctx, stop = context.WithCancel(ctx)
	watched = make(chan struct{})
	go func() { // ends with ctx
		defer close(watched)
		gaps := gaps{js: l.js}
		ticks := time.NewTicker(250 * time.Millisecond)
		defer ticks.Stop()
		for n := 1; ; n++ {
			select {
			case <-ctx.Done():
				l.report.LongestGap = gaps.longest
				return
			case <-ticks.C:
			}
			gaps.look(ctx)
			if n%40 == 0 {
				done, now := l.inject.Progress()
				l.say("faults: %d of %d over, %d now; stored %d messages, longest gap %v", done, l.faults, now, gaps.stored(), gaps.longest.Round(time.Millisecond))
			}
		}
	}()
	return watched, stop
}

// rest starts whatever is down, and waits until everything takes work.
func (l *laboratory) rest(ctx context.Context) error {
	l.say("everything is mended; coming to rest")
	if err := l.world.Start(); err != nil {
		return err
	}
	if err := l.heal(ctx); err != nil {
		return err
	}
	if err := l.world.AwaitReady(ctx, world.Runner, world.Host, world.Scheduler); err != nil {
		return err
	}
	return l.load.Finish(ctx)
}

// judge checks the history.
func (l *laboratory) judge(ctx context.Context) error {
	l.say("checking the history")
	var clocks []history.Clock
	for _, e := range l.report.Faults {
		if e.Offset != 0 {
			clocks = append(clocks, history.Clock{From: e.Began, To: e.Ended, Off: e.Offset})
		}
	}
	report, err := history.Check(ctx, history.Options{NC: l.nc, Notes: l.notes(), Patience: l.patience, Clocks: clocks, Log: l.log})
	l.report.Violations, l.report.Counts = report.Violations, report.Counts
	return err
}
