package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// lookEvery is how often it is looked which firing waits longest: mostly one request, which finds none.
	lookEvery = 5 * time.Second
	// mostLooked bounds how many firings are looked at until one counts.
	mostLooked = 100
)

// waiting is a firing that no scheduler has served, and for how long it has waited when that was looked up.
type waiting struct {
	key
	planned time.Time
	since   time.Duration
}

// overdue knows which firing waits longest, on the server: whose fault that is does not matter, so it is seen by a
// scheduler that does its own part as well.
type overdue struct {
	*Scheduler
	after time.Duration

	mu    sync.Mutex // guards what follows
	worst *waiting
	// begun is since when firings wait for too long; zero: none does.
	begun time.Time
}

func newOverdue(s *Scheduler) *overdue {
	o := &overdue{Scheduler: s, after: s.opts.LateAfter}
	if o.after == 0 {
		o.after = time.Duration(process.Defaults().ScheduleLateAfter)
	}
	return o
}

// Run looks again and again until ctx is done. What cannot be looked up leaves everything as it was: that the server is
// away is told elsewhere.
func (o *overdue) Run(ctx context.Context) error {
	every := o.opts.LookEvery
	if every == 0 {
		every = lookEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if worst, err := o.look(ctx); err == nil {
			o.set(ctx, worst)
		} else {
			o.log.DebugContext(ctx, "cannot look for late schedules", slog.Any(logkey.Error, err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look returns the firing that waits longest; nil if none does. The server stores them in the order in which they came due.
func (o *overdue) look(ctx context.Context) (*waiting, error) {
	ctx, cancel := context.WithTimeout(ctx, handleLimit)
	defer cancel()
	for from, n := uint64(1), 0; n < mostLooked; n++ {
		m, err := o.store.NextFromLeader(ctx, protocol.StreamClock, protocol.ClockDueSubjects, from)
		if errors.Is(err, journal.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if w, err := o.waits(ctx, m); err != nil || w != nil {
			return w, err
		}
		from = m.Sequence + 1
	}
	return nil, nil
}

// waits says since when a firing waits: since the server stored it, or since it was due if it came early. It returns nil if
// it is not to fire (any more).
func (o *overdue) waits(ctx context.Context, m *journal.Message) (*waiting, error) {
	k, err := parseDueSubject(m.Subject)
	if err != nil {
		return nil, nil // told when it is handled
	}
	t, err := parseTick(m.Data)
	if err != nil {
		return nil, nil
	}
	r, err := o.row(ctx, k)
	if _, bad := errors.AsType[*RowError](err); bad || err == nil && (r == nil || r.Paused != nil || !r.made(t)) {
		return nil, nil
	}
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	due := m.Time // whoever has to serve it cannot read the row either, or it is of a newer program
	if r != nil && r.plan.Due(t.Planned).After(due) {
		due = r.plan.Due(t.Planned)
	}
	since := o.now().Sub(due)
	if since <= 0 {
		return nil, nil
	}
	return &waiting{key: k, planned: t.Planned.UTC(), since: since}, nil
}

// set remembers what was found, and tells when it begins to be too late and when that ends.
func (o *overdue) set(ctx context.Context, worst *waiting) {
	var since time.Duration
	if worst != nil {
		since = worst.since
	}
	o.metrics.overdue.Set(since.Seconds())
	o.mu.Lock()
	defer o.mu.Unlock()
	o.worst = worst
	switch {
	case since > o.after && o.begun.IsZero():
		o.begun = o.now().Add(-since)
		o.log.WarnContext(ctx, "schedules are late: a firing waits", worst.attr(), slog.Time(logkey.Planned, worst.planned),
			slog.Duration(logkey.Delay, since))
	case since <= o.after && !o.begun.IsZero():
		o.log.InfoContext(ctx, "schedules are in time again", slog.Duration(logkey.Duration, o.now().Sub(o.begun)))
		o.begun = time.Time{}
	}
}

// err says which firing is too late.
func (o *overdue) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.begun.IsZero() {
		return nil
	}
	w := o.worst
	return fmt.Errorf("schedule %q of project %q has waited for %s to fire, planned for %s; %s are allowed", w.address(), w.agent.Project,
		w.since.Truncate(time.Second), w.planned.Format(time.RFC3339), o.after)
}
