package moments

import (
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// MaxBackfill is how many moments one backfill can fire.
const MaxBackfill = 10_000

// mostCounted bounds how many moments are counted of a range that has too many.
const mostCounted = 100_000

// Backfill is an order to fire all moments that a schedule plans in a range, both ends included.
type Backfill struct {
	// From and Until bound the moments. Until must not be in the future.
	From, Until time.Time
	// ID tells the order from others: what is repeated with the same ID, From and Until is done once. Empty: a new one.
	ID string
	// Progress is called, if it is set, when so many of all moments are done.
	Progress func(done, of int)
}

// Backfilled is what a backfill has done.
type Backfilled struct {
	ID string `json:"id"`
	// Moments is how many there are in the range. Of them, Sent were sent or started now, and There had their instance.
	Moments int `json:"moments"`
	Sent    int `json:"sent"`
	There   int `json:"there,omitempty"`
}

// BackfillError says that a backfill broke off.
type BackfillError struct {
	Backfilled
	Err error
}

func (e *BackfillError) Error() string {
	return fmt.Sprintf("backfill %q broke off after %d of %d moments; to repeat it with the same id, from and until is harmless: %v",
		e.ID, e.Sent+e.There, e.Moments, e.Err)
}

// Unwrap returns what ended it.
func (e *BackfillError) Unwrap() error { return e.Err }

// Moments are those of a row in the range, in their order. What bounds the schedule does not bound them, apart from the
// moment that an interval counts from. Errors are *FieldError.
func (b Backfill) Moments(row *protocol.Schedule, now time.Time) ([]time.Time, error) {
	switch {
	case !row.Kind.Recurs():
		return nil, &FieldError{"kind", string(row.Kind), "only what fires more than once can be backfilled; trigger lets it fire"}
	case b.From.IsZero():
		return nil, &FieldError{"from", "", "the moment is not set"}
	case b.From.Before(earliest): // firings are numbered by their moment, from there on
		return nil, &FieldError{"from", b.From.Format(time.RFC3339), "allowed is from " + earliest.Format(time.RFC3339) + " on"}
	case b.Until.IsZero():
		return nil, &FieldError{"until", "", "the moment is not set"}
	case b.Until.Before(b.From):
		return nil, &FieldError{"until", b.Until.Format(time.RFC3339), "is before from, " + b.From.Format(time.RFC3339)}
	case b.Until.After(now):
		return nil, &FieldError{"until", b.Until.Format(time.RFC3339), "is in the future: allowed is up to now, " + now.Format(time.RFC3339)}
	case len(b.ID) > protocol.MaxNote:
		return nil, &FieldError{"id", fmt.Sprintf("of %d bytes", len(b.ID)), fmt.Sprintf("at most %d are allowed", protocol.MaxNote)}
	}
	unbounded := *row
	unbounded.Until, unbounded.Times = nil, 0
	if row.Kind != protocol.ScheduleInterval {
		unbounded.From = nil
	}
	plan, err := Of(&unbounded)
	if err != nil {
		return nil, err
	}
	var all []time.Time
	count := 0
	for next := plan.After(b.From.Add(-1)); !next.IsZero() && !next.After(b.Until) && count < mostCounted; next = plan.After(next) {
		if count++; count <= MaxBackfill {
			all = append(all, next.UTC())
		}
	}
	if count <= MaxBackfill {
		return all, nil
	}
	n := fmt.Sprint(count)
	if count == mostCounted {
		n += " or more"
	}
	return nil, &FieldError{"from", b.From.Format(time.RFC3339),
		fmt.Sprintf("%s moments until %s: allowed are %d at a time, so do it in several ranges", n, b.Until.Format(time.RFC3339), MaxBackfill)}
}

// Upcoming are the next n moments after now, of one that fires once its only one, as far as a schedule that has fired so often
// and is not paused has them.
func Upcoming(row *protocol.Schedule, runs int, now time.Time, n int) ([]time.Time, error) {
	plan, err := Of(row)
	if err != nil || row.Paused != nil {
		return nil, err
	}
	if !row.Kind.Recurs() {
		return []time.Time{plan.First().UTC()}, nil
	}
	if row.Times != 0 {
		n = min(n, row.Times-runs)
	}
	var all []time.Time
	for next := plan.After(now); len(all) < n && !next.IsZero(); next = plan.After(next) {
		all = append(all, next.UTC())
	}
	return all, nil
}
