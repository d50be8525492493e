package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// firstLook and longLook bound how long a moment that waits is away before it is looked at again. In between, that is a
	// part of how long it has waited.
	firstLook  = 250 * time.Millisecond
	longLook   = 10 * time.Second
	partWaited = 4
)

// found is what was found when a moment came due, beside its row.
type found struct {
	// undone counts the firings before it that are not done; 2 is two or more. It is found only if the row's policy needs it.
	undone int
	// mail is the sequence of the mail that the moment became; 0: none.
	mail uint64
}

// judgesMail reports whether it depends on the mail of earlier moments whether one fires.
func (r *row) judgesMail() bool {
	return r.Workflow == "" && (r.Overlap == protocol.OverlapSkip || r.Overlap == protocol.OverlapBufferOne)
}

// skips reports whether a moment does not fire. The inbox of an agent is a buffer, so one of it may be behind one that
// is not done.
func (r *row) skips(f found) bool {
	switch r.Overlap {
	case protocol.OverlapSkip:
		return f.undone > 0
	case protocol.OverlapBufferOne:
		return r.Workflow == "" && f.undone > 1
	}
	return false
}

func (s *step) skip(moments ...time.Time) {
	s.progress.Skipped += len(moments)
	s.progress.LastSkipped = new(moments[len(moments)-1].UTC())
}

// undone counts the firings of a schedule that are not done, as far as its policy needs that.
func (s *Scheduler) undone(ctx context.Context, k key, r *row, t *protocol.Tick) (int, error) {
	if t.Progress == nil || t.Progress.Last == nil {
		return 0, nil
	}
	if r.judgesMail() {
		return s.undoneMail(ctx, k, r, t.Progress)
	}
	return 0, nil
}

// undoneMail counts the firings of an agent's schedule that its record does not know as applied, or given up. Of a schedule
// that the agent does not know any more, or of another life, there is none: its mail tells that.
func (s *Scheduler) undoneMail(ctx context.Context, k key, r *row, p *protocol.Progress) (int, error) {
	applied, known, err := s.applied(ctx, k, r)
	if err != nil || !known || applied >= protocol.FiringNumber(*p.Last) {
		return 0, err
	}
	if gone, err := s.isRemoved(ctx, k, p.Mail); err != nil || gone {
		return 0, err
	}
	if p.Previous == nil || applied >= protocol.FiringNumber(*p.Previous) {
		return 1, nil
	}
	return 2, nil
}

// applied reads which firings of a schedule its agent has applied: up to a number.
func (s *Scheduler) applied(ctx context.Context, k key, r *row) (number uint64, known bool, err error) {
	bucket := protocol.AgentsBucket(k.agent.Project)
	subject := protocol.KVSubject(bucket, protocol.AgentKey(k.agent.Class, k.agent.Name))
	m, err := s.store.Last(ctx, protocol.KVStream(bucket), subject)
	if errors.Is(err, journal.ErrNotFound) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read %s: %w", subject, err)
	}
	var record struct {
		Life uint64            `json:"life"`
		Seen map[string]uint64 `json:"seen"`
	}
	if err := json.Unmarshal(m.Data, &record); err != nil {
		return 0, false, fmt.Errorf("read %s: %w", subject, err)
	}
	if record.Life == 0 {
		record.Life = m.Sequence
	}
	number, known = record.Seen[protocol.ScheduleSource(k.id)]
	return number, known && record.Life == r.Life, nil
}

// isRemoved reports whether somebody has taken mail out of the inbox that is not applied: nobody has to wait for that.
func (s *Scheduler) isRemoved(ctx context.Context, k key, sequence uint64) (bool, error) {
	if sequence == 0 {
		return false, nil
	}
	m, err := s.store.NextFromLeader(ctx, protocol.InboxStream(k.agent.Project), k.agent.InboxSubject(k.agent.Project), sequence)
	if errors.Is(err, journal.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for mail %d of %s: %w", sequence, k.rowSubject(), err)
	}
	return m.Sequence != sequence, nil
}

// holds reports whether a moment waits for the end of the instance that an earlier one has started.
func (r *row) holds(f found) bool {
	return r.Workflow != "" && f.undone > 0 && r.Overlap != protocol.OverlapAllowAll && r.Overlap != ""
}

// hold lets the moment wait on.
func (s *step) hold(t *protocol.Tick, now time.Time) {
	s.moment, s.since = t.Planned, t.Since
	if s.since == nil {
		s.since = new(now.UTC())
	}
	s.at = now.Add(min(max(now.Sub(*s.since)/partWaited, firstLook), longLook))
}

// goOnAfterWait finds what comes after a moment that has waited, if the next has passed meanwhile. That is no matter of
// catching up: either all that pass wait in a row, or none does but the first.
func (r *row) goOnAfterWait(s *step, now time.Time) {
	if r.Overlap == protocol.OverlapBufferAll {
		s.since = new(now.UTC())
		return
	}
	var passed []time.Time
	passed, s.moment = r.passed(s.moment, now)
	s.skip(passed...)
}
