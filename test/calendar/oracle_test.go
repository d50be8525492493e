package calendar

import (
	"slices"
	"testing"
	"time"
)

// watch says when a line fires, as somebody would who looks at a clock every minute: shows says, in plain Go and without
// what reads cron lines, whether the clock shows one of the line's times.
type watch struct {
	zone string
	// everyHour is set if the line names no hours: then it fires whenever the clock shows its time, else once for each.
	everyHour bool
	shows     func(wall time.Time) bool
}

// moments looks from start until end.
func (w watch) moments(t *testing.T, start, end time.Time) (fires []time.Time) {
	t.Helper()
	zone, err := time.LoadLocation(w.zone)
	if err != nil {
		t.Fatal(err)
	}
	var latest time.Time // that the clock has shown
	for now := start.Truncate(time.Minute).Add(-24 * time.Hour); now.Before(end); now = now.Add(time.Minute) {
		clock := now.In(zone)
		wall := time.Date(clock.Year(), clock.Month(), clock.Day(), clock.Hour(), clock.Minute(), 0, 0, time.UTC)
		fire := w.shows(wall)
		if !w.everyHour && !latest.IsZero() {
			fire = fire && wall.After(latest) // not what it has shown before
			for skipped := latest.Add(time.Minute); skipped.Before(wall); skipped = skipped.Add(time.Minute) {
				fire = fire || w.shows(skipped)
			}
		}
		if wall.After(latest) {
			latest = wall
		}
		if fire && !now.Before(start) {
			fires = append(fires, now)
		}
	}
	return fires
}

// union is every moment of several lists, once.
func union(lists ...[]time.Time) []time.Time {
	all := slices.SortedFunc(slices.Values(slices.Concat(lists...)), time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal)
}

// every counts an interval from a moment on, for as long as the calendar lasts.
func every(interval time.Duration, from, end time.Time) (fires []time.Time) {
	for moment := from; moment.Before(end); moment = moment.Add(interval) {
		fires = append(fires, moment)
	}
	return fires
}

func between(moments []time.Time, from, until time.Time) (left []time.Time) {
	for _, m := range moments {
		if !m.Before(from) && !m.After(until) {
			left = append(left, m)
		}
	}
	return left
}

func lastOfMonth(wall time.Time) bool { return wall.AddDate(0, 0, 1).Day() == 1 }

func clockShows(wall time.Time, hour, minute int) bool {
	return wall.Hour() == hour && wall.Minute() == minute
}
