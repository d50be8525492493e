package execution

import (
	"context"
	"slices"

	"github.com/skein-run/skein/pkg/protocol"
)

// gated is a call, or the end of a branch, that waits until the recorded calls before it are made: by other goroutines
// on its branch, or by branches within it. If nothing moves any more, nobody will make them.
type gated struct {
	scope *Scope
	op    protocol.Op // empty: the end
	name  string
	done  chan struct{}
}

func (x *Execution) open(s *Scope, op protocol.Op, name string) bool {
	if op == "" {
		return x.m.OpenEnd(s.branch)
	}
	return x.m.Open(s.branch, op, name)
}

// gate returns when a call may be made, as far as its place among the recorded ones goes. A call whose context has ended
// may: it records nothing. x.mu is held before and after.
func (s *Scope) gate(ctx context.Context, op protocol.Op, name string) {
	for !s.x.open(s, op, name) && ctx.Err() == nil {
		s.stand(ctx, op, name)
		if s.x.phase != running && !s.x.wakeUp() {
			s.exit()
		}
	}
}

// end returns when a branch may end whose function has returned. x.mu is not held.
func (s *Scope) end(ctx context.Context) {
	x := s.x
	x.mu.Lock()
	defer x.mu.Unlock()
	s.lane.inside++
	for x.phase == running && !x.m.OpenEnd(s.branch) {
		if ctx.Err() != nil {
			x.m.Exempt(s.branch)
			break
		}
		s.stand(ctx, "", "")
	}
	s.lane.inside--
	x.activity++
}

// stand waits at the gate until it opens, ctx ends or the execution is over. x.mu is held before and after.
func (s *Scope) stand(ctx context.Context, op protocol.Op, name string) {
	x := s.x
	g := &gated{scope: s, op: op, name: name, done: make(chan struct{})}
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
		if !x.open(g.scope, g.op, g.name) {
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
	for branch, l := range x.lanes {
		if l.group != nil && l.group.ctx.Err() != nil { // it was told to stop, and need not come as far as before
			x.m.Exempt(branch)
		}
	}
	if x.openGates(); len(x.gates) == 0 {
		return
	}
	x.phase = finishing
	x.m.Hold(x.divergence())
	if x.flush(x.m.Position()) {
		x.end(Event{Kind: Held, Sequence: x.expected}, ErrHeld)
	}
}

// divergence is what the first one at the gate waits for, or one on a branch within its own. x.mu is held.
func (x *Execution) divergence() protocol.Divergence {
	first := slices.MaxFunc(x.gates, func(a, b *gated) int { return a.scope.branch.Depth() - b.scope.branch.Depth() })
	return x.m.Divergence(first.scope.branch, first.op, first.name)
}
