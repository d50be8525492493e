package execution

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Call is a call of another workflow. Its functions are called only while no run has recorded what they do. An error of
// theirs that is terminal (protocol.TerminalError) fails the call; they are tried again after any other.
type Call struct {
	// Timeout is how long the child may take, 0: as long as it will.
	Timeout time.Duration
	// Resolve says which instance to create. It stores nothing.
	Resolve func(ctx context.Context, parent protocol.Parent) (protocol.Callee, error)
	// Create creates it, unless this very call has done so before, and returns its incarnation.
	Create func(ctx context.Context, parent protocol.Parent, callee protocol.Callee) (incarnation uint64, err error)
}

// Answer is the outcome of a call.
type Answer struct {
	// Callee is the child; zero if there was none to make.
	Callee protocol.Callee
	// Done is how it ended, with its output, if that is what ended the call. Else Failure says what did.
	Done    *protocol.Done
	Failure *protocol.Failure
}

// Call makes a child and waits for its end. If ctx ends, that is recorded as the failure of the call, so that no replay
// revives it; like a timeout, it ends the child.
func (s *Scope) Call(ctx context.Context, name string, call Call) (Answer, error) {
	s.enter()
	s.gate(ctx, protocol.OpCall, name)
	inOrder := s.x.open(s, protocol.OpCall, name)
	step, err := s.x.m.Call(s.branch, name)
	switch {
	case errors.Is(err, ErrLost):
		err = s.loseCall(ctx, step, err)
	case err != nil:
		s.endIfLimit(err)
	case step.GivenUp():
		s.lapse(ctx)
	case step.Done:
	case s.x.recall.on:
		err = s.block(ctx, step.Key)
	case !inOrder && step.Callee == nil: // ctx has ended: it is as if the code had not come here
		s.x.m.Abandon(step.Key)
		err = context.Cause(ctx)
	default:
		s.carryOut(ctx, step, call)
	}
	var a Answer
	if err == nil {
		a, err = s.answer(ctx, step)
	}
	s.leave()
	return a, err
}

// loseCall is for the call of a branch that has lost a race, and of which an earlier run has not said that it is given up:
// its child must end. x.mu is held before and after.
func (s *Scope) loseCall(ctx context.Context, step *engine.Step, err error) error {
	if step == nil || step.Callee == nil || s.x.recall.on {
		return lostCause(ctx, err)
	}
	s.giveUp(ctx, step)
	s.tell(ctx, step)
	return nil
}

// lapse waits in a call that an earlier run gave up: its error must not come before what made its context end, which may
// be the error of another branch. If nothing moves, the context ended for a reason that nobody recorded. x.mu is held before
// and after.
func (s *Scope) lapse(ctx context.Context) {
	x := s.x
	w := &waiter{lane: s.lane, done: make(chan struct{})}
	x.lapsed = append(x.lapsed, w)
	s.lane.waiting++
	x.armSoft()
	x.quiet()
	x.mu.Unlock()
	select {
	case <-w.done:
	case <-x.gone:
	case <-ctx.Done():
	}
	x.mu.Lock()
	if i := slices.Index(x.lapsed, w); i >= 0 {
		x.lapsed = slices.Delete(x.lapsed, i, i+1)
		s.lane.waiting--
		x.activity++
	}
	s.alive()
}

// letLapse lets the calls go on that an earlier run gave up. x.mu is held.
func (x *Execution) letLapse() {
	for _, w := range x.lapsed {
		w.lane.waiting--
		x.activity++
		close(w.done)
	}
	x.lapsed = nil
}

// answer is the outcome of a call that is done. x.mu is held before and after.
func (s *Scope) answer(ctx context.Context, step *engine.Step) (a Answer, err error) {
	a.Done, a.Failure = step.Answer(), step.Error
	if step.Callee != nil {
		a.Callee = *step.Callee
	}
	if a.Done != nil { // the child's runner has put a large output where those of this instance are
		a.Done.Output, err = s.fetch(ctx, a.Done.Output, a.Done.OutputObject)
	}
	return a, err
}

// carryOut brings a call to its end. x.mu is held before and after.
func (s *Scope) carryOut(ctx context.Context, step *engine.Step, call Call) {
	x := s.x
	if step.Type == "" {
		s.beginCall(ctx, step, call)
	}
	if !step.Done && !x.loaded {
		s.refresh()
	}
	if !step.Done {
		if x.Expires != nil && x.Expires(step.Key) {
			now := x.Now().UTC()
			step.Until = &now
		}
		x.due()
	}
	for !step.Done {
		if err := s.block(ctx, step.Key); err != nil {
			s.giveUp(ctx, step)
		}
	}
	s.tell(ctx, step)
}

// refresh reads inputs. If that cannot be, they are read again soon. x.mu is held before and after.
func (s *Scope) refresh() {
	if err := s.x.refresh(); err != nil && s.x.phase == over {
		s.exit()
	}
}

// beginCall brings a call to the point at which its child is there, or has failed to be made. x.mu is held before and after.
func (s *Scope) beginCall(ctx context.Context, step *engine.Step, call Call) {
	parent := s.x.m.Parent(step, s.x.Instance)
	switch {
	case ctx.Err() != nil:
		s.giveUp(ctx, step)
		return
	case step.Callee == nil:
		s.prepare(ctx, step, parent, call)
	case !s.x.loaded:
		// The run before may have made the child and not have said so. Deleted since, it must not be made again.
		s.refresh()
	}
	switch {
	case step.Done:
	case s.x.m.Answered(step):
		s.x.m.Called(step, 0)
	default:
		s.create(ctx, step, parent, call)
	}
}

// prepare finds out whom to call and makes that durable. x.mu is held before and after.
func (s *Scope) prepare(ctx context.Context, step *engine.Step, parent protocol.Parent, call Call) {
	x := s.x
	var callee protocol.Callee
	err := s.insist(ctx, ctx.Done(), func() (err error) {
		callee, err = call.Resolve(ctx, parent)
		return err
	})
	s.alive()
	switch {
	case step.Lost:
		s.giveUp(ctx, step)
		return
	case err == nil:
	case isTerminal(err):
		x.m.FailCall(step, protocol.NewFailure(err))
		return
	default:
		s.giveUp(ctx, step)
		return
	}
	var until *time.Time
	if call.Timeout > 0 {
		end := x.Now().UTC().Add(call.Timeout)
		until = &end
	}
	x.m.Calling(step, callee, until)
	if !x.flush(x.m.Position()) {
		s.exit()
	}
	s.alive()
}

// alive ends the goroutine of code whose execution does not run any more. x.mu is held before and after.
func (s *Scope) alive() {
	if s.out() || s.x.phase != running && !s.x.wakeUp() {
		s.exit()
	}
}

// createWithin bounds one try to create a child.
const createWithin = 30 * time.Second

// create makes the child. No try is broken off, so that it is known who is there. x.mu is held before and after.
func (s *Scope) create(ctx context.Context, step *engine.Step, parent protocol.Parent, call Call) {
	x := s.x
	callee := *step.Callee
	err := s.insist(ctx, x.ctx.Done(), func() (err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createWithin)
		defer cancel()
		testsignal.At(testsignal.CallBegun)
		callee.Incarnation, err = call.Create(ctx, parent, callee)
		testsignal.At(testsignal.CallCreated)
		return err
	})
	switch {
	case x.phase == over || x.phase == finishing:
		x.mu.Unlock()
		x.EndStray(context.WithoutCancel(ctx), engine.Call{Type: parent.Call, Callee: callee})
		x.mu.Lock()
		s.exit()
	case s.out():
		s.exit()
	case err == nil:
		x.m.Called(step, callee.Incarnation)
	case isTerminal(err):
		x.m.FailCall(step, protocol.NewFailure(err))
	default:
		s.exit() // told to stop: the next run tries on
	}
}

// maxPause bounds the time between two tries of what goes on until it succeeds.
const maxPause = 5 * time.Second

// insist repeats try until it succeeds, fails for good, stop is closed or the execution makes room. Meanwhile it does not
// park, nor is it given back. x.mu is held before and after, but not while trying.
func (s *Scope) insist(ctx context.Context, stop <-chan struct{}, try func() error) error {
	x := s.x
	s.lane.resting++
	defer func() { s.lane.resting-- }()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, maxPause) {
		_, err := busy(x, func() (struct{}, error) {
			err := try()
			if err != nil && !isTerminal(err) {
				waitOr(stop, pause)
			}
			return struct{}{}, err
		})
		switch {
		case err == nil, isTerminal(err), isClosed(stop), x.phase != running:
			return err
		case pause >= time.Second:
			x.Logger().WarnContext(ctx, "a call cannot go on now, trying again", logkey.Error, err)
		}
	}
}

func isTerminal(err error) bool {
	t, ok := errors.AsType[protocol.TerminalError](err)
	return ok && t.Terminal()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// waitOr waits for d, or until stop is closed.
func waitOr(stop <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	}
}

// giveUp records that a call ended because its context did. If that is because the execution ends, nothing is recorded:
// the next one goes on with the call. x.mu is held before and after.
func (s *Scope) giveUp(ctx context.Context, step *engine.Step) {
	if s.x.phase != running || s.x.ctx.Err() != nil || s.out() {
		s.exit()
	}
	why := protocol.NewFailure(cmp.Or(context.Cause(ctx), ErrLost))
	cause := protocol.Cause{Name: why.Name, Message: why.Message}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		cause.Name = protocol.FailureTimeout
	}
	s.x.m.GiveUpCall(step, &protocol.Failure{
		Name: protocol.FailureCanceled, Message: "the call was given up: " + why.Message, Causes: []protocol.Cause{cause},
	})
}

// tell lets the child of a call that ended without it end as well, before the code goes on: what is recorded first, is
// projected before anything that follows. x.mu is held before and after.
func (s *Scope) tell(ctx context.Context, step *engine.Step) {
	if call, untold := s.x.m.Untold(step); untold {
		s.endChild(ctx, call)
	}
}

// endChild is for a child that nobody waits for any more. x.mu is held before and after.
func (s *Scope) endChild(ctx context.Context, call engine.Call) {
	x := s.x
	x.bodies++ // neither parked nor given back before that is stored
	stored := x.flush(x.m.Hard())
	x.bodies--
	if !stored {
		s.exit()
	}
	err := s.insist(ctx, x.gone, func() error {
		testsignal.At(testsignal.CallEnded)
		return x.EndChild(x.life, call)
	})
	if err != nil {
		s.exit()
	}
	x.m.Told(call)
}
