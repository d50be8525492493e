package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// turn runs fn as one turn and stores what it asked for. An error means that nothing of it is stored, and that the
// agent in memory is as before; an *endError, that the actor must end.
func (a *actor) turn(ctx context.Context, firing *Moment, fn func(context.Context, *draft) error) (stored bool, err error) {
	if err := a.fit(ctx); err != nil {
		return false, err
	}
	d := a.draft(firing)
	err = a.runDraft(ctx, d, fn)
	if err == nil {
		stored, err = a.commit(ctx, d)
	}
	if err != nil && !isEnd(err) { // else the agent is not ours any more
		d.core.set(a.whole, a.at.record.Revision)
	}
	return stored, err
}

// runDraft calls fn with the context of a turn and closes the draft when it returns.
func (a *actor) runDraft(ctx context.Context, d *draft, fn func(context.Context, *draft) error) error {
	turnCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.clock = a.clock(ctx, d, cancel)
	if d.stint != nil {
		d.stint.draft.Store(d)
		defer d.stint.draft.Store(nil)
	}
	d.clock.start()
	defer d.clock.stop()
	defer d.end()
	own := context.WithValue(turnCtx, ownKey{}, turnCtx)
	err := protect(func() error { return fn(turn.With(own, d), d) })
	if !d.fate.returns() {
		return &endError{errStuck} // the agent has gone on
	}
	switch lost := d.isLost(); {
	case lost != nil:
		return lost
	case err != nil:
		return err
	case turnCtx.Err() != nil:
		return context.Cause(turnCtx)
	}
	return nil
}

// ownKey leads from a context of a handler to that of its turn.
type ownKey struct{}

// ownContext is that of the turn itself, which does not end because somebody has left: what is being stored must not be cut off for that.
func ownContext(ctx context.Context) context.Context {
	if own, ok := ctx.Value(ownKey{}).(context.Context); ok {
		return own
	}
	return ctx
}

// clock is the one of a turn: at the limit it ends its context, and some time later it says that the turn is stuck.
func (a *actor) clock(ctx context.Context, d *draft, cancel context.CancelCauseFunc) *clock {
	limit := a.class.limit
	return &clock{
		slow: a.host.times.slowTurn, limit: limit, grace: a.host.times.stuckAfter,
		warn: func() {
			a.host.slow.Add(1)
			d.logger().WarnContext(ctx, "turn is slow, the agent's other callers wait",
				slog.Duration(logkey.Duration, a.host.times.slowTurn))
		},
		over: func(times int) {
			if times == 1 {
				a.host.overdue.Add(1)
				cancel(fmt.Errorf("%w: over %s", ErrTurnTooLong, limit))
				return
			}
			if d.stint != nil {
				select {
				case d.stint.stuck <- struct{}{}:
				default:
				}
			}
		},
	}
}

// commit stores a draft by one compare-and-set write of the record; one that changes nothing is not written.
func (a *actor) commit(ctx context.Context, d *draft) (stored bool, err error) {
	next, changed := d.next(uuid.NewString(), time.Now().UTC())
	if !changed {
		return false, nil
	}
	kept, err := a.putState(ctx, &next)
	if err != nil {
		return false, err
	}
	testsignal.At(testsignal.AgentBeforeCommit)
	if err := a.store(ctx, next); err != nil {
		if !errors.Is(err, journal.ErrUnknownOutcome) {
			kept.refused(ctx)
		}
		return false, err
	}
	kept.stored()
	a.confirmed.drop(a.at.record.Calls)
	if d.call != nil {
		d.call.stored = true
	}
	a.noteSockets(d)
	a.expose()
	testsignal.At(testsignal.AgentAfterCommit)
	a.sendStored(ctx)
	return true, nil
}

// store writes the record, unless another host has written it.
func (a *actor) store(ctx context.Context, next protocol.Record) error {
	v, err := a.host.records.write(ctx, a.id, a.at.sequence, next)
	switch {
	case isConflict(err):
		return &endError{ErrLostOwnership}
	case errors.Is(err, journal.ErrUnknownOutcome):
		return &endError{err}
	case err != nil:
		return err
	}
	a.at, a.pending = v, next.Outbox
	return nil
}

// report gives the agent a turn for an error that no caller sees.
func (a *actor) report(ctx context.Context, cause error) error {
	handler, ok := a.agent.(ErrorHandler)
	if !ok {
		a.log.ErrorContext(ctx, "agent has no OnError for an error that nobody else sees", slog.Any(logkey.Error, cause))
		return nil
	}
	_, err := a.turn(ctx, nil, func(ctx context.Context, _ *draft) error { return handler.OnError(ctx, cause) })
	if isEnd(err) {
		return err
	}
	if err != nil {
		a.log.ErrorContext(ctx, "OnError failed", slog.Any(logkey.Error, err), slog.Any(logkey.Cause, cause))
	}
	return nil
}

// protect makes an error of a panic in user code.
func protect(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = newPanic(r)
		}
	}()
	return fn()
}

func newPanic(value any) *PanicError { return &PanicError{Value: value, Stack: debug.Stack()} }
