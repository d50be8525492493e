package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/client"
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
	// running is the instance that is not done, of the schedule of a workflow.
	running *started
	// mail is the sequence of the mail that the moment became; 0: none.
	mail uint64
}

// started is an instance by its number.
type started struct {
	protocol.Instance
	incarnation uint64
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

// judgesInstances reports whether it depends on the instances of earlier moments whether one fires.
func (r *row) judgesInstances() bool {
	return r.Workflow != "" && r.Overlap != protocol.OverlapAllowAll && r.Overlap != ""
}

// find finds what is not done of a schedule when a moment comes due, as far as its policy needs that.
func (s *Scheduler) find(ctx context.Context, k key, r *row, t *protocol.Tick) (f found, err error) {
	switch {
	case t.Progress == nil:
	case r.judgesMail() && t.Progress.Last != nil:
		f.undone, err = s.undoneMail(ctx, k, r, t.Progress)
	case r.judgesInstances():
		if f.running, err = s.running(ctx, k, t.Progress); f.running != nil {
			f.undone = 1
		}
	}
	return f, err
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
	return r.judgesInstances() && f.undone > 0
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

// running finds an instance of a schedule that has not ended; one that is paused has not. It is that of the moment which fired
// last. One that was skipped may have an instance, too: of another scheduler, which had found an instant later that it need
// not be.
func (s *Scheduler) running(ctx context.Context, k key, p *protocol.Progress) (*started, error) {
	moments := []*time.Time{p.Last}
	if p.LastSkipped != nil && (p.Last == nil || p.LastSkipped.After(*p.Last)) {
		moments = append(moments, p.LastSkipped)
	}
	for _, moment := range moments {
		if moment == nil {
			continue
		}
		at, err := s.instanceOf(ctx, k, *moment)
		if err != nil {
			return nil, err
		}
		there, err := client.Client{Store: s.store}.Look(ctx, at)
		switch {
		case errors.Is(err, client.ErrNotFound):
		case err != nil:
			return nil, fmt.Errorf("look at instance %s: %w", at, err)
		case there.Done == nil && there.Create.Input == protocol.CronInput(k.id, *moment): // else somebody else has taken the id
			return &started{at, there.Incarnation}, nil
		}
	}
	return nil, nil
}

// cancel tells an instance to end in favour of that of a moment, unless that is what it was told last.
func (s *Scheduler) cancel(ctx context.Context, k key, running *started, planned, now time.Time) error {
	input := protocol.CronInput(k.id, planned) + "/cancel"
	m, err := s.store.Last(ctx, running.Stream(), running.ControlSubject())
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		return fmt.Errorf("cancel instance %s: %w", running, err)
	}
	var newest protocol.Control
	if err == nil && json.Unmarshal(m.Data, &newest) == nil && newest.Input == input {
		return nil
	}
	err = client.Client{Store: s.store}.Steer(ctx, running.Instance, protocol.Control{
		V: protocol.Version, Input: input, Action: protocol.ActionTerminate, Sent: now.UTC(), Source: k.source(),
		Incarnation: running.incarnation,
	})
	if err != nil {
		return fmt.Errorf("cancel instance %s: %w", running, err)
	}
	return nil
}
