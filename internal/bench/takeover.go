package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/pkg/agent"
)

const (
	// takenOver is how many agents of a lost host are called at once; twice as many have mail.
	takenOver = 10
	// Mail is sent at intervals, half of it before the host is lost: that is in its hands then.
	mailEvery = 300 * time.Millisecond
	mailTakes = 4 * time.Second
	// mailLook is how exactly it is known when mail was applied.
	mailLook = 50 * time.Millisecond
)

// loss is a way in which hosts are lost, and what that costs.
type loss struct {
	name   string
	gated  bool
	lose   func(*victim) error
	silent []time.Duration // of agents that are called, since the host is lost
	late   []time.Duration // mail, beside how long it takes
}

// victim is a host that is to be lost.
type victim struct {
	*exec.Cmd
	gate *gate
}

// measureTakeOver has hosts lost, and measures how long their agents do not answer and how late their mail is.
func (r *agentRun) measureTakeOver(ctx context.Context, _ *exec.Cmd) error {
	killed := &loss{name: "was killed", lose: func(v *victim) error { return v.Process.Kill() }}
	frozen := &loss{name: "is frozen", lose: func(v *victim) error { return v.Process.Signal(syscall.SIGSTOP) }}
	cutOff := &loss{name: "is cut off", gated: true, lose: func(v *victim) error { v.gate.shut.Store(true); return nil }}
	for i := range r.rounds {
		if err := r.lose(ctx, killed, fmt.Sprint("lost-", i), 0); err != nil {
			return err
		}
	}
	for i := range r.absences {
		for _, l := range []*loss{killed, frozen, cutOff} {
			if err := r.lose(ctx, l, fmt.Sprintf("%s-%d", l.name, i), 2*takenOver); err != nil {
				return err
			}
		}
	}
	for _, l := range []*loss{killed, frozen, cutOff} {
		if len(l.silent) > 0 {
			r.report.times("call of an agent whose host "+l.name, l.silent, 0.5, 0.99, 1)
		}
		if len(l.late) > 0 {
			r.report.times("mail is late if the host "+l.name, l.late, 0.5, 0.99, 1)
		}
	}
	return nil
}

func (r *agentRun) victim(ctx context.Context, gated bool) (*victim, error) {
	v, url := &victim{}, r.url
	var err error
	if gated {
		if v.gate, err = openGate(r.url); err != nil {
			return nil, err
		}
		url = v.gate.url()
	}
	v.Cmd, err = r.hostAt(ctx, url)
	if err != nil && gated {
		_ = v.gate.close()
	}
	return v, err
}

// end kills the host, however lost it is.
func (v *victim) end() {
	_ = v.Process.Kill()
	_ = v.Wait()
	if v.gate != nil {
		_ = v.gate.close()
	}
}

// lose takes a host away that has agents of its own, calls some of them, and tells others something before and after.
func (r *agentRun) lose(ctx context.Context, l *loss, name string, told int) error {
	v, err := r.victim(ctx, l.gated)
	if err != nil {
		return err
	}
	defer v.end()
	agents, err := r.agentsElsewhere(ctx, name, takenOver+told)
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards what l has
	var group errgroup.Group
	began := time.Now()
	for i, name := range agents[takenOver:] {
		group.Go(func() error {
			time.Sleep(time.Until(began.Add(time.Duration(i) * mailEvery)))
			late, err := r.tellLost(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			l.late = append(l.late, late)
			return err
		})
	}
	time.Sleep(time.Until(began.Add(time.Duration(told/2) * mailEvery)))
	lost := time.Now()
	if err := l.lose(v); err != nil {
		return err
	}
	for _, name := range agents[:takenOver] {
		group.Go(func() error {
			n, err := agent.Call(ctx, r.meter(name), (*meter).Set, 1000, agent.Timeout(within))
			if err == nil && n != 2 {
				err = fmt.Errorf("it is number %d, want the second", n)
			}
			if err != nil {
				return fmt.Errorf("call of %s, whose host %s: %w", name, l.name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			l.silent = append(l.silent, time.Since(lost))
			return nil
		})
	}
	return group.Wait()
}

// agentsElsewhere makes agents that the first host does not get.
func (r *agentRun) agentsElsewhere(ctx context.Context, prefix string, n int) (names []string, err error) {
	here, err := r.owner(ctx, meterClass, "caller")
	if err != nil {
		return nil, err
	}
	for i := range 100 * n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if _, err := agent.Call(ctx, r.meter(name), (*meter).Set, 1000); err != nil {
			return nil, err
		}
		owner, err := r.owner(ctx, meterClass, name)
		if err != nil {
			return nil, err
		}
		if owner != here {
			names = append(names, name)
		}
		if len(names) == n {
			return names, nil
		}
	}
	return nil, fmt.Errorf("the second host gets only %d of %d agents", len(names), 100*n)
}

// tellLost tells an agent something and returns how late it was applied. It does not call the agent: that would bring it into
// memory, where it reads its mail.
func (r *agentRun) tellLost(ctx context.Context, name string) (late time.Duration, err error) {
	sent := time.Now()
	if err := agent.Tell(ctx, r.meter(name), (*meter).Count, int(mailTakes.Milliseconds())); err != nil {
		return 0, err
	}
	for deadline := sent.Add(within); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(mailLook) {
		record, err := r.record(ctx, meterClass, name)
		if err != nil {
			return 0, err
		}
		var state meterState
		if err := json.Unmarshal(record.State, &state); err != nil {
			return 0, err
		}
		if state.N == 2 {
			return max(0, time.Since(sent)-mailTakes), nil
		}
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return 0, fmt.Errorf("mail to %s is not applied within %v", name, within)
}
