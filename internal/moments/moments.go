// Package moments finds the moments at which a schedule wants to fire, for those who store schedules and those who fire
// them: both must refuse the same rows and mean the same moments.
//
// It must never look at the clock.
package moments

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cronline"
	"github.com/skein-run/skein/pkg/protocol"
)

// Plan is the moments of one schedule.
type Plan struct {
	row   *protocol.Schedule
	lines cronline.Plan
}

// FieldError says which field of a schedule cannot be used.
type FieldError struct {
	// Field is the field as JSON names it, Value what it holds.
	Field, Value string
	// Reason says what is wrong with it and what is allowed.
	Reason string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s %q: %s", e.Field, e.Value, e.Reason) }

// earliest is the first moment that an interval can count from: a duration has room for 292 years.
var earliest = time.Unix(0, 0).UTC()

// latest is the last moment that can be armed: the server counts nanoseconds in 64 bits.
var latest = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// Of reads a row. Errors are *FieldError.
func Of(row *protocol.Schedule) (Plan, error) {
	p := Plan{row: row}
	if row.Created.After(latest) {
		return Plan{}, tooLate("created", row.Created)
	}
	switch row.Kind {
	case protocol.ScheduleDelay, protocol.ScheduleDate:
		return p, checkOnce(row)
	case protocol.ScheduleInterval:
		if d := time.Duration(row.Interval); d < protocol.MinInterval || d > protocol.MaxInterval {
			return Plan{}, &FieldError{"interval", d.String(), "an interval must be 1s to 365 days long"}
		}
	case protocol.ScheduleCron:
		lines, err := cronline.Stored(row.Zone, Lines(row)...)
		if refused, ok := errors.AsType[*cronline.LineError](err); ok {
			return Plan{}, &FieldError{"cron", strings.Join(Lines(row), "\n"), refused.Error()}
		}
		if err != nil {
			return Plan{}, err
		}
		p.lines = lines.From(row.Created)
	default:
		return Plan{}, &FieldError{"kind", string(row.Kind), fmt.Sprintf("allowed are %q, %q, %q and %q",
			protocol.ScheduleDelay, protocol.ScheduleDate, protocol.ScheduleCron, protocol.ScheduleInterval)}
	}
	return p, p.checkBounds()
}

// Lines are the cron lines of a row.
func Lines(row *protocol.Schedule) []string {
	if len(row.Lines) > 0 {
		return row.Lines
	}
	return []string{row.Cron}
}

func tooLate(field string, t time.Time) error {
	return &FieldError{field, t.Format(time.RFC3339), "allowed is before " + latest.Format(time.DateOnly)}
}

func checkOnce(row *protocol.Schedule) error {
	if row.At == nil || row.At.IsZero() {
		return &FieldError{"at", "", fmt.Sprintf("a %s needs a moment", row.Kind)}
	}
	if row.At.After(latest) {
		return tooLate("at", *row.At)
	}
	if row.At.Year() < 1 { // JSON cannot say it
		return &FieldError{"at", row.At.Format(time.RFC3339), "allowed are years from 1 on"}
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"from", row.From != nil}, {"until", row.Until != nil}, {"times", row.Times != 0}, {"jitter", row.Jitter != 0},
		{"catch_up", row.CatchUp != nil}, {"overlap", row.Overlap != ""},
	} {
		if f.set {
			return &FieldError{f.name, "of a " + string(row.Kind), "is only for schedules that fire more than once"}
		}
	}
	return nil
}

func (p Plan) checkBounds() error {
	row := p.row
	switch {
	case row.From != nil && row.From.Before(earliest):
		return &FieldError{"from", row.From.Format(time.RFC3339), "allowed is from " + earliest.Format(time.DateOnly) + " on"}
	case row.From != nil && row.From.After(latest):
		return tooLate("from", *row.From)
	case row.Until != nil && row.Until.After(latest):
		return tooLate("until", *row.Until)
	case row.Times < 0 || row.Times > protocol.MaxTimes:
		return &FieldError{"times", strconv.Itoa(row.Times), fmt.Sprintf("allowed are 1 to %d", protocol.MaxTimes)}
	case row.Jitter < 0 || time.Duration(row.Jitter) > protocol.MaxInterval:
		return &FieldError{"jitter", time.Duration(row.Jitter).String(), "allowed is up to 365 days"}
	case row.CatchUp != nil && (*row.CatchUp < 0 || *row.CatchUp > protocol.MaxCatchUp):
		return &FieldError{"catch_up", strconv.Itoa(*row.CatchUp), fmt.Sprintf("allowed are 0 to %d", protocol.MaxCatchUp)}
	case row.Overlap != "" && !slices.Contains(protocol.Overlaps(), row.Overlap):
		return &FieldError{"overlap", string(row.Overlap), fmt.Sprintf("allowed are %q", protocol.Overlaps())}
	case row.From != nil && row.Until != nil && row.Until.Before(*row.From):
		return &FieldError{"until", row.Until.Format(time.RFC3339), "is before from, " + row.From.Format(time.RFC3339)}
	case row.Workflow == "": // that of a workflow may be over, and changed
		return p.CheckMoments()
	}
	return nil
}

// CheckMoments refuses bounds that leave no moment.
func (p Plan) CheckMoments() error {
	const reason = "leaves no moment to fire at"
	switch row := p.row; {
	case row.From == nil && row.Until == nil || !p.First().IsZero():
		return nil
	case row.Until != nil:
		return &FieldError{"until", row.Until.Format(time.RFC3339), reason}
	default:
		return &FieldError{"from", row.From.Format(time.RFC3339), reason}
	}
}

// First is the moment at which the schedule fires if it never did. It may have passed.
func (p Plan) First() time.Time {
	if !p.row.Kind.Recurs() {
		return *p.row.At
	}
	// The number of a firing is its millisecond, and has to be higher than that of the creation.
	return p.After(p.row.Created.Truncate(time.Millisecond).Add(time.Millisecond - 1))
}

// After is the first moment after t of a schedule that recurs; zero if there is none.
func (p Plan) After(t time.Time) time.Time {
	if !p.row.Kind.Recurs() {
		return time.Time{}
	}
	if from := p.row.From; from != nil && t.Before(*from) {
		t = from.Add(-1)
	}
	var next time.Time
	if p.row.Kind == protocol.ScheduleInterval {
		next = p.row.NextInterval(t)
	} else {
		next = p.lines.Next(t)
	}
	if p.row.Until != nil && next.After(*p.row.Until) || next.After(latest) {
		return time.Time{}
	}
	return next
}

// Due is when the firing of a moment is due: after the delay that the jitter adds, and never after the next moment.
func (p Plan) Due(moment time.Time) time.Time {
	most := time.Duration(p.row.Jitter)
	if most == 0 {
		return moment
	}
	if next := p.After(moment); !next.IsZero() {
		most = min(most, next.Sub(moment))
	}
	h := fnv.New64a()
	for _, part := range []string{p.row.Class, p.row.Name, p.row.ID} {
		_, _ = h.Write([]byte(part + "\x00")) // a hash takes everything
	}
	_, _ = h.Write(strconv.AppendInt(nil, moment.UnixMilli(), 10))
	return moment.Add(time.Duration(scramble(h.Sum64()) % uint64(most)))
}

// scramble spreads a hash over all bits: FNV's last bytes reach only some.
func scramble(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
