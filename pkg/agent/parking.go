package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// without is the parked mail except that of some sequences.
func without(parked []protocol.Parked, sequences ...uint64) []protocol.Parked {
	return slices.DeleteFunc(slices.Clone(parked), func(p protocol.Parked) bool { return slices.Contains(sequences, p.Sequence) })
}

// park stores that an attempt has failed and when the next one may be, so that neither is forgotten with this host.
func (a *actor) park(ctx context.Context, l *letter, wait time.Duration) error {
	notBefore := time.Now().Add(a.host.stage.Wait(wait)).UTC()
	parked := append(without(a.at.record.Parked, l.sequence),
		protocol.Parked{Sequence: l.sequence, Attempts: l.attempts, NotBefore: notBefore})
	err := a.storeParked(ctx, parked)
	if errors.Is(err, journal.ErrTooLarge) {
		a.log.ErrorContext(ctx, "record has no room for a failed attempt, which is forgotten if the agent leaves this host",
			slog.String(logkey.Source, l.lane), slog.Uint64(logkey.Number, l.mail.Number))
		err = nil
	}
	if err != nil {
		return err
	}
	a.mail.park(l, notBefore)
	testsignal.At(testsignal.AgentParked)
	return nil
}

// storeParked writes the record with other parked mail. That is no turn.
func (a *actor) storeParked(ctx context.Context, parked []protocol.Parked) error {
	if err := a.fit(ctx); err != nil {
		return err
	}
	r := a.at.record
	r.Parked, r.Outbox = parked, slices.Clone(a.pending)
	r.Commit, r.Updated = uuid.NewString(), time.Now().UTC()
	err := a.store(ctx, r)
	if err != nil && !isEnd(err) && !errors.Is(err, journal.ErrTooLarge) {
		return &endError{err}
	}
	return err
}

// unpark takes a letter that needs no further attempt out of the record, if it is there. Turns do so by themselves.
func (a *actor) unpark(ctx context.Context, sequences ...uint64) error {
	rest := without(a.at.record.Parked, sequences...)
	if len(rest) == len(a.at.record.Parked) {
		return nil
	}
	return a.storeParked(ctx, rest)
}

// tidyParked takes parked mail out that somebody has removed from the inbox, and lets that go which a turn has made void:
// it must not hold up its lane until its next attempt.
func (a *actor) tidyParked(ctx context.Context) error {
	if err := a.unpark(ctx, a.mail.lost()...); err != nil {
		return err
	}
	if a.tidied != a.at.sequence {
		a.tidied = a.at.sequence
		a.mail.hasten(func(l *letter) bool { return a.isVoid(l) != "" })
	}
	return nil
}

// isStopped reports whether so much mail is parked that no more can be. Then only that is tried, until some of it is
// applied or given up.
func (a *actor) isStopped(ctx context.Context) bool {
	stopped := len(a.at.record.Parked) >= a.host.times.maxParked
	if stopped == a.stopped {
		return stopped
	}
	a.stopped = stopped
	count := slog.Int(logkey.Count, len(a.at.record.Parked))
	if stopped {
		a.log.ErrorContext(ctx, "inbox has stopped: too much mail of the agent has failed and waits for another attempt", count)
	} else {
		a.log.InfoContext(ctx, "inbox goes on", count)
	}
	return stopped
}
