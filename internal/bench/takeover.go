package bench

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/agent"
)

// takenOver is how many agents of a lost host are called at once.
const takenOver = 10

// measureTakeOver kills hosts and freezes them, and measures how long their agents do not answer.
func (r *agentRun) measureTakeOver(ctx context.Context, owner **exec.Cmd) error {
	var killed, frozen, late []time.Duration
	for i := range r.rounds + 2*max(1, r.rounds/5) {
		next, err := r.host(ctx)
		if err != nil {
			return err
		}
		victim := *owner
		*owner = next
		switch {
		case i < r.rounds:
			err = r.lose(ctx, i, victim, syscall.SIGKILL, &killed)
		case i%2 == 0:
			err = r.lose(ctx, i, victim, syscall.SIGSTOP, &frozen)
		default:
			err = r.loseMail(ctx, i, victim, &late)
		}
		_ = victim.Process.Kill()
		_ = victim.Wait()
		if err != nil {
			return err
		}
	}
	r.report.times("call of an agent whose host was killed", killed, 0.5, 0.99)
	r.report.times("call of an agent whose host is frozen", frozen, 1)
	r.report.times("mail that a killed host had in its hands", late, 1)
	return nil
}

// lose takes a host away and calls agents that it has: those that it got while both were there.
func (r *agentRun) lose(ctx context.Context, round int, victim *exec.Cmd, signal syscall.Signal, took *[]time.Duration) error {
	names := make([]string, 2*takenOver) // about half of them are the victim's
	for i := range names {
		names[i] = fmt.Sprintf("lost-%d-%d", round, i)
		if _, err := agent.Call(ctx, r.meter(names[i]), (*meter).Set, 1000); err != nil {
			return err
		}
	}
	before := map[string]string{}
	for _, name := range names {
		var err error
		if before[name], err = r.owner(ctx, meterClass, name); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := victim.Process.Signal(signal); err != nil {
		return err
	}
	var mu sync.Mutex // guards took
	var group errgroup.Group
	for _, name := range names {
		group.Go(func() error {
			n, err := agent.Call(ctx, r.meter(name), (*meter).Set, 1000, agent.Timeout(within))
			if err != nil || n != 2 {
				return fmt.Errorf("call of %s: %d, %w", name, n, err)
			}
			silent := time.Since(began)
			owner, err := r.owner(ctx, meterClass, name)
			mu.Lock()
			defer mu.Unlock()
			if owner != before[name] {
				*took = append(*took, silent)
			}
			return err
		})
	}
	return group.Wait()
}

// loseMail kills a host in the middle of a callback.
func (r *agentRun) loseMail(ctx context.Context, round int, victim *exec.Cmd, took *[]time.Duration) error {
	name := fmt.Sprint("late-", round)
	for range takenOver { // either host may have it: kill the one that does
		if err := agent.Tell(ctx, r.meter(name), (*meter).Count, 500); err != nil {
			return err
		}
	}
	time.Sleep(250 * time.Millisecond) // in the middle of the first
	began := time.Now()
	if err := victim.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := r.awaitCount(ctx, name, takenOver); err != nil {
		return err
	}
	*took = append(*took, time.Since(began)-takenOver*500*time.Millisecond)
	return nil
}
