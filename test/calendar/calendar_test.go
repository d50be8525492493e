// Package calendar lives through seven months of schedules on fake time: a real NATS server and real schedulers in one
// testing/synctest bubble, from what is armed to what comes to agents and workflows.
//
// It has one test, and must never have another: what a bubble has made must not be used outside of it, and server and client
// keep some of that for the whole process.
package calendar

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata" // rows name time zones

	"github.com/nats-io/nats-server/v2/server/ats"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	oslo, newYork, lordHowe = "Europe/Oslo", "America/New_York", "Australia/Lord_Howe"
	// before and after are how close to the moments of the oracle there is a scheduler.
	before = 20 * time.Second
	after  = time.Minute
	// late is how much later than it is due a firing may come.
	late = 5 * time.Second
)

// The calendar has every kind of change: clocks go back in Oslo (31 October, the last of the month) and New York (7 November)
// and forward half an hour on Lord Howe (3 October), then forward (26 March, 12 March) and back (2 April); 29 February.
var (
	begin = time.Date(2027, 9, 20, 12, 0, 0, 0, time.UTC)
	end   = time.Date(2028, 5, 2, 0, 0, 0, 0, time.UTC)
)

func day(month time.Month, day, hour, minute int) time.Time {
	year := 2027
	if month < time.September {
		year = 2028
	}
	return time.Date(year, month, day, hour, minute, 0, 0, time.UTC)
}

// entry is a schedule and when it has to fire.
type entry struct {
	row  protocol.Schedule
	want []time.Time
	// last is set if the last of them is the last for ever.
	last bool
}

func (e entry) source() string {
	if e.row.Workflow != "" {
		return e.row.ID
	}
	return protocol.ScheduleSource(e.row.ID)
}

func of(kind protocol.ScheduleKind, id string, change func(*protocol.Schedule)) protocol.Schedule {
	row := protocol.Schedule{ID: id, Class: class, Name: name, Life: 1, Callback: "Look", Kind: kind, Created: begin}
	change(&row)
	row.SetVersion()
	return row
}

func cron(id, zone string, lines ...string) protocol.Schedule {
	return of(protocol.ScheduleCron, id, func(s *protocol.Schedule) {
		s.Zone, s.Cron = zone, lines[0]
		if len(lines) > 1 {
			s.Cron, s.Lines = "", lines
		}
	})
}

func with(row protocol.Schedule, change func(*protocol.Schedule)) protocol.Schedule {
	change(&row)
	row.SetVersion()
	return row
}

func instances(line, zone string, change func(*protocol.Schedule)) protocol.Schedule {
	return with(cron(protocol.CronID(line, zone), zone, line), func(s *protocol.Schedule) {
		s.Class, s.Name, s.Callback, s.Workflow = protocol.ClassCron, workflow, "", workflow
		change(s)
	})
}

func plain(*protocol.Schedule) {}

// entries are the schedules of the calendar.
func entries(t *testing.T) []entry {
	sunday := func(months ...time.Month) func(time.Time) bool {
		return func(wall time.Time) bool {
			return wall.Weekday() == time.Sunday && slices.Contains(months, wall.Month())
		}
	}
	watched := func(zone string, shows func(time.Time) bool) []time.Time {
		return watch{zone: zone, shows: shows}.moments(t, begin.Add(1), end)
	}
	hourly := func(zone string, shows func(time.Time) bool) []time.Time {
		return watch{zone: zone, shows: shows, everyHour: true}.moments(t, begin.Add(1), end)
	}
	secondOrThird := func(w time.Time) bool {
		return (w.Day() == 2 || w.Day() == 3) && (w.Month() == time.April || w.Month() == time.October)
	}
	thirds := watched("UTC", func(w time.Time) bool { return w.Day() == 3 && clockShows(w, 12, 0) })
	return []entry{
		{row: cron("oslo-sundays", oslo, "30 2 * 3,10 SUN"), want: watched(oslo, func(w time.Time) bool { return sunday(time.March, time.October)(w) && clockShows(w, 2, 30) })},
		{row: cron("york-sundays", newYork, "30 1,2 * 3,11 SUN"), want: watched(newYork, func(w time.Time) bool {
			return sunday(time.March, time.November)(w) && (clockShows(w, 1, 30) || clockShows(w, 2, 30))
		})},
		{row: cron("howe-days", lordHowe, "15,45 1-2 2,3 4,10 *"), want: watched(lordHowe, func(w time.Time) bool {
			return secondOrThird(w) && (w.Hour() == 1 || w.Hour() == 2) && (w.Minute() == 15 || w.Minute() == 45)
		})},
		{row: with(cron("oslo-half-hours", oslo, "*/30 * * * *"), func(s *protocol.Schedule) {
			s.From, s.Until = new(day(time.October, 30, 23, 0)), new(day(time.October, 31, 4, 0))
		}), last: true, want: between(hourly(oslo, func(w time.Time) bool { return w.Minute()%30 == 0 }), day(time.October, 30, 23, 0), day(time.October, 31, 4, 0))},
		{row: with(cron("howe-quarters", lordHowe, "*/15 * * 4 *"), func(s *protocol.Schedule) {
			s.From, s.Times = new(day(time.April, 1, 14, 0)), 10
		}), last: true, want: between(hourly(lordHowe, func(w time.Time) bool { return w.Month() == time.April && w.Minute()%15 == 0 }), day(time.April, 1, 14, 0), end)[:10]},
		{row: cron("last-of-month", newYork, "0 9 L * *"), want: watched(newYork, func(w time.Time) bool { return lastOfMonth(w) && clockShows(w, 9, 0) })},
		{row: cron("leap-day", "", "0 0 29 2 *"), want: []time.Time{day(time.February, 29, 0, 0)}},
		{row: cron("leap-day-or-monday", "", "0 12 29 2 MON"), want: watched("UTC", func(w time.Time) bool {
			return w.Month() == time.February && (w.Day() == 29 || w.Weekday() == time.Monday) && clockShows(w, 12, 0)
		})},
		{row: cron("several-lines", oslo, "0 12 29 2 *", "0 12 L * *", "0 12 1 JAN,MAR *"), want: union(
			watched(oslo, func(w time.Time) bool { return lastOfMonth(w) && clockShows(w, 12, 0) }),
			watched(oslo, func(w time.Time) bool {
				return w.Day() == 1 && (w.Month() == time.January || w.Month() == time.March) && clockShows(w, 12, 0)
			}))},
		{row: with(cron("three-times", "", "0 12 3 * *"), func(s *protocol.Schedule) { s.Times = 3 }), want: thirds[:3], last: true},
		{row: of(protocol.ScheduleInterval, "three-weeks", func(s *protocol.Schedule) { s.Interval = protocol.Duration(21 * 24 * time.Hour) }),
			want: every(21*24*time.Hour, begin.Add(21*24*time.Hour), end)},
		{row: of(protocol.ScheduleInterval, "over-the-change", func(s *protocol.Schedule) {
			s.Interval, s.From, s.Until = protocol.Duration(7*time.Hour), new(day(time.March, 25, 20, 0)), new(day(time.March, 27, 12, 0))
		}), want: between(every(7*time.Hour, day(time.March, 25, 20, 0), end), begin, day(time.March, 27, 12, 0)), last: true},
		{row: of(protocol.ScheduleDate, "once", func(s *protocol.Schedule) { s.At = new(day(time.February, 29, 23, 59)) }),
			want: []time.Time{day(time.February, 29, 23, 59)}},
		{row: instances("30 2 L * *", oslo, plain), want: watched(oslo, func(w time.Time) bool { return lastOfMonth(w) && clockShows(w, 2, 30) })},
		{row: instances("10 2 2-3 4,10 *", lordHowe, func(s *protocol.Schedule) { s.Jitter = protocol.Duration(40 * time.Second) }),
			want: watched(lordHowe, func(w time.Time) bool { return secondOrThird(w) && clockShows(w, 2, 10) })},
		{row: instances("0 12 29 2 *", newYork, plain), want: []time.Time{day(time.February, 29, 17, 0)}},
	}
}

// TestMonthsOfCalendar compares every moment that came to the agent and every instance that was started with the oracle. A
// scheduler is there around the moments of the oracle. What is armed for another moment, or not at all, shows all the same: it
// comes, late, with the moment that it was planned for, or is missing.
func TestMonthsOfCalendar(t *testing.T) {
	ats.Register() // the server's clock of what was read when; it must not be the bubble's
	defer ats.Unregister()
	w := &world{dir: t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(begin)) // a bubble begins in the year 2000
		all := entries(t)
		checkKnown(t, all)
		var rows []protocol.Schedule
		var moments [][]time.Time
		for _, e := range all {
			rows, moments = append(rows, e.row), append(moments, e.want)
		}
		w.open(t)
		w.register(t, rows)
		w.schedule(t)
		time.Sleep(after)
		for _, moment := range union(moments...) {
			if wait := time.Until(moment); wait > 2*after {
				w.unschedule(t)
				w.close(t)
				time.Sleep(wait - before)
				w.open(t)
				w.schedule(t)
			}
			time.Sleep(time.Until(moment.Add(after)))
		}
		w.unschedule(t)
		check(t, all, w.deliveries(t))
		w.close(t)
	})
}

func check(t *testing.T, all []entry, got map[string][]delivery) {
	t.Helper()
	for _, e := range all {
		var planned []time.Time
		for i, d := range got[e.source()] {
			planned = append(planned, d.planned)
			if lateness := d.actual.Sub(d.planned); lateness < 0 || lateness > time.Duration(e.row.Jitter)+late {
				t.Errorf("%s: what was planned for %s came at %s", e.row.ID, d.planned, d.actual)
			}
			if wantLast := e.last && i == len(e.want)-1; d.last != wantLast {
				t.Errorf("%s: %s is told to be the last: %t", e.row.ID, d.planned, d.last)
			}
		}
		if !slices.EqualFunc(planned, e.want, time.Time.Equal) {
			t.Errorf("%s: %q in %q fired at\n%v, want\n%v", e.row.ID, append(e.row.Lines, e.row.Cron), e.row.Zone, planned, e.want)
		}
		delete(got, e.source())
	}
	for source := range got {
		t.Errorf("%s has fired, and is no schedule", source)
	}
}

// checkKnown holds the oracle against what everybody can look up.
func checkKnown(t *testing.T, all []entry) {
	t.Helper()
	known := map[string][]time.Time{
		"oslo-sundays": {
			day(time.October, 31, 0, 30), // shown twice, the first time
			day(time.March, 26, 1, 0),    // skipped: at 03:00
		},
		"york-sundays":    {day(time.November, 7, 5, 30), day(time.November, 7, 7, 30), day(time.March, 12, 6, 30), day(time.March, 12, 7, 0)},
		"howe-days":       {day(time.October, 2, 15, 30), day(time.October, 2, 15, 45), day(time.April, 1, 14, 45)},
		"oslo-half-hours": {day(time.October, 31, 0, 0), day(time.October, 31, 0, 30), day(time.October, 31, 1, 0), day(time.October, 31, 1, 30)},
		"last-of-month":   {day(time.October, 31, 13, 0), day(time.November, 30, 14, 0), day(time.February, 29, 14, 0)},
	}
	for _, e := range all {
		for _, moment := range known[e.row.ID] {
			if !slices.ContainsFunc(e.want, moment.Equal) {
				t.Errorf("the oracle does not know that %s fires at %s: %s", e.row.ID, moment, fmt.Sprint(e.want))
			}
		}
	}
}
