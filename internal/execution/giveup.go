package execution

import (
	"context"
	"errors"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// givenUp is the error of a call that an earlier run gave up, if its context does not end in this one.
type givenUp struct{ *protocol.Failure }

// Is makes it what the context ended with then.
func (e givenUp) Is(target error) bool {
	if e.Name == protocol.FailureTimeout {
		return target == context.DeadlineExceeded
	}
	return target == context.Canceled
}

// abandon gives up a call for good, because its context has ended. Nothing is recorded if that is because the execution ends
// or is in a group or a race that is over. x.mu is held.
func (s *Scope) abandon(ctx context.Context, key protocol.Key) {
	x := s.x
	if key.Op == protocol.OpCall || key.Op == protocol.OpRollback || x.phase != running || x.ctx.Err() != nil || x.m.Closed(s.branch) {
		x.m.Abandon(key)
		return
	}
	why := protocol.NewFailure(context.Cause(ctx))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		why.Name = protocol.FailureTimeout
	}
	testsignal.At(testsignal.GivingUp)
	x.m.GiveUp(key, why)
}

// refused is the error of a call that the machine does not make. One that an earlier run gave up waits until its context ends,
// as it did then: its error must not come before what made it end. x.mu is held before and after.
func (s *Scope) refused(ctx context.Context, step *engine.Step, err error) error {
	if !errors.Is(err, engine.ErrGaveUp) {
		return lostCause(ctx, err)
	}
	if ctx.Err() == nil {
		s.lapse(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return givenUp{step.GaveUp}
}
