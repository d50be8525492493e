package execution

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Errors of calls that come from the wrong place.
var (
	// ErrNoWorkflow is returned by a call whose context is not one of workflow code.
	ErrNoWorkflow = errors.New("not called from workflow code: pass on the context that the workflow function got")
	// ErrUndoing is returned by a call from a compensation.
	ErrUndoing = errors.New("called from a compensation: no steps can run while an instance is rolled back")
	// ErrNested is returned by a call from the body of a step.
	ErrNested = errors.New("called from the body of a step: steps cannot be nested")
)

// Scope is one branch of an execution: what a context of workflow code stands for.
type Scope struct {
	x      *Execution
	branch *engine.Branch
	lane   *lane
	exited bool // a call ended its goroutine; guarded by the execution's mutex
	undoes bool // it is the one that rolls back
}

type scopeKey struct{}
type bodyKey struct{}

func with(ctx context.Context, s *Scope) context.Context {
	return context.WithValue(ctx, scopeKey{}, s)
}

// From returns the scope that ctx stands for, ErrNested in the body of a step, ErrUndoing in a compensation, else
// ErrNoWorkflow.
func From(ctx context.Context) (*Scope, error) {
	if a := AttemptFrom(ctx); a != nil && a.Op == protocol.OpRollback {
		return nil, ErrUndoing
	} else if a != nil {
		return nil, ErrNested
	}
	if s, ok := ctx.Value(scopeKey{}).(*Scope); ok {
		return s, nil
	}
	return nil, ErrNoWorkflow
}

// Execution is the execution that the scope belongs to.
func (s *Scope) Execution() *Execution { return s.x }

// enter begins a call into the engine; x.mu is held afterwards. A call that comes when the execution is over ends its
// goroutine: there is no error it could return that the code would not act on.
func (s *Scope) enter() {
	s.x.mu.Lock()
	if s.out() || !s.x.wakeUp() {
		s.exited = true
		s.x.mu.Unlock()
		runtime.Goexit()
	}
	s.lane.inside++
	s.lane.calls++
	s.lane.slow = false
	s.x.activity++
}

// leave ends a call; x.mu is held before and released by it.
func (s *Scope) leave() {
	s.lane.inside--
	s.x.activity++
	s.x.armSoft()
	s.x.quiet()
	s.x.mu.Unlock()
}

// exit ends a call and its goroutine.
func (s *Scope) exit() {
	s.exited = true
	s.leave()
	runtime.Goexit()
}

// Sleep returns when the recorded end of the sleep has come.
func (s *Scope) Sleep(ctx context.Context, name string, until func(now time.Time) time.Time) error {
	s.enter()
	s.gate(ctx, protocol.OpSleep, name)
	step, err := s.x.m.Sleep(s.branch, name, until(s.x.Now()).UTC())
	if err != nil {
		err = s.refused(ctx, step, err)
		s.leave()
		return err
	}
	if !step.Done {
		s.x.due()
	}
	err = s.await(ctx, step)
	s.leave()
	return err
}

// WaitForEvent returns the event that ended the wait, or the failure of its timeout.
func (s *Scope) WaitForEvent(ctx context.Context, name, eventType string, timeout time.Duration) (*engine.Received, *protocol.Failure, error) {
	s.enter()
	s.gate(ctx, protocol.OpEvent, name)
	now := s.x.Now().UTC()
	var until *time.Time
	if timeout > 0 {
		end := now.Add(timeout)
		until = &end
	}
	step, err := s.x.m.WaitForEvent(s.branch, name, eventType, until)
	if err != nil {
		s.endIfLimit(err)
		err = s.refused(ctx, step, err)
		s.leave()
		return nil, nil, err
	}
	if !step.Done && !s.x.loaded {
		if err := s.x.refresh(); err != nil && s.x.phase == over {
			s.exit()
		}
	}
	if !step.Done {
		if s.x.Expires != nil && s.x.Expires(step.Key) {
			step.Until = &now
		}
		s.x.due()
	}
	if err := s.await(ctx, step); err != nil || step.Received == nil {
		s.leave()
		return nil, step.Error, err
	}
	received := *step.Received
	received.Payload, err = s.fetch(ctx, received.Payload, step.Object)
	s.leave()
	return &received, nil, err
}

// await waits until a step is done; x.mu is held before and after. If ctx ends first, the wait is given up.
func (s *Scope) await(ctx context.Context, step *engine.Step) error {
	for !step.Done {
		if err := s.block(ctx, step.Key); err != nil {
			return err
		}
	}
	return nil
}

// block waits until the machine ends the wait; x.mu is held before and after. If ctx ends first, or the branch has lost a
// race, the wait is given up.
func (s *Scope) block(ctx context.Context, key protocol.Key) error {
	x := s.x
	if x.m.GivenUp(key) {
		return lostCause(ctx, ErrLost)
	}
	if x.recall.on {
		s.remain(ctx, key)
		x.m.Abandon(key)
		return context.Cause(ctx)
	}
	w := &waiter{lane: s.lane, done: make(chan struct{})}
	x.waiters[key] = w
	s.lane.waiting++
	x.armDue()
	x.armRefresh()
	x.armSoft()
	x.quiet()
	x.mu.Unlock()
	select {
	case <-w.done:
	case <-x.gone:
	case <-ctx.Done():
	}
	x.mu.Lock()
	if s.out() {
		if x.waiters[key] == w {
			s.lane.waiting--
		}
		s.exit()
	}
	if x.waiters[key] != w { // ended, whatever else happened
		if x.m.GivenUp(key) {
			return lostCause(ctx, ErrLost)
		}
		return nil
	}
	delete(x.waiters, key)
	s.lane.waiting--
	x.activity++
	if !x.wakeUp() || x.ctx.Err() != nil { // told to stop: the code must not hear of it
		s.exit()
	}
	s.abandon(ctx, key)
	return context.Cause(ctx)
}

// signal lets the calls go on whose waits ended; x.mu is held.
func (x *Execution) signal(keys []protocol.Key) {
	for _, k := range keys {
		w := x.waiters[k]
		if w == nil {
			continue
		}
		delete(x.waiters, k)
		w.lane.waiting--
		w.lane.calls++
		x.activity++
		close(w.done)
	}
}

// Value returns a value taken from the world once.
func (s *Scope) Value(kind string, produce func() json.RawMessage) (json.RawMessage, error) {
	s.enter()
	v, err := s.x.m.Value(s.branch, kind, produce)
	s.leave()
	return v, err
}

// Report says something of the instance to whoever follows it: with an event type as an event, else as progress.
func (s *Scope) Report(ctx context.Context, eventType string, what json.RawMessage) error {
	s.enter()
	err := s.x.m.Report(s.branch, eventType, what)
	s.endIfLimit(err)
	s.leave()
	return lostCause(ctx, err)
}

// Replaying reports whether the code is still going over what is recorded.
func (s *Scope) Replaying() bool {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	return s.x.recall.on || s.x.m.Replaying()
}

// Enclosing returns the scope of the workflow code or step body that ctx belongs to, nil elsewhere.
func Enclosing(ctx context.Context) *Scope {
	s, _ := ctx.Value(scopeKey{}).(*Scope)
	return s
}
