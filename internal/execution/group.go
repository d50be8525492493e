package execution

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Group runs branches side by side. Its Wait ends the goroutine if a branch ended its own, so that nothing goes on
// with half of the results.
type Group struct {
	s      *Scope
	number int
	race   *race // that the branches run, nil for those that all count
	ctx    context.Context
	cancel context.CancelCauseFunc

	// guarded by the execution's mutex
	branches []*engine.Branch
	live     int
	limit    int
	err      error
	exited   bool // a branch's goroutine was ended: the group will never be whole
	waiting  []*waiter
}

// Group begins a group within the scope. The contexts of its branches end when one of them fails.
func (s *Scope) Group(ctx context.Context) *Group {
	s.enter()
	defer s.leave()
	g := &Group{s: s, number: s.x.m.NextGroup(s.branch)}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
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
	g.spawn(s.x.m.Fork(s.branch, g.number), 0, fn)
	s.leave()
}

// spawn runs fn as a branch; index is which one of a race. x.mu is held.
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
	case err != nil && g.err == nil:
		g.err = err
		g.cancel(err)
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

// Wait returns when all branches have returned, with the first error.
func (g *Group) Wait() error {
	g.s.enter()
	g.whole()
	g.cancel(g.err)
	err := g.err
	g.s.leave()
	return err
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
