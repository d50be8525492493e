package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// ErrLost is the cause with which the contexts of branches end that have lost a race.
var ErrLost = engine.ErrLost

// Race is how a race ended.
type Race struct {
	// Winner is the index of the branch that was first, −1 if none was.
	Winner int
	// Result is what it returned, Failure is set if it failed.
	Result  json.RawMessage
	Failure *protocol.Failure
	// Errs are what the branches returned in this run, as far as that counts for the failure.
	Errs []error
}

// race is a group whose first branch that returns counts.
type race struct {
	*Group
	ctx          context.Context // of the call
	firstSuccess bool            // a branch that fails has not won
	branches     []contender
}

// contender is a branch of a race.
type contender struct {
	*engine.Branch
	returned bool
	outcome  outcome
	last     int // number of the newest outcome that it was given before it returned
}

// Race runs branches side by side until the first one returns, or with firstSuccess the first one without an error. Which
// one that is is recorded; the others are told to stop, and what they wait for is given up. It returns when all have
// returned. An error says that the race was given up, or is a mistake.
func (s *Scope) Race(ctx context.Context, name string, firstSuccess bool, bodies []Body) (*Race, error) {
	s.enter()
	s.gate(ctx, protocol.OpRace, name)
	step, err := s.x.m.Race(s.branch, name)
	if err != nil {
		s.leave()
		return nil, lostCause(ctx, err)
	}
	for w := step.Winner; w != nil && *w >= len(bodies) && !step.Accepted && ctx.Err() == nil; {
		s.stand(ctx, &gated{scope: s, race: step})
		s.alive()
	}
	r := &race{ctx: ctx, firstSuccess: firstSuccess, branches: make([]contender, len(bodies))}
	r.Group = &Group{s: s, step: step, race: r}
	r.Group.ctx, r.cancel = context.WithCancelCause(ctx)
	s.x.races = append(s.x.races, r)
	for i, body := range bodies {
		r.branches[i].Branch = s.x.m.Contend(step, s.branch)
		r.spawn(r.branches[i].Branch, i, r.runs(i, body))
	}
	if s.x.recall.on && !step.Done { // nothing decides it
		s.remain(ctx, step.Key)
	}
	r.whole()
	s.x.races = slices.DeleteFunc(s.x.races, func(o *race) bool { return o == r })
	ended, err := r.ended(ctx)
	s.leave()
	return ended, err
}

// runs is what a branch runs. A large result is stored before it can win.
func (r *race) runs(i int, body Body) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		result, err := body(ctx)
		o := outcome{result: result}
		if err != nil {
			o = outcome{failure: protocol.NewFailure(err), err: err}
		}
		if r.open() {
			o = r.s.x.stow(ctx, o)
		}
		r.s.x.mu.Lock()
		defer r.s.x.mu.Unlock()
		r.branches[i].outcome = o
		return err
	}
}

// open reports whether the race can still be decided.
func (r *race) open() bool {
	x := r.s.x
	x.mu.Lock()
	defer x.mu.Unlock()
	return !r.step.Done && !x.recall.on
}

// arrive notes that a branch has returned, with err if its code failed. x.mu is held.
func (r *race) arrive(i int, err error) {
	b := &r.branches[i]
	b.returned, b.last = true, b.Last()
	if err != nil && b.outcome.failure == nil { // it panicked, or ended its goroutine
		b.outcome = outcome{failure: protocol.NewFailure(err), err: err}
	}
}

// stir looks whether a group can fail, or a race be decided, and ends the waits that it has withheld. x.mu is held.
func (x *Execution) stir() {
	for _, g := range slices.Clone(x.failing) {
		g.look()
	}
	if len(x.races) == 0 {
		return
	}
	for _, r := range x.races {
		r.look()
	}
	x.signal(x.m.Match())
	x.armDue()
}

// look decides the race if that can be, or settles one that was decided before. x.mu is held.
func (r *race) look() {
	x := r.s.x
	switch {
	case r.settled || x.phase != running && x.phase != releasing:
	case r.step.Done:
		if r.back() && !r.moves(r.goesOn) {
			x.m.Settle(r.step)
			r.settle(ErrLost)
		}
	case x.recall.on || r.step.Lost || r.exited || r.ctx.Err() != nil: // a branch whose goroutine was ended says nothing
	default:
		v, last, ok := r.verdict()
		earlier := func(i int) bool { return r.goesOn(i) && r.branches[i].Last() < last }
		if ok && x.m.Decidable(r.step) && !r.moves(earlier) {
			testsignal.At(testsignal.GivingUp)
			x.m.Decide(r.step, v)
			r.settle(ErrLost)
		}
	}
}

// back reports whether the branch has returned in this run that was first in an earlier one.
func (r *race) back() bool {
	switch w := r.step.Winner; {
	case w == nil:
		return r.live == 0
	case *w < len(r.branches):
		return r.branches[*w].returned
	}
	return true // it is gone, and that was accepted
}

// verdict is the outcome of the branch that is first as far as is known, with the number of its newest outcome.
func (r *race) verdict() (v engine.Verdict, last int, ok bool) {
	v.Winner = -1
	for i, b := range r.branches {
		if b.returned && (b.outcome.failure == nil || !r.firstSuccess) && (v.Winner < 0 || b.last < last) {
			v.Winner, last = i, b.last
		}
	}
	if v.Winner >= 0 {
		o := r.branches[v.Winner].outcome
		v.Result, v.Object, v.Failure = o.result, o.object, o.failure
		return v, last, true
	}
	if r.live > 0 {
		return v, 0, false
	}
	v.Failure = r.failure()
	return v, 0, true
}

// failure is that of a race in which no branch succeeded.
func (r *race) failure() *protocol.Failure {
	f := &protocol.Failure{Name: protocol.FailureRace}
	var all []string
	for _, b := range r.branches {
		if why := b.outcome.failure; why != nil {
			all = append(all, why.Message)
			f.Causes = append(f.Causes, protocol.Cause{Name: why.Name, Message: why.Message})
		}
	}
	f.Message = fmt.Sprintf("none of %d functions succeeded: %s", len(r.branches), strings.Join(all, "; "))
	return protocol.NewFailure(f)
}

// goesOn reports whether a branch has not returned.
func (r *race) goesOn(i int) bool { return !r.branches[i].returned }

// withheld reports whether a wait of a branch must not end now: it contends in a race in which another branch has
// something to go on with. If that one returns, it was first, and what the wait is for belongs to others.
func (x *Execution) withheld(b *engine.Branch) bool {
	if len(x.races) == 0 || x.lanes[b] == nil {
		return false
	}
	for l := x.lanes[b]; l.group != nil; l = l.group.s.lane {
		r := l.group.race
		if r == nil || r.settled || r.step.Done {
			continue
		}
		if _, _, decided := r.verdict(); decided || r.moves(func(i int) bool { return r.goesOn(i) && i != l.index }) {
			return true
		}
	}
	return false
}

// moves reports whether the code of a lane computes, or soon will: what was told to stop is about to.
func (l *lane) moves() bool {
	rests := l.waiting
	if !l.told() {
		rests += l.resting
	}
	return !l.slow && (l.inside == 0 || l.inside > rests)
}

// told reports whether a race, or a group, is over that the lane is in.
func (l *lane) told() bool {
	for ; l.group != nil; l = l.group.s.lane {
		if l.group.settled {
			return true
		}
	}
	return false
}

// armPatience bounds how long others wait for lanes that compute: they may be blocked outside of the engine. x.mu is held.
func (x *Execution) armPatience() {
	if x.timers.patience != nil || x.phase == over {
		return
	}
	moves := map[*lane]uint64{}
	for _, l := range x.lanes {
		if l.moves() {
			moves[l] = l.calls
		}
	}
	x.timers.patience = time.AfterFunc(x.Idle, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.timers.patience = nil
		for l, calls := range moves {
			l.slow = l.slow || l.calls == calls && l.moves()
		}
		x.quiet()
	})
}

// ended is the outcome of a race whose branches have returned. x.mu is held before and after.
func (r *race) ended(ctx context.Context) (*Race, error) {
	x := r.s.x
	r.cancel(ErrLost)
	if !r.step.Done {
		x.m.Abandon(r.step.Key)
		return nil, lostCause(ctx, ErrLost)
	}
	whole, err := r.s.fetchResult(ctx, r.step)
	if err != nil {
		return nil, err
	}
	e := &Race{Winner: -1, Result: whole.Result, Failure: whole.Error}
	if w := r.step.Winner; w != nil {
		e.Winner = *w
	}
	for i, b := range r.branches {
		if e.Failure != nil && b.outcome.err != nil && (i == e.Winner || e.Winner < 0) {
			e.Errs = append(e.Errs, b.outcome.err)
		}
	}
	return e, nil
}

// lostCause is the error of a call that its branch does not make any more: why its context ended, if it did.
func lostCause(ctx context.Context, err error) error {
	if errors.Is(err, ErrLost) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
