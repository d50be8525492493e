//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/test/lab/world"
)

// inflicter does one fault and notes evidence.
type inflicter struct {
	*Injector
	ctx      context.Context
	evidence []string
	// begun is called when the fault has happened.
	began func()
}

func (in *inflicter) saw(format string, args ...any) {
	in.evidence = append(in.evidence, fmt.Sprintf(format, args...))
}

// last waits as long as the fault is to last.
func (in *inflicter) last(f Fault) {
	in.began()
	pause(in.ctx, f.For)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func contains(names []string, name string) bool { return slices.Contains(names, name) }

func (in *inflicter) targets(f Fault) []*world.Process {
	var processes []*world.Process
	for _, p := range in.World.Processes() {
		if contains(f.Targets, p.Name) {
			processes = append(processes, p)
		}
	}
	return processes
}

// mended is not bound to the run: what was broken is mended in any case.
func (in *inflicter) mended() context.Context { return context.WithoutCancel(in.ctx) }

func start(processes []*world.Process) error {
	var errs error
	for _, p := range processes {
		errs = errors.Join(errs, p.Start())
	}
	return errs
}

// awaitRunning waits until processes run that have just been started, or are about to be, by their supervisor.
func (in *inflicter) awaitRunning(processes []*world.Process) {
	for _, p := range processes {
		for range 100 {
			if p.Pid() != 0 {
				break
			}
			pause(in.ctx, 50*time.Millisecond)
		}
	}
}

func (in *inflicter) kill(f Fault) error {
	processes := in.targets(f)
	defer in.claim(f.Targets)()
	in.awaitRunning(processes)
	return errors.Join(in.killAll(processes, f), start(processes))
}

func (in *inflicter) killAll(processes []*world.Process, f Fault) error {
	for _, p := range processes {
		evidence, err := p.Kill(in.mended())
		if err != nil {
			return err
		}
		in.saw("%s: %s", p.Name, evidence)
	}
	in.last(f)
	return nil
}

func (in *inflicter) freeze(f Fault) error {
	processes := in.targets(f)
	defer in.claim(f.Targets)()
	in.awaitRunning(processes)
	var errs error
	for _, p := range processes {
		evidence, err := p.Freeze(in.mended())
		in.saw("%s: %s", p.Name, evidence)
		errs = errors.Join(errs, err)
	}
	in.last(f)
	for _, p := range processes {
		_, err := p.Thaw(in.mended())
		errs = errors.Join(errs, err)
	}
	return errs
}

func (in *inflicter) restart(f Fault) error {
	processes := in.targets(f)
	defer in.claim(f.Targets)()
	in.awaitRunning(processes)
	for _, p := range processes {
		evidence, err := p.Terminate(in.mended())
		if err != nil {
			return errors.Join(err, start(processes))
		}
		in.saw("%s: %s", p.Name, evidence)
	}
	in.last(f)
	return start(processes)
}

// roll restarts one after the other, as an operator does: the next when the last one is ready, or takes too long.
func (in *inflicter) roll(f Fault) error {
	in.began()
	for _, p := range in.targets(f) {
		err := in.restart(Fault{Targets: []string{p.Name}})
		if err != nil {
			return err
		}
		in.awaitReady(p, 20*time.Second)
	}
	return nil
}

// awaitReady gives a process time to become ready; other faults may keep it from that.
func (in *inflicter) awaitReady(p *world.Process, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(in.ctx, atMost)
	defer cancel()
	if err := p.AwaitReady(ctx); err != nil {
		in.Log.DebugContext(ctx, err.Error())
	}
}

func (in *inflicter) losePower(f Fault) error {
	processes := in.targets(f)
	defer in.claim(f.Targets)()
	in.awaitRunning(processes)
	if err := in.killAll(processes, f); err != nil {
		return errors.Join(err, start(processes))
	}
	var errs error
	for _, p := range processes {
		lost, err := p.Machine.Disk.LosePower()
		in.saw("%s: %v", p.Name, lost)
		in.lost(lost)
		errs = errors.Join(errs, err)
	}
	return errors.Join(errs, start(processes))
}

// fillDisk fills the disk of a server, makes room again, and starts the server anew, because JetStream does not take up again by itself
// what it could not write. One disk is full at a time: docs/reliability.md says why.
func (in *inflicter) fillDisk(f Fault) error {
	processes := in.targets(f)
	defer in.claim(append(slices.Clone(f.Targets), "full disk"))()
	in.awaitRunning(processes)
	var errs error
	for _, p := range processes {
		before := p.Machine.Disk.Refused()
		p.Machine.Disk.SetFull(true)
		in.last(f)
		for range 100 { // until the server has met with it
			if p.Machine.Disk.Refused() > before {
				break
			}
			pause(in.ctx, 100*time.Millisecond)
		}
		p.Machine.Disk.SetFull(false)
		n := p.Machine.Disk.Refused() - before
		in.saw("%s: no space left, %d times", p.Name, n)
		if n == 0 {
			errs = errors.Join(errs, fmt.Errorf("%s has written nothing that takes room", p.Name))
		}
		if _, err := p.Terminate(in.mended()); err != nil && !errors.Is(err, world.ErrNotRunning) { // it may have ended because of it
			errs = errors.Join(errs, err)
		}
		errs = errors.Join(errs, p.Start())
	}
	return errs
}

func (in *inflicter) stepClock(f Fault) error {
	var clocks []string
	for _, name := range f.Targets {
		clocks = append(clocks, "clock of "+name)
	}
	defer in.claim(clocks)()
	for _, name := range f.Targets {
		m := in.World.Machine(name)
		m.SetClock(f.Offset)
		defer m.SetClock(0)
	}
	in.last(f)
	var errs error
	for _, name := range f.Targets {
		errs = errors.Join(errs, in.seeClock(in.World.Machine(name), f.Offset))
	}
	return errs
}

// seeClock waits until a process of the machine has looked at its clock.
func (in *inflicter) seeClock(m *world.Machine, offset time.Duration) error {
	for range 300 {
		for _, p := range m.Processes {
			if p.Clock.Seen() == offset {
				in.saw("%s: process %d reads a clock that is off by %v", p.Name, p.Pid(), offset)
				return nil
			}
		}
		pause(in.ctx, 100*time.Millisecond)
	}
	return fmt.Errorf("no process of %s has looked at its clock", m.Name)
}

func (in *inflicter) disturb(f Fault) error {
	if err := in.World.Switch.Add(f.rule); err != nil {
		return err
	}
	defer in.World.Switch.Remove(f.rule)
	in.last(f)
	for range 600 { // until there was a packet: all processes of the machine may be down
		if f.rule.Counts().Total() > 0 {
			break
		}
		pause(in.ctx, 100*time.Millisecond)
	}
	in.saw("%v (%s to %s)", f.rule.Counts(), strings.Join(f.rule.From, " "), strings.Join(f.rule.To, " "))
	if f.rule.Counts().Total() == 0 {
		return errors.New("no packet came by")
	}
	return nil
}
