package runner

import (
	"fmt"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestControlsNeedNoSlot: all slots are taken, and all room for what waits for one. Whoever executes or waits can be
// stopped all the same.
func TestControlsNeedNoSlot(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.serve(r.runner(func(c *Config) { c.Slots = 1 }))
	executes := r.create(at("works", "executes"))
	r.gate("executes").await(t)
	for n := range 4 {
		r.create(at("works", fmt.Sprint(n)))
	}
	natstest.Eventually(t, patience, "one waits for the slot", func() bool {
		c, err := r.js.Consumer(t.Context(), protocol.WorkflowsStream("p", 0), protocol.ConsumerWakes(0))
		return err == nil && c.CachedInfo().NumAckPending == 2
	})
	for n := range 4 {
		r.control(at("works", fmt.Sprint(n)), terminate)
		r.reaches(at("works", fmt.Sprint(n)), terminated)
	}
	r.control(executes, pause)
	r.until(executes, "is to pause, or does if its runner is not heard in time", func(s protocol.Status) bool {
		return s.State == pausing || s.State == paused
	})
	r.control(executes, terminate)
	r.reaches(executes, terminated)
	r.quiesce(protocol.ConsumerWakes(0), 0)
	for n := range 4 {
		if g := r.gate(fmt.Sprint(n)); len(g.arrived) > 0 {
			t.Errorf("a body of instance %d ran after its end", n)
		}
	}
}

// TestManyResumed: more instances are resumed than can execute or wait for a slot. All go on, and more controls are
// obeyed meanwhile.
func TestManyResumed(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner(func(c *Config) { c.Slots = 1 })
	runner.queueRoom = 1
	r.serve(runner)
	const instances = 4
	name := func(n int) protocol.Instance { return at("waits", fmt.Sprint("a", n)) }
	for n := range instances {
		r.control(name(n), pause) // older than the create: it is void
		r.begun(name(n), waiting)
		r.control(name(n), pause)
		r.reaches(name(n), paused)
	}
	held := r.begun(at("works", "last"), running)
	r.gate("last").await(t)
	for n := range instances {
		r.control(name(n), resume)
	}
	for n := range instances {
		r.until(name(n), "is resumed", func(s protocol.Status) bool { return s.State == running || s.State == queued })
	}
	runner.mu.Lock()
	if n := runner.taken[forControlled]; n > 2 {
		t.Errorf("%d controls execute or wait for the slot, there is room for 2", n)
	}
	runner.mu.Unlock()
	r.control(held, terminate)
	r.reaches(held, terminated)
	for n := range instances {
		r.reaches(name(n), waiting)
	}
	r.quiesce(protocol.ConsumerControls(0), 0)
}
