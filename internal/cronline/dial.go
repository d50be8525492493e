package cronline

import (
	"math/bits"
	"time"

	"github.com/robfig/cron/v3"
)

// dial is the fields of a line, as sets of bits, on the clock of a zone.
//
// A wall time is what such a clock shows, written as if it were UTC. Where the clock is changed, two rules hold, which are
// those of Vixie's cron: a line that names its hours fires once for each of its wall times, at the first moment after the
// change if the clock skips it, and only the first time if the clock shows it twice. A line of every hour fires whenever
// the clock shows one of its wall times.
type dial struct {
	second, minute, hour, day, month, weekday uint64
	// last adds the last day of each month. either says that a day has to be right for the month or for the week: one of
	// them is enough if the line names both.
	last, either bool
	everyHour    bool
	location     *time.Location
}

const (
	starBit  = 1 << 63 // of robfig/cron: the field is a star
	allHours = 1<<24 - 1
	// farthest is how many years two moments of a line can lie apart: 29 February, around a year such as 2100.
	farthest = 8
)

func dialOf(s *cron.SpecSchedule, last bool, location *time.Location) dial {
	return dial{
		second: s.Second &^ starBit, minute: s.Minute &^ starBit, hour: s.Hour &^ starBit, day: s.Dom &^ starBit,
		month: s.Month &^ starBit, weekday: s.Dow &^ starBit, last: last,
		either:    s.Dom&starBit == 0 && s.Dow&starBit == 0,
		everyHour: s.Hour&allHours == allHours, location: location,
	}
}

// next is the first moment after t; zero if there is none.
func (d *dial) next(t time.Time) time.Time {
	t = t.Truncate(time.Second).Add(time.Second).In(d.location)
	for last := wallOf(t).AddDate(farthest+1, 0, 0); ; {
		start, end := offsetBounds(t)
		wall, ok := d.wall(d.shown(t, start))
		if !ok || wall.After(last) {
			return time.Time{}
		}
		_, offset := t.Zone()
		moment := wall.Add(-time.Duration(offset) * time.Second)
		if moment.Before(start) { // skipped
			moment = start.UTC()
		}
		if end.IsZero() || moment.Before(end) {
			return moment
		}
		t = end // the clock is changed before: look on from there
	}
}

// shown is the first wall time that counts from t on. start is when the clock was changed last: what it has skipped then
// counts, what it had shown before does not, unless the line is of every hour.
func (d *dial) shown(t, start time.Time) time.Time {
	wall := wallOf(t)
	if d.everyHour || start.IsZero() {
		return wall
	}
	_, offset := start.Add(-1).Zone()
	before := start.UTC().Add(time.Duration(offset) * time.Second)
	if t.Equal(start) || wall.Before(before) {
		return before
	}
	return wall
}

// offsetBounds is since when and until when the clock is as at t, or at least a part of that around t. On the last day of
// leap years after 2037, ZoneBounds returns an end that has passed (it takes them for years of 365 days).
func offsetBounds(t time.Time) (start, end time.Time) {
	start, end = t.ZoneBounds()
	if !end.IsZero() && !end.After(t) {
		end = time.Date(t.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC).In(t.Location())
	}
	return start, end
}

// wallOf is what the clock shows at t.
func wallOf(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// wall is the first wall time of the dial that is not before t, of whole seconds.
func (d *dial) wall(t time.Time) (time.Time, bool) {
	limit := t.Year() + farthest + 1
	for t.Year() <= limit {
		year, month, day := t.Date()
		if !has(d.month, int(month)) {
			t = time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)
			continue
		}
		if d.onDay(t) {
			if found, ok := d.onClock(t); ok {
				return found, true
			}
		}
		t = time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}, false
}

func (d *dial) onDay(t time.Time) bool {
	ofMonth := has(d.day, t.Day()) || d.last && t.AddDate(0, 0, 1).Day() == 1
	ofWeek := has(d.weekday, int(t.Weekday()))
	if d.either {
		return ofMonth || ofWeek
	}
	return ofMonth && ofWeek
}

// onClock is the first wall time of the dial from t on, on its day.
func (d *dial) onClock(t time.Time) (time.Time, bool) {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	at := func(hour, minute, second int) (time.Time, bool) {
		return time.Date(year, month, day, hour, minute, second, 0, time.UTC), true
	}
	firstMinute, firstSecond := bits.TrailingZeros64(d.minute), bits.TrailingZeros64(d.second)
	if has(d.hour, hour) {
		if s := from(d.second, second); has(d.minute, minute) && s < 64 {
			return at(hour, minute, s)
		}
		if m := from(d.minute, minute+1); m < 64 {
			return at(hour, m, firstSecond)
		}
	}
	if h := from(d.hour, hour+1); h < 64 {
		return at(h, firstMinute, firstSecond)
	}
	return time.Time{}, false
}

func has(set uint64, n int) bool { return set&(1<<n) != 0 }

// from is the least member of a set from n on; 64 if there is none.
func from(set uint64, n int) int { return bits.TrailingZeros64(set >> n << n) }
