package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Hand fires the schedules of one project when a test tells it to, instead of a Scheduler at their moments.
type Hand struct {
	*Scheduler
	project string
	fired   map[string]*protocol.Tick // by the subject of the row
}

// NewHand makes a Hand. The options are those of a Scheduler; Now is needed.
func NewHand(opts Options, store *journal.Store, project string) *Hand {
	h := &Hand{Scheduler: New(opts), project: project, fired: map[string]*protocol.Tick{}}
	h.store = store
	return h
}

// due is a schedule with the moment at which it fires next.
type due struct {
	key
	row    *row
	moment time.Time
}

// Next is the next moment at which a schedule fires; ok is false if none ever will.
func (h *Hand) Next(ctx context.Context) (moment time.Time, ok bool, err error) {
	d, err := h.next(ctx)
	if err != nil || d == nil {
		return time.Time{}, false, err
	}
	return d.moment, true, nil
}

func (h *Hand) next(ctx context.Context) (first *due, err error) {
	bucket := protocol.SchedulesBucket(h.project)
	rows, err := h.store.LastOfMany(ctx, protocol.KVStream(bucket), []string{protocol.KVSubject(bucket, ">")})
	if err != nil {
		return nil, fmt.Errorf("read the schedules of %q: %w", h.project, err)
	}
	for _, m := range rows.Messages {
		k, err := parseRowSubject(h.project, m.Subject)
		if err != nil {
			return nil, err
		}
		r, err := parseRow(k, &m)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		moment := r.first()
		if last := h.fired[m.Subject]; r.made(last) {
			moment = r.next(last.Planned, last.Planned) // the clock stops at each: none is missed
		}
		if !moment.IsZero() && (first == nil || moment.Before(first.moment)) {
			first = &due{key: k, row: r, moment: moment}
		}
	}
	return first, nil
}

// Fire puts the firing that comes next into the inbox of its agent.
func (h *Hand) Fire(ctx context.Context) error {
	d, err := h.next(ctx)
	if err != nil {
		return err
	}
	if d == nil {
		return errors.New("no schedule fires any more")
	}
	t := &protocol.Tick{Definition: d.row.definition, Planned: d.moment}
	if err := h.mail(ctx, d.key, d.row, t, h.now()); err != nil {
		return err
	}
	if !d.row.Kind.Recurs() {
		return h.deleteRow(ctx, d.key, d.row.revision)
	}
	h.fired[d.rowSubject()] = t
	return nil
}
