package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Points at which a test can stop a scheduler.
const (
	// SignalMailed is reached when a firing is in the inbox, or its instance created, and nothing else is done.
	SignalMailed = "scheduler.mailed"
	// SignalSettled is reached when the next moment is armed, or the row deleted, and the firing is not acked.
	SignalSettled = "scheduler.settled"
)

// lateAfter is how late a firing may be before it is told.
const lateAfter = 5 * time.Second

// firesWithin is how late the server fires what is on its clock, unless it has very much to do: up to 270 ms were measured.
const firesWithin = 300 * time.Millisecond

// staleTries is how often a firing is tried again whose row seems older than what fired.
const staleTries = 4

// notYet returns a message until a moment.
type notYet struct{ wait time.Duration }

func (e *notYet) Error() string { return fmt.Sprintf("not due for another %s", e.wait) }

// handleRow is called for every message on the rows of project: a put, or the marker of a delete. It returns nil if the
// message can be acked.
func (s *Scheduler) handleRow(ctx context.Context, project string, m jetstream.Msg) error {
	k, err := parseRowSubject(project, m.Subject())
	if err != nil {
		s.log.WarnContext(ctx, "ignored a row that is no schedule", slog.Any(logkey.Error, err))
		return nil
	}
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	// The replica that delivers can be ahead of the leader, whose older row would be taken for the newest.
	if err := s.store.AwaitStored(ctx, k.rowStream(), meta.Sequence.Stream); err != nil {
		return err
	}
	err = s.settle(ctx, k, firing{})
	if bad, ok := errors.AsType[*RowError](err); ok {
		s.log.WarnContext(ctx, "schedule cannot fire", k.attr(), slog.Any(logkey.Error, bad))
		return nil
	}
	if errors.Is(err, errFires) {
		wait := min(returnAfter(meta.NumDelivered), longBehind)
		s.log.DebugContext(ctx, "row waits for its firing", k.attr(), slog.Uint64(logkey.Attempt, meta.NumDelivered), slog.Duration(logkey.Delay, wait))
		return &notYet{wait}
	}
	if err != nil || m.Headers().Get(protocol.HeaderKVOperation) == "" {
		return err
	}
	return s.removeMarker(ctx, k, meta.Sequence.Stream)
}

// handleDue is called for every firing. It returns nil if the message can be acked.
func (s *Scheduler) handleDue(ctx context.Context, m jetstream.Msg) error {
	k, err := parseDueSubject(m.Subject())
	if err == nil {
		var t *protocol.Tick
		if t, err = parseTick(m.Data()); err == nil {
			if err := s.awaitFired(ctx, m); err != nil {
				return err
			}
			return s.fire(ctx, k, t, m)
		}
	}
	s.log.WarnContext(ctx, "ignored a message that is no firing", slog.String(logkey.Subject, m.Subject()),
		slog.Any(logkey.Error, err))
	return nil
}

// awaitFired waits until the leader has stored a firing, and so has taken away what was armed. A new leader can fire what the one before
// has fired, when the next moment is armed already: that is taken away as well. Before the leader knows of it, it would still be
// seen, the firing be held for one that came again, and nobody would arm it anew.
func (s *Scheduler) awaitFired(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	return s.store.AwaitStored(ctx, protocol.StreamClock, meta.Sequence.Stream)
}

func (s *Scheduler) fire(ctx context.Context, k key, t *protocol.Tick, m jetstream.Msg) error {
	r, err := s.rowOf(ctx, k, t, m)
	if bad, ok := errors.AsType[*RowError](err); ok {
		s.log.WarnContext(ctx, "schedule cannot fire", k.attr(), slog.Any(logkey.Error, bad))
		return nil
	}
	if err != nil || r == nil {
		return err
	}
	if !r.made(t) {
		return s.settleOther(ctx, k, r, t, m)
	}
	if t.Bounds != r.bounds {
		if err := mayBeStale(k, r, t, m); err != nil {
			return err
		}
	}
	now := s.now()
	if r.Paused != nil && !t.Over && !r.mayHaveFired(t, m) {
		return s.settleFired(ctx, k, firing{tick: t})
	}
	if wait := r.plan.Due(t.Planned).Sub(now); wait > 0 && r.stand(t).moment.Equal(t.Planned) {
		return &notYet{wait}
	}
	if cameAgain(m) || r.mayBeLeft(t, now) || r.wasArmedLate(t, storedAt(m)) {
		if past, err := s.isPast(ctx, k, r, t); err != nil || past {
			return err
		}
	}
	f := firing{tick: t, by: r, now: now}
	if f.found, err = s.find(ctx, k, r, t); err != nil {
		return err
	}
	next := r.step(t, now, f.found)
	if f.mail, err = s.deliver(ctx, k, r, f, next); err != nil {
		return err
	}
	testsignal.At(SignalMailed)
	ended := next.moment.IsZero() && r.Workflow == ""
	if ended {
		err = s.deleteRow(ctx, k, r.revision)
	}
	if !ended || errors.Is(err, journal.ErrConflict) { // or the row was changed meanwhile: it may go on
		err = s.settleFired(ctx, k, f)
	}
	if err == nil {
		testsignal.At(SignalSettled)
	}
	return err
}

// rowOf reads the row of a firing. That there is none counts only if the leader has stored, or had stored, the one that the moment
// was computed from: one that has just begun to lead can be behind. One that never gets it has another bucket.
func (s *Scheduler) rowOf(ctx context.Context, k key, t *protocol.Tick, m jetstream.Msg) (*row, error) {
	r, err := s.row(ctx, k)
	if r != nil || err != nil {
		return r, err
	}
	err = s.store.AwaitStored(ctx, k.rowStream(), t.Revision)
	if meta, metaErr := m.Metadata(); errors.Is(err, journal.ErrBehind) && metaErr == nil && meta.NumDelivered >= staleTries {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.row(ctx, k)
}

// settleFired is settle for a firing. If its row was replaced meanwhile by one that can never fire, the message of that
// tells.
func (s *Scheduler) settleFired(ctx context.Context, k key, f firing) error {
	err := s.settle(ctx, k, f)
	if errors.Is(err, errFires) {
		return nil // the message of the row waits for that
	}
	if bad, ok := errors.AsType[*RowError](err); ok {
		s.log.DebugContext(ctx, "schedule cannot fire again", k.attr(), slog.Any(logkey.Error, bad))
		return nil
	}
	return err
}

// isPast reports whether the schedule has gone on from a firing. One that came again was handled before then: as time has
// passed since, it could seem to be the last one now, or its successor to be missed. One that comes for the first time was
// armed by a scheduler that stood still while another one handled what came before, armed a later moment, or this one, and saw that
// fire: a clock subject is as empty then as it was before, so the append of the first one is not refused.
func (s *Scheduler) isPast(ctx context.Context, k key, r *row, t *protocol.Tick) (bool, error) {
	for {
		v, tail, err := s.look(ctx, k, true)
		if _, bad := errors.AsType[*RowError](err); bad {
			err = nil // told when the row came
		}
		if err != nil || r.isPast(t, v) || v.armed != nil {
			return err == nil && r.isPast(t, v), err
		}
		// The newest firing may be this one, and an older one be of a later moment.
		first, err := s.store.NextFromLeader(ctx, protocol.StreamClock, k.dueSubject(), 1)
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			return false, fmt.Errorf("read %s: %w", k.dueSubject(), err)
		}
		if err == nil {
			if v.fired, err = parseTick(first.Data); err != nil || r.isPast(t, v) {
				return err == nil, err
			}
		}
		// Whoever has handled one of a later moment since the look has armed the next before it went.
		armed, now, err := s.tick(ctx, k.clockSubject())
		if err != nil || armed == nil && now == tail {
			return false, err
		}
	}
}

// mayHaveFired reports whether somebody may have delivered a firing before the schedule was paused. Then it is delivered
// again, which changes nothing for who has it, and counts.
func (r *row) mayHaveFired(t *protocol.Tick, m jetstream.Msg) bool {
	return cameAgain(m) && !r.plan.Due(t.Planned).After(r.Paused.Since)
}

func cameAgain(m jetstream.Msg) bool {
	meta, err := m.Metadata()
	return err != nil || meta.NumDelivered > 1
}

// storedAt is when a message was stored, by the server's clock; zero if it does not say.
func storedAt(m jetstream.Msg) time.Time {
	meta, err := m.Metadata()
	if err != nil {
		return time.Time{}
	}
	return meta.Timestamp
}

// settleOther is for a firing that is not of the row that stands there. The row arms itself; should it be older than
// the firing, its bucket was replaced, and only we know that it has to be armed. As such an answer can also come from a
// server that does not know yet that it no longer leads, it must be repeated first.
func (s *Scheduler) settleOther(ctx context.Context, k key, r *row, t *protocol.Tick, m jetstream.Msg) error {
	if err := mayBeStale(k, r, t, m); err != nil {
		return err
	}
	err := s.settle(ctx, k, firing{})
	if _, ok := errors.AsType[*RowError](err); ok || errors.Is(err, errFires) {
		return nil // told when the row came, whose message waits for what fires
	}
	return err
}

// mayBeStale is the error of a firing that is tried again, because its row seems older than what fired.
func mayBeStale(k key, r *row, t *protocol.Tick, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if r.revision < t.Revision && meta.NumDelivered < staleTries {
		return fmt.Errorf("row %s has revision %d, its firing is of %d", k.rowSubject(), r.revision, t.Revision)
	}
	return nil
}

// deliver brings a firing to whom it is for. It returns the sequence of its mail, if it became some.
func (s *Scheduler) deliver(ctx context.Context, k key, r *row, f firing, next step) (uint64, error) {
	if r.Workflow == "" {
		return s.mail(ctx, k, r, f.tick, next, f.now)
	}
	if next.fires {
		return 0, s.startInstance(ctx, k, r, f.tick, f.now)
	}
	if f.running != nil && r.Overlap == protocol.OverlapCancelRunning && next.moment.Equal(f.tick.Planned) {
		return 0, s.cancel(ctx, k, f.running, f.tick.Planned, f.now)
	}
	return 0, nil
}

// mail puts a firing into the agent's inbox. One that comes too late, or is skipped, is left out; if it was the last one, the
// agent is told that.
func (s *Scheduler) mail(ctx context.Context, k key, r *row, t *protocol.Tick, next step, now time.Time) (sequence uint64, err error) {
	for _, mail := range mailOf(k, r, t, next, now) {
		body, err := json.Marshal(mail)
		if err != nil {
			return 0, fmt.Errorf("mail of %s: %w", k.rowSubject(), err)
		}
		if sequence, err = s.store.Publish(ctx, k.agent.InboxSubject(k.agent.Project), nil, body); err != nil {
			return 0, err
		}
	}
	if next.fires {
		s.count(ctx, k, r, r.plan.Due(t.Planned), now)
	}
	return sequence, nil
}

// mailOf is what an agent is told when a moment comes due.
func mailOf(k key, r *row, t *protocol.Tick, next step, now time.Time) []protocol.Mail {
	planned := t.Planned.UTC()
	mail := protocol.Mail{
		V: protocol.Version, Source: protocol.ScheduleSource(k.id), Number: protocol.FiringNumber(planned), Life: r.Life,
		Planned: &planned, Sent: now.UTC(), Last: r.Kind.Recurs() && next.moment.IsZero(),
	}
	if mail.Last {
		mail.Bounds = r.bounds
	}
	end := mail
	if next.fires {
		mail.Callback, mail.Payload, mail.Retry = r.Callback, r.Payload, r.Retry
		if r.Overlap == protocol.OverlapCancelRunning {
			mail.Overlap = r.Overlap
		}
	}
	switch {
	case !next.fires && !mail.Last:
		return nil
	case !next.fires || r.Overlap != protocol.OverlapAllowAll:
		return []protocol.Mail{mail}
	}
	mail.Source, mail.Number, mail.Last = protocol.AloneSource(k.id, next.progress.Runs), 0, false
	mail.Bounds = ""
	mail.Key, mail.Schedule, mail.Overlap = protocol.AloneKey(k.id, planned), k.id, r.Overlap
	if !end.Last {
		return []protocol.Mail{mail}
	}
	return []protocol.Mail{mail, end}
}

// count counts a firing and tells a late one. What was asked for when it was past already is not late.
func (s *Scheduler) count(ctx context.Context, k key, r *row, due, now time.Time) {
	s.fired.Add(1)
	if asked := r.asked(); asked.After(due) {
		due = asked
	}
	late := now.Sub(due)
	if !s.metrics.count(k.agent.Project, late) {
		return
	}
	s.late.Add(1)
	s.log.WarnContext(ctx, "schedule fired late", k.attr(), slog.Time(logkey.Planned, due),
		slog.Duration(logkey.Delay, late))
}

// asked is when the row came to say what it says. Of a schedule that recurs that is when it was made: a change does not excuse a
// moment that is due.
func (r *row) asked() time.Time {
	asked := r.Created
	for _, changed := range []*time.Time{r.Updated, r.Resumed} {
		if changed != nil && !r.Kind.Recurs() && changed.After(asked) {
			asked = *changed
		}
	}
	return asked
}
