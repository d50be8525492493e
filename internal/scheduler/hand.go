package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Hand fires the schedules of one project when a test tells it to, instead of a Scheduler at their moments: those of agents,
// or those of workflows.
type Hand struct {
	*Scheduler
	project string
	keys    string                    // of the rows that it fires
	since   time.Time                 // nothing fires that was planned before; zero: everything does
	armed   map[string]*protocol.Tick // by the subject of the row
}

// NewHand makes a Hand for agents. The options are those of a Scheduler; Now is needed.
func NewHand(opts Options, store *journal.Store, project string) *Hand {
	h := &Hand{Scheduler: New(opts), project: project, keys: ">", armed: map[string]*protocol.Tick{}}
	h.store = store
	return h
}

// NewCronHand makes a Hand for workflows. It fires what is planned from now on.
func NewCronHand(opts Options, store *journal.Store, project string) *Hand {
	h := NewHand(opts, store, project)
	h.keys, h.since = protocol.CronKeys, opts.Now()
	return h
}

// due is a schedule with what it fires next, and when.
type due struct {
	key
	row  *row
	tick *protocol.Tick
	at   time.Time
}

// Next is the next moment at which a schedule fires; ok is false if none ever will.
func (h *Hand) Next(ctx context.Context) (moment time.Time, ok bool, err error) {
	d, err := h.next(ctx)
	if err != nil || d == nil {
		return time.Time{}, false, err
	}
	return d.at, true, nil
}

func (h *Hand) next(ctx context.Context) (first *due, err error) {
	bucket := protocol.SchedulesBucket(h.project)
	rows, err := h.store.LastOfMany(ctx, protocol.KVStream(bucket), []string{protocol.KVSubject(bucket, h.keys)})
	if err != nil {
		return nil, fmt.Errorf("read the schedules of %q: %w", h.project, err)
	}
	for _, m := range rows.Messages {
		k, err := parseRowSubject(h.project, m.Subject)
		if err != nil {
			return nil, err
		}
		if k.agent.Class == protocol.ClassCron && h.keys != protocol.CronKeys {
			continue
		}
		r, err := parseRow(k, &m)
		if err != nil {
			return nil, err
		}
		if r == nil || r.Paused != nil {
			continue
		}
		next, err := h.due(ctx, k, r, m.Subject)
		if err != nil {
			return nil, err
		}
		if next != nil && (first == nil || next.at.Before(first.at)) {
			first = next
		}
	}
	return first, nil
}

// due is what a schedule fires next; nil if it is over, or waits for an instance that has not ended.
func (h *Hand) due(ctx context.Context, k key, r *row, subject string) (*due, error) {
	d := &due{key: k, row: r, tick: h.tick(r, subject)}
	d.at = d.tick.Planned
	switch {
	case d.tick.Over && r.Workflow != "":
		return nil, nil
	case d.tick.Over:
		return d, nil
	case d.tick.Since == nil:
		d.at = r.plan.Due(d.tick.Planned)
		return d, nil
	}
	f, err := h.find(ctx, k, r, d.tick)
	if err != nil || r.holds(f) {
		return nil, err
	}
	d.at = h.now()
	return d, nil
}

// tick is what a schedule fires next.
func (h *Hand) tick(r *row, subject string) *protocol.Tick {
	s := step{moment: r.first()}
	if s.moment.Before(h.since) {
		s.moment = r.plan.After(h.since)
	}
	if armed := h.armed[subject]; r.made(armed) {
		s = r.stand(armed)
	}
	if r.inPause(s.moment) {
		s = r.step(new(r.tick(s)), s.moment, found{})
	}
	if s.moment.IsZero() {
		_, s = r.over(s)
	}
	return new(r.tick(s))
}

// Fire puts the firing that comes next into the inbox of its agent, or starts its instance.
func (h *Hand) Fire(ctx context.Context) error {
	d, err := h.next(ctx)
	if err != nil {
		return err
	}
	if d == nil {
		return errors.New("no schedule fires any more")
	}
	f := firing{tick: d.tick, now: d.at} // the clock stops at each: none is missed
	if f.found, err = h.find(ctx, d.key, d.row, d.tick); err != nil {
		return err
	}
	next := d.row.step(d.tick, f.now, f.found)
	if f.mail, err = h.deliver(ctx, d.key, d.row, firing{tick: f.tick, now: h.now(), found: f.found}, next); err != nil {
		return err
	}
	s := d.row.step(d.tick, f.now, f.found) // which knows the mail
	if s.moment.IsZero() && d.row.Workflow == "" {
		if err := h.deleteRow(ctx, d.key, d.row.revision); !errors.Is(err, journal.ErrConflict) {
			return err
		}
	}
	s.over = s.moment.IsZero()
	h.armed[d.rowSubject()] = new(d.row.tick(s))
	return nil
}
