package execution

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Group runs branches side by side. Its Wait ends the goroutine if a branch ended its own, so that nothing goes on
// with half of the results.
type Group struct {
	s      *Scope
	step   *engine.Step
	race   *race // that the branches run, nil for those that all count
	ctx    context.Context
	cancel context.CancelCauseFunc

	// guarded by the execution's mutex
	branches []*engine.Branch
	live     int
	limit    int
	forked   int   // how many branches there were
	first    int   // index of the branch by which the group fails, once there is an
	err      error // that it returned
	back     bool  // the branch has returned by which the group failed in an earlier run
	awaited  bool  // all branches are there
	settled  bool  // the others were told
	exited   bool  // a branch's goroutine was ended: the group will never be whole
	waiting  []*waiter
}

// Group begins a group within the scope. The contexts of its branches end when one of them fails.
func (s *Scope) Group(ctx context.Context) *Group {
	s.enter()
	defer s.leave()
	g := &Group{s: s, step: s.x.m.Group(s.branch)}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	if g.step.Done {
		s.x.failing = append(s.x.failing, g)
	}
	return g
}

// SetLimit bounds how many branches run at a time; Go waits for room.
func (g *Group) SetLimit(n int) {
	g.s.x.mu.Lock()
	defer g.s.x.mu.Unlock()
	g.limit = n
}

// Go runs fn as a branch. It is counted before it runs, so that the execution does not park without it.
func (g *Group) Go(fn func(ctx context.Context) error) {
	s := g.s
	s.enter()
	for g.limit > 0 && g.live >= g.limit {
		g.block()
	}
	g.spawn(s.x.m.Fork(s.branch, g.step), g.forked, fn)
	g.forked++
	s.leave()
}

// spawn runs fn as the branch with an index. x.mu is held.
func (g *Group) spawn(branch *engine.Branch, index int, fn func(ctx context.Context) error) {
	x := g.s.x
	child := &Scope{x: x, branch: branch, lane: &lane{group: g, index: index}}
	x.lanes[branch] = child.lane
	g.branches = append(g.branches, branch)
	g.live++
	go g.run(child, fn)
}

func (g *Group) run(child *Scope, fn func(ctx context.Context) error) {
	returned := false
	var err error
	defer func() { g.done(child, err, returned) }()
	_, failure, ok := protect(func() (json.RawMessage, error) {
		err = fn(with(g.ctx, child))
		return nil, nil
	})
	if failure != nil {
		err = failure
	}
	if returned = ok; returned {
		why := failure
		if why == nil && err != nil {
			why = protocol.NewFailure(err)
		}
		child.end(g.ctx, why)
	}
}

// errExited is what a branch leaves that ended its goroutine by itself.
var errExited = errors.New("a branch of the group ended its goroutine")

func (g *Group) done(child *Scope, err error, returned bool) {
	x := g.s.x
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case returned:
	case child.exited:
		g.exited = true
	default:
		err = &protocol.Failure{Name: protocol.FailurePanic, Message: errExited.Error(), Terminal: true}
	}
	delete(x.lanes, child.branch)
	g.live--
	switch {
	case g.exited:
	case g.race != nil:
		g.race.arrive(child.lane.index, err)
	default:
		g.arrive(child.lane.index, err)
	}
	x.activity++
	for _, w := range g.waiting {
		w.lane.waiting--
		w.lane.calls++
		close(w.done)
	}
	g.waiting = nil
	x.quiet()
}

// block waits until a branch ends; x.mu is held before and after.
func (g *Group) block() {
	x := g.s.x
	w := &waiter{lane: g.s.lane, done: make(chan struct{})}
	g.waiting = append(g.waiting, w)
	w.lane.waiting++
	x.quiet()
	x.mu.Unlock()
	select {
	case <-w.done:
	case <-x.gone:
	}
	x.mu.Lock()
	if g.s.out() || g.exited {
		g.s.exit()
	}
}

// Wait returns when all branches have returned, with the error of the first that failed: the same in every run.
func (g *Group) Wait() error {
	g.s.enter()
	g.awaited = true
	for g.gone() && !g.step.Accepted && g.ctx.Err() == nil {
		g.s.stand(g.ctx, &gated{scope: g.s, race: g.step})
		g.s.alive()
	}
	g.whole()
	if g.err == nil && g.step.Error != nil { // the code has not got the branch any more, or it does not fail
		g.err = g.step.Error
	}
	g.cancel(g.err)
	err := g.err
	g.s.leave()
	return err
}

// gone reports whether the group failed because of a branch that the code does not have.
func (g *Group) gone() bool {
	return g.awaited && g.step.Winner != nil && *g.step.Winner >= g.forked
}

// arrive notes that a branch has returned, with err if it failed. If an earlier run says by which the group failed, it is by
// that one. x.mu is held.
func (g *Group) arrive(i int, err error) {
	if w := g.step.Winner; w != nil && !g.settled {
		if g.back = g.back || *w == i; *w == i {
			g.err = err
		}
		return
	}
	if err != nil && g.err == nil {
		g.first, g.err = i, err
		g.s.x.failing = append(g.s.x.failing, g)
	}
}

// look lets the group fail if it can, or tells its branches that it did so before. x.mu is held.
func (g *Group) look() {
	x := g.s.x
	switch {
	case g.settled || x.phase != running && x.phase != releasing:
	case g.step.Done:
		back := g.back || g.awaited && g.live == 0 || g.gone() && g.step.Accepted
		if back && !g.moves(func(int) bool { return true }) {
			x.m.Settle(g.step)
			g.settle(g.err)
		}
	case g.exited:
	case x.recall.on || x.m.Closed(g.s.branch): // what follows counts for nothing
		g.settle(g.err)
	case x.m.Decidable(g.step):
		testsignal.At(testsignal.GivingUp)
		x.m.FailGroup(g.step, g.first, protocol.NewFailure(g.err))
		g.settle(g.err)
	}
}

// settle ends the contexts of the branches, and what they wait for. x.mu is held.
func (g *Group) settle(cause error) {
	x := g.s.x
	g.settled = true
	x.failing = slices.DeleteFunc(x.failing, func(o *Group) bool { return o == g })
	for k, w := range x.waiters {
		if _, in := g.contains(w.lane); in && x.m.GivenUp(k) {
			x.signal([]protocol.Key{k})
		}
	}
	g.cancel(cause)
	x.activity++
	x.openGates()
}

// contains reports which of the branches a lane is of, or is within. x.mu is held.
func (g *Group) contains(l *lane) (index int, ok bool) {
	for ; l.group != nil; l = l.group.s.lane {
		if l.group == g {
			return l.index, true
		}
	}
	return 0, false
}

// moves reports whether one of the branches for which it matters may still return or call by itself. x.mu is held.
func (g *Group) moves(matters func(i int) bool) bool {
	for _, l := range g.s.x.lanes {
		if i, in := g.contains(l); in && l.moves() && matters(i) {
			g.s.x.armPatience()
			return true
		}
	}
	return false
}

// whole waits until all branches have returned; x.mu is held before and after.
func (g *Group) whole() {
	for g.live > 0 {
		g.block()
	}
	if g.exited {
		g.s.exit()
	}
	for _, b := range g.branches {
		g.s.x.m.Join(b)
	}
	g.branches = nil
}
