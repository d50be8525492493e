package runner

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
)

// active is an execution of this process, and the wakes that end its newest park: whoever follows it takes them, so that the
// execution goes on where it stands. Another one would go over all that is recorded first.
type active struct {
	*execution.Execution
	came chan struct{} // there are wakes; has room for one

	mu    sync.Mutex // guards what follows
	wakes []*handed
	left  uint64 // the newest park that nothing is taken for any more
}

// handed is a wake under which a parked instance is to be claimed, with the slot that it has got.
type handed struct {
	*held
	slot *slot
}

func follow(x *execution.Execution) *active {
	return &active{Execution: x, came: make(chan struct{}, 1)}
}

// hand gives whoever follows the execution a wake that ends a park. It returns false if nobody takes it.
func (a *active) hand(n *handed, park uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if park <= a.left {
		return false
	}
	a.wakes = append(a.wakes, n)
	select {
	case a.came <- struct{}{}:
	default:
	}
	return true
}

// pass takes the wakes that came for a park, and no more of them.
func (a *active) pass(park uint64) []*handed {
	a.mu.Lock()
	defer a.mu.Unlock()
	came := a.wakes
	a.wakes, a.left = nil, max(a.left, park)
	select {
	case <-a.came:
	default:
	}
	return came
}

// goOn gives a wake that is to claim a parked instance to the execution that has parked it, if that is still in memory.
// It reports whether it did that, or has decided anew about the wake.
func (r *Runner) goOn(ctx context.Context, h *held, s sight, has *slot) bool {
	r.mu.Lock()
	x := r.active[h.instance]
	r.mu.Unlock()
	if x == nil || r.Replays || s.situation(h.instance.Stream()).Phase != engine.Parked {
		return false
	}
	switch x.Stands(s.created, s.tailAt, r.settles) {
	case execution.AtPark:
		waits, err := r.takeSlot(ctx, h, footingOf(s))
		if waits || err != nil {
			has.free()
			if err != nil {
				r.refused(ctx, h, err)
			}
			return true
		}
		n := &handed{h, &slot{r: r, taken: has.taken}}
		if !x.hand(n, s.tailAt) {
			return false
		}
		has.taken = false
		return true
	case execution.Beyond:
		fresh, err := r.lookFor(ctx, h)
		if err == nil && fresh.tailAt == s.tailAt { // the server has lost what it had acknowledged
			return false
		}
		has.free()
		if err != nil {
			r.failed(ctx, h, err)
		} else {
			r.act(ctx, h, fresh, engine.OlderUnknown)
		}
		return true
	}
	return false
}

const (
	// passAll is a park after all others.
	passAll = math.MaxUint64
	// settlesWithin is the default of a runner's settles.
	settlesWithin = 2 * time.Second
	// worthStaying is how many calls are made again rather than kept in memory for long.
	worthStaying = 64
	// staySize is how many bytes executions may have that stay in memory for longer than others.
	staySize = 64 << 20
)

// stay is how long a parked execution stays in memory: for long if a run from the top would take long, and there is room. It
// ends with free.
func (r *Runner) stay(x *active) (long time.Duration, free func()) {
	calls, size := x.Size()
	if calls < worthStaying || r.Linger > keepIdle {
		return r.Linger, func() {}
	}
	free = func() { r.staying.Add(-size) }
	if r.staying.Add(size) > staySize {
		free()
		return r.Linger, func() {}
	}
	return keepIdle, free
}

// linger keeps a parked execution in memory for a while. If a wake comes that ends the park, the execution claims under it,
// has its slot, and goes on; next is what it is held under then. If nothing comes, it is over. Whatever else happens, e tells.
func (r *Runner) linger(ctx context.Context, x *active, h *held, has *slot, park execution.Event) (next *held, e execution.Event, over bool) {
	long, free := r.stay(x)
	defer free()
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-x.came:
	case <-timer.C:
	case <-r.stopping.Done():
	case e := <-x.Events():
		r.again(ctx, x.pass(park.Sequence))
		return h, e, false
	}
	came := x.pass(park.Sequence)
	for i, n := range came {
		taken, runs := x.GoOn(n.Wake.Wake, park.Sequence)
		if !taken {
			continue
		}
		if runs && n.Kind != engine.WakeDue {
			r.disarm(n.instance, park.Sequence, park.Park.Until)
		}
		has.taken, n.slot.taken = n.slot.taken, false
		r.again(ctx, append(came[:i:i], came[i+1:]...))
		return n.held, <-x.Events(), false
	}
	r.again(ctx, came)
	if x.Leave() {
		return h, execution.Event{}, true
	}
	return h, <-x.Events(), false
}

// again decides anew about wakes that an execution was handed and has not taken: it had gone on before, or is over.
func (r *Runner) again(ctx context.Context, came []*handed) {
	for _, n := range came {
		n.slot.free()
		r.work.Go(func() { r.decideFromLeader(ctx, n.held) })
	}
}
