package execution

import (
	"context"
	"slices"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// gated is a call, or the end of a branch, that waits until the recorded calls before it are made: by other goroutines
// on its branch, or by branches within it. If nothing moves any more, nobody will make them.
type gated struct {
	scope *Scope
	op    protocol.Op // empty: the end
	name  string
	why   *protocol.Failure // what made it end, nil if that is no error
	race  *engine.Step      // one that a function won which is gone, or a group that failed by one: nothing opens this gate
	done  chan struct{}
}

func (x *Execution) open(s *Scope, op protocol.Op, name string) bool {
	switch {
	case x.recall.on && !x.recall.checks:
		return op == "" || !x.m.Shut(s.branch, op, name)
	case op == "":
		return x.m.OpenEnd(s.branch)
	}
	return x.m.Open(s.branch, op, name)
}

// gate returns when a call may be made, as far as its place among the recorded ones goes. A call whose context has ended
// may: it gets no outcome. x.mu is held before and after.
func (s *Scope) gate(ctx context.Context, op protocol.Op, name string) {
	for !s.x.open(s, op, name) && ctx.Err() == nil {
		s.stand(ctx, &gated{scope: s, op: op, name: name})
		if s.out() || s.x.phase != running && !s.x.wakeUp() {
			s.exit()
		}
	}
}

// end returns when a branch may end whose function has returned, with an error if why is one. x.mu is not held.
func (s *Scope) end(ctx context.Context, why *protocol.Failure) {
	x := s.x
	x.mu.Lock()
	defer x.mu.Unlock()
	s.lane.inside++
	for x.phase == running && !s.out() && !x.open(s, "", "") {
		if ctx.Err() != nil {
			x.m.Exempt(s.branch)
			break
		}
		s.stand(ctx, &gated{scope: s, why: why})
	}
	s.lane.inside--
	x.activity++
}

// stand waits at the gate until it opens, ctx ends or the execution is over. x.mu is held before and after.
func (s *Scope) stand(ctx context.Context, g *gated) {
	x := s.x
	g.done = make(chan struct{})
	x.gates = append(x.gates, g)
	s.lane.waiting++
	x.armSoft()
	x.quiet()
	x.mu.Unlock()
	select {
	case <-g.done:
	case <-x.gone:
	case <-ctx.Done():
	}
	x.mu.Lock()
	if i := slices.Index(x.gates, g); i >= 0 {
		x.gates = slices.Delete(x.gates, i, i+1)
		s.lane.waiting--
		x.activity++
	}
	x.armRefresh() // not done while somebody waits here
}

// openGates lets those go on who wait for nothing any more. x.mu is held.
func (x *Execution) openGates() {
	x.gates = slices.DeleteFunc(x.gates, func(g *gated) bool {
		if g.race != nil || !x.open(g.scope, g.op, g.name) {
			return false
		}
		g.scope.lane.waiting--
		x.activity++
		close(g.done)
		return true
	})
}

// hold stops the instance: nothing moves, and what the log holds was not called. x.mu is held.
func (x *Execution) hold() {
	if x.phase != running || x.bodies > 0 || x.flushing {
		return
	}
	x.exempt()
	if x.openGates(); len(x.gates) == 0 {
		return
	}
	g := x.first()
	d := x.m.Divergence(g.scope.branch, g.op, g.name)
	if g.race != nil {
		d = x.m.Winnerless(g.scope.branch, g.race)
	}
	x.holdFor(d, g.why)
}

// first is who tells what the code contradicts: the first one at the gate, or one on a branch within its own. Those that
// have lost a race wait for the one that won it. x.mu is held.
func (x *Execution) first() *gated {
	gates := x.gates
	won := func(g *gated) bool { return g.race != nil || x.m.Contradicts(g.scope.branch) }
	if slices.ContainsFunc(gates, won) {
		gates = slices.DeleteFunc(slices.Clone(gates), func(g *gated) bool { return !won(g) })
	}
	return slices.MaxFunc(gates, func(a, b *gated) int { return a.scope.branch.Depth() - b.scope.branch.Depth() })
}

// holdFor stops the instance for a divergence. Why is what the code returned in place of going on. x.mu is held.
func (x *Execution) holdFor(d protocol.Divergence, why *protocol.Failure) {
	x.phase = finishing
	if x.recall.checks {
		x.contradicted(&d, why)
		return
	}
	told := x.m.Hold(d, why)
	if x.flush(x.m.Position()) {
		x.end(Event{Kind: Held, Sequence: x.expected, Err: told}, ErrHeld)
	}
}

// exempt lets branches that were told to stop end without coming as far as before. x.mu is held.
func (x *Execution) exempt() {
	for branch, l := range x.lanes {
		if l.group != nil && l.group.ctx.Err() != nil {
			x.m.Exempt(branch)
		}
	}
}
