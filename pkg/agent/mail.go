package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// MailError is handed to OnError when mail was given up and put among the dead letters.
type MailError struct {
	// Source says where the mail came from: "schedule/<id>" for the agent's own schedules.
	Source   string
	Callback string
	Attempts int
	Err      error
}

func (e *MailError) Error() string {
	return fmt.Sprintf("callback %q for mail of %q given up after %d attempts: %v", e.Callback, e.Source, e.Attempts, e.Err)
}

// Unwrap returns the error of the last attempt.
func (e *MailError) Unwrap() error { return e.Err }

// FailureName is how the error is called where it is stored or answered.
func (e *MailError) FailureName() string { return "MailError" }

// malformedError is the reason for a dead letter that was no mail.
type malformedError struct{ error }

func (e *malformedError) Unwrap() error       { return e.error }
func (e *malformedError) FailureName() string { return "MalformedMailError" }
func (e *malformedError) Terminal() bool      { return true }

// schedule is the id of the agent's own schedule that a letter stems from, if it does.
func (a *actor) schedule(l *letter) (id string, ok bool) {
	if l.from != a.id.Project {
		return "", false
	}
	return strings.CutPrefix(l.mail.Source, protocol.ScheduleSource(""))
}

// receive applies a letter, or decides that there is nothing to apply.
func (a *actor) receive(ctx context.Context, l *letter) error {
	if l.malformed != nil {
		return a.bury(ctx, l, &malformedError{l.malformed})
	}
	if reason := a.isVoid(l); reason != "" {
		return a.drop(ctx, l, reason)
	}
	gone, err := a.open(ctx, l)
	if err != nil {
		return err
	}
	if gone != "" {
		return a.drop(ctx, l, gone)
	}
	if l.over, err = a.endsSchedule(ctx, l); err != nil {
		return err
	}
	apply, err := a.handlerOf(l)
	if err != nil {
		return a.bury(ctx, l, err)
	}
	l.attempts++
	cancelled, err := a.apply(ctx, l, apply)
	switch {
	case isEnd(err):
		return err
	case err == nil:
		a.mail.settle(l)
		return a.afterTurn(ctx)
	case cancelled:
		a.log.DebugContext(ctx, "cancelled callback has failed", slog.String(logkey.Source, l.lane), slog.Any(logkey.Error, err))
		return a.drop(ctx, l, overtaken)
	}
	return a.tryAgain(ctx, l, err)
}

// apply gives a letter its turn. It reports whether a later firing has cancelled the callback.
func (a *actor) apply(ctx context.Context, l *letter, handle func(context.Context, *draft) error) (cancelled bool, err error) {
	_, err = a.turn(ctx, a.firing(l), func(ctx context.Context, d *draft) error {
		d.isMail = true
		if l.over {
			d.ends, _ = a.schedule(l)
		}
		ctx, release := a.untilOvertaken(ctx, l)
		defer func() {
			cancelled = errors.Is(context.Cause(ctx), ErrOverlapped)
			release()
		}()
		if err := handle(ctx, d); err != nil {
			return err
		}
		return d.markApplied(a, l)
	})
	return cancelled, err
}

// drop lets a letter go that must not be applied.
func (a *actor) drop(ctx context.Context, l *letter, reason string) error {
	id, own := a.schedule(l)
	if !own {
		id, own = a.alone(l)
	}
	if own && reason == unknownSchedule {
		a.forgetRow(id)
	}
	// A host that was away may judge by a record that is no more: then the mail is for whoever has the agent now.
	if err := a.fit(ctx); err != nil {
		return err
	}
	if err := a.unpark(ctx, l.sequence); err != nil {
		return err
	}
	a.host.dropped.Add(1)
	a.log.DebugContext(ctx, "dropped mail", slog.String(logkey.Cause, reason), slog.String(logkey.Source, l.lane),
		slog.Uint64(logkey.Number, l.mail.Number))
	a.mail.settle(l)
	return a.afterTurn(ctx)
}

const (
	unknownSchedule = "of a schedule that is no more"
	overtaken       = "cancelled by a later firing"
)

// isVoid says why a letter must not be applied; empty if it must.
func (a *actor) isVoid(l *letter) string {
	if l.redrive != "" {
		if a.isRedriven(l.redrive) {
			return "applied before"
		}
		return ""
	}
	if l.mail.Life != 0 && l.mail.Life != a.at.record.Life {
		return "of another life"
	}
	if l.mail.Notice != nil {
		return a.voidNotice(l)
	}
	if _, alone := a.alone(l); alone {
		if reason := a.voidAlone(l); reason != "" {
			return reason
		}
	}
	applied, known := mark(a.at.record, l.lane)
	_, scheduled := a.schedule(l)
	queued := a.isQueued(l)
	switch {
	case (scheduled || queued) && l.mail.Life == 0:
		return "of the agent's own, without a life"
	case scheduled && !known, a.isStrayBackfill(l):
		return unknownSchedule
	case queued && !known:
		return "of a queue that is not there"
	case scheduled && a.isEndOnly(l) && l.mail.Number >= applied: // else of an earlier schedule of the id
		return ""
	case l.mail.Number <= applied:
		return "applied before"
	case l.mail.Key != "":
		if isRemembered(a.at.record, l.keyMark()) {
			return "applied before, under its key"
		}
	case scheduled && a.mail.isOvertaken(l):
		return overtaken
	case queued && slices.Contains(a.at.record.Queue.Cancelled, l.mail.Number):
		return "taken out of the queue"
	}
	return ""
}

// isStrayBackfill reports whether a letter is of a backfill of a schedule that is no more.
func (a *actor) isStrayBackfill(l *letter) bool {
	if l.from != a.id.Project || !strings.HasPrefix(l.mail.Source, protocol.SourcesOfBackfills) {
		return false
	}
	_, known := mark(a.at.record, protocol.ScheduleSource(l.mail.Schedule))
	return !known
}

// forgetRow removes the row of a cron schedule that the record does not know, so that it does not fire for ever: a
// host that was frozen between its write and the row can have put it after another cancelled it. This needs no turn:
// that there is no such schedule is what the record says.
func (a *actor) forgetRow(id string) {
	if firesOnce(id) {
		return // the scheduler has removed it
	}
	a.pending = append(a.pending, protocol.Outgoing{ID: "forget." + id, Kind: protocol.OutgoingCancelSchedule, Cancel: id})
}

// isEndOnly reports whether a letter only says that its schedule is over: the last moment was left out, or its firing was
// applied before, when nobody knew yet that it is the last.
func (a *actor) isEndOnly(l *letter) bool {
	_, own := a.schedule(l)
	applied, known := mark(a.at.record, l.lane)
	return own && l.mail.Last && (l.mail.Callback == "" || known && l.mail.Number == applied)
}

// handlerOf is what the agent does with a letter.
func (a *actor) handlerOf(l *letter) (func(context.Context, *draft) error, error) {
	if n := l.mail.Notice; n != nil {
		return func(ctx context.Context, d *draft) error { return a.hear(ctx, d, n) }, nil
	}
	if a.isEndOnly(l) {
		return func(context.Context, *draft) error { return nil }, nil
	}
	cb, err := a.callbackOf(l)
	return func(ctx context.Context, d *draft) error { return cb.call(ctx, d.self, l.mail.Payload) }, err
}

func (a *actor) callbackOf(l *letter) (callback, error) {
	cb, err := a.class.lookUp(l.mail.Callback)
	if err != nil {
		return callback{}, err
	}
	if l.from != a.id.Project && !a.class.isCallable(l.mail.Callback) {
		return callback{}, &CallbackError{Class: a.class.name, Callback: l.mail.Callback,
			Reason: fmt.Sprintf("project %q may not call it; agent.Callable would allow it", l.from)}
	}
	return cb, nil
}

func (a *actor) firing(l *letter) *Moment {
	id, own := a.schedule(l)
	if !own && l.from == a.id.Project {
		id, own = l.mail.Schedule, l.mail.Schedule != ""
	}
	if !own {
		return nil
	}
	m := &Moment{Schedule: id, Actual: a.host.stage.Now().UTC(), Attempt: l.attempts, Planned: l.mail.Sent}
	if l.mail.Planned != nil {
		m.Planned = *l.mail.Planned
	}
	return m
}

// keyMark is under what the record remembers mail with a key. Projects do not share keys.
func (l *letter) keyMark() string { return protocol.CallMark(l.from + " " + l.mail.Key) }

// callMark is what the record will remember of mail with a key.
func (l *letter) callMark() *callMark {
	keep := copyFor
	if l.mail.Keep {
		keep = keepFor
	}
	return &callMark{key: l.keyMark(), until: keyUntil(keep), isMail: true, ended: true}
}

// markApplied drafts that a letter is applied: a schedule that has fired for the last time is over, one that the
// callback has cancelled stays unknown.
func (d *draft) markApplied(a *actor, l *letter) error {
	_, own := a.schedule(l)
	return d.change(func() error {
		d.settles = l.sequence
		if l.redrive != "" {
			d.put(protocol.Outgoing{Kind: protocol.OutgoingDropDead, DropDead: l.redrive})
			return nil
		}
		if l.mail.Notice != nil {
			d.note(l.mail.Notice)
			return nil
		}
		if l.mail.Key != "" {
			d.call = l.callMark()
		}
		if a.isQueued(l) {
			return d.passQueued(l.mail.Number)
		}
		if _, alone := a.alone(l); alone {
			if err := d.markAlone(l); err != nil {
				return err
			}
		}
		if !own {
			return d.mark(l.lane, l.mail.Number)
		}
		if _, known := d.applied(l.lane); !known {
			return nil
		}
		if l.over {
			d.forget(l.lane)
			return nil
		}
		return d.mark(l.lane, l.mail.Number)
	})
}

// tryAgain parks a failed letter, which holds up the later ones of its lane, or gives it up.
func (a *actor) tryAgain(ctx context.Context, l *letter, err error) error {
	if ctx.Err() != nil {
		return &endError{context.Cause(ctx)} // the host ends: that is no fault of the letter
	}
	attrs := []any{slog.String(logkey.Callback, l.mail.Callback), slog.String(logkey.Source, l.lane),
		slog.Int(logkey.Attempt, l.attempts), slog.Any(logkey.Error, err)}
	if p, ok := errors.AsType[*PanicError](err); ok {
		attrs = append(attrs, slog.String(logkey.Stack, string(p.Stack)))
	}
	retry := retryOf(l.mail.Retry, a.class.retry)
	terminal, ok := errors.AsType[protocol.TerminalError](err)
	if l.attempts >= retry.MaxAttempts || ok && terminal.Terminal() {
		return a.bury(ctx, l, err)
	}
	a.log.DebugContext(ctx, "callback failed, trying again", attrs...)
	return a.park(ctx, l, retry.delay(l.attempts))
}

// bury stores a letter as applied and as a dead letter in one write, and tells the agent.
func (a *actor) bury(ctx context.Context, l *letter, cause error) error {
	dead := &protocol.DeadLetter{
		V: protocol.Version, Class: a.id.Class, Name: a.id.Name, Mail: l.mail, From: l.from,
		Attempts: l.attempts, Error: protocol.NewFailure(cause), Time: time.Now().UTC(),
	}
	err := a.storeDead(ctx, l, dead)
	if errors.Is(err, journal.ErrTooLarge) {
		a.log.ErrorContext(ctx, "dead letter is stored without its payload, which is too large beside the state",
			slog.String(logkey.Source, l.lane), slog.Uint64(logkey.Number, l.mail.Number))
		dead.Mail, dead.Cut = withoutPayload(dead.Mail), true
		err = a.storeDead(ctx, l, dead)
	}
	if isEnd(err) {
		return err
	}
	if err != nil {
		return &endError{fmt.Errorf("store dead letter: %w", err)}
	}
	failure := &MailError{Source: l.lane, Callback: l.mail.Callback, Attempts: l.attempts, Err: cause}
	attrs := []any{slog.Uint64(logkey.Turn, a.at.record.Turn), slog.Any(logkey.Error, failure)}
	if p, ok := errors.AsType[*PanicError](cause); ok {
		attrs = append(attrs, slog.String(logkey.Stack, string(p.Stack)))
	}
	a.log.WarnContext(ctx, "gave up mail, it is among the dead letters", attrs...)
	a.mail.settle(l)
	a.refused = append(a.refused, failure)
	return a.afterTurn(ctx)
}

func (a *actor) storeDead(ctx context.Context, l *letter, dead *protocol.DeadLetter) error {
	_, err := a.turn(ctx, nil, func(_ context.Context, d *draft) error {
		if l.malformed == nil {
			if err := d.markApplied(a, l); err != nil {
				// The record holds no more marks. Without one, a late copy of this letter makes a second dead letter.
				a.log.ErrorContext(ctx, "dead letter has no mark", slog.Any(logkey.Error, err))
			}
		}
		return d.change(func() error {
			d.put(protocol.Outgoing{Kind: protocol.OutgoingDead, Dead: dead})
			return nil
		})
	})
	return err
}
