package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Undo compensates a step: it is a step of its own, with retries.
type Undo struct {
	Body func(ctx context.Context, of Undone) error
	// RetryIf and Delay are as those of Code.
	RetryIf func(err error) bool
	Delay   func(attempt int, err error) time.Duration
}

// Undone is what the log holds of a step that is compensated.
type Undone struct {
	Result json.RawMessage
	// Sensitive results are not shown.
	Sensitive bool
	// Failure is set if the step has failed, or was interrupted: then there is no result.
	Failure *protocol.Failure
	// Cause is why the instance fails.
	Cause *protocol.Failure
}

// rollback is the undoing of an instance's steps. Workflow code is over then: its calls end their goroutines.
type rollback struct {
	on    bool
	undos map[protocol.Key]known
	// unknown are the steps to undo of which the code has not said how, while it is gone over for that.
	unknown map[protocol.Key]bool
}

// known is how a step is undone, with the context of the call that said so: it knows the project.
type known struct {
	ctx context.Context
	*Undo
}

// out reports whether the goroutine of a scope must end. x.mu is held.
func (s *Scope) out() bool { return s.x.phase == over || s.x.rollback.on && !s.undoes }

// learn notes how a step is undone. x.mu is held.
func (x *Execution) learn(ctx context.Context, key protocol.Key, u *Undo) {
	if x.rollback.undos == nil {
		x.rollback.undos = map[protocol.Key]known{}
	}
	x.rollback.undos[key] = known{ctx, u}
	if delete(x.rollback.unknown, key); x.rollback.unknown != nil && len(x.rollback.unknown) == 0 {
		x.recalled()
	}
}

// rebuild begins to go over the code for what it says about undoing its steps. It returns false if there is nothing to
// learn. It is called before anything runs.
func (x *Execution) rebuild() bool {
	keys := x.m.ToUndo()
	if len(keys) == 0 {
		return false
	}
	x.rollback.unknown = map[protocol.Key]bool{}
	for _, k := range keys {
		x.rollback.unknown[k] = true
	}
	x.m.Recall()
	x.recall.on = true
	x.loaded = true // no input counts any more
	return true
}

// conclude ends an instance whose function has returned: at once, or when what it did is undone. x.mu is held.
func (x *Execution) conclude(o outcome) {
	if o.failure == nil || len(x.m.ToUndo()) == 0 {
		x.complete(o)
		return
	}
	x.rollBack(o.failure)
}

// rollBack begins to undo the steps, because of a failure that is not recorded yet or, without one, as the log says.
// x.mu is held.
func (x *Execution) rollBack(failure *protocol.Failure) {
	x.rollback.on, x.recall.on = true, false
	x.cancel(ErrRollingBack)
	x.ctx, x.cancel = context.WithCancelCause(x.life)
	x.gates, x.lapsed, x.races, x.failing, x.waiters, x.lanes = nil, nil, nil, nil, map[protocol.Key]*waiter{}, map[*engine.Branch]*lane{}
	go x.undo(failure)
}

// undo undoes the steps one by one, the one that began last first, and ends the instance. Whatever happens meanwhile is
// as for the bodies of steps: the execution may park, be released or dropped.
func (x *Execution) undo(failure *protocol.Failure) {
	s := &Scope{x: x, branch: x.m.Root(), lane: &lane{root: true, inside: 1}, undoes: true}
	x.mu.Lock()
	x.lanes[s.branch] = s.lane
	for x.bodies > 0 && x.phase == running { // they were told to stop
		x.changed.Wait()
	}
	if x.phase != running && !x.wakeUp() { // what other goroutines wait for may even have parked it
		s.exit()
	}
	if failure != nil {
		x.m.RollBack(failure)
		for _, call := range x.m.Orphans() { // what is undone must not go on
			s.endChild(x.life, call)
		}
	}
	for {
		if x.phase != running && !x.wakeUp() {
			s.exit()
		}
		of, undo, stopped := x.m.Undo()
		if undo != nil {
			s.compensate(of, undo)
			continue
		}
		if x.History.Rollback == nil {
			x.m.RolledBack(stopped)
		}
		x.complete(outcome{failure: x.History.Rolling.Error})
		x.mu.Unlock()
		return
	}
}

// undoable reports whether the code has said how to undo a step. x.mu is held.
func (x *Execution) undoable(key protocol.Key) bool {
	_, ok := x.rollback.undos[key]
	return ok
}

// compensate undoes a step, or ends its goroutine. x.mu is held before and after.
func (s *Scope) compensate(of, undo *engine.Step) {
	x := s.x
	u, ok := x.rollback.undos[of.Key]
	switch {
	case ok:
	case of.Accepted:
		x.m.LeaveAlone()
		return
	default:
		x.holdFor(x.m.Irreversible(x.undoable), nil)
		s.exit()
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(u.ctx))
	defer cancel(nil)
	told := x.ctx
	defer context.AfterFunc(told, func() { cancel(context.Cause(told)) })()
	whole, err := s.fetchResult(ctx, of)
	if err != nil {
		s.exit()
	}
	done := Undone{Result: whole.Result, Sensitive: of.Config.Sensitive, Failure: of.Error, Cause: x.History.Rolling.Error}
	if !of.Done {
		done.Failure = &protocol.Failure{
			Name: protocol.FailureInterrupted, Message: fmt.Sprintf("step %q had begun and has no outcome", of.Name), Terminal: true,
		}
	}
	code := Code{RetryIf: u.RetryIf, Delay: u.Delay, Body: func(ctx context.Context) (json.RawMessage, error) {
		return nil, u.Body(ctx, done)
	}}
	for !undo.Done {
		if s.attempt(ctx, undo, code) != nil {
			s.exit()
		}
	}
}
