package cronline_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests name zones on any machine

	"github.com/skein-run/skein/internal/cronline"
)

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	m, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func plan(t *testing.T, zone string, lines ...string) cronline.Plan {
	t.Helper()
	p, err := cronline.Parse(zone, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, line, zone, after, want string }{
		{"five fields", "30 9 * * 1", "", "2026-11-20T12:00:00Z", "2026-11-23T09:30:00Z"},
		{"six fields have seconds first", "*/5 * * * * *", "", "2026-11-20T12:00:03Z", "2026-11-20T12:00:05Z"},
		{"zone", "0 9 * * *", "Europe/Oslo", "2026-11-20T12:00:00Z", "2026-11-21T08:00:00Z"},
		{"zone in summer", "0 9 * * *", "Europe/Oslo", "2026-07-20T12:00:00Z", "2026-07-21T07:00:00Z"},
		{"the zone of the moment does not matter", "0 9 * * *", "", "2026-11-20T23:30:00+05:00", "2026-11-21T09:00:00Z"},
		{"leap day", "0 0 29 2 *", "", "2026-11-20T12:00:00Z", "2028-02-29T00:00:00Z"},
		{"leap day around a year that has none", "0 0 29 2 *", "", "2096-11-20T12:00:00Z", "2104-02-29T00:00:00Z"},
		{"31st", "0 0 31 * *", "", "2026-11-01T00:00:00Z", "2026-12-31T00:00:00Z"},
		{"last day of the month", "0 0 L * *", "", "2026-11-20T12:00:00Z", "2026-11-30T00:00:00Z"},
		{"last day of February", "0 0 L 2 *", "", "2026-11-20T12:00:00Z", "2027-02-28T00:00:00Z"},
		{"last day of a leap February", "0 0 l 2 *", "", "2027-11-20T12:00:00Z", "2028-02-29T00:00:00Z"},
		{"last day and others", "0 0 0 15,L * *", "", "2026-11-20T12:00:00Z", "2026-11-30T00:00:00Z"},
		{"last day or a day of the week", "0 0 L * SUN", "", "2026-11-23T12:00:00Z", "2026-11-29T00:00:00Z"},
		{"new year", "59 59 23 31 12 *", "America/New_York", "2026-12-01T00:00:00Z", "2027-01-01T04:59:59Z"},
		{"last day of a leap year of the far future", "0 9 * * *", "Europe/Oslo", "2040-12-31T01:00:00Z", "2040-12-31T08:00:00Z"},
		{"after new year", "* * * * * *", "", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"},
		{"days of month and week are alternatives", "0 0 13 * FRI", "", "2026-11-20T12:00:00Z", "2026-11-27T00:00:00Z"},
		{"descriptor", "@daily", "America/New_York", "2026-11-20T12:00:00Z", "2026-11-21T05:00:00Z"},
		{"every", "@every 90s", "", "2026-11-20T12:00:00Z", "2026-11-20T12:01:30Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := plan(t, test.zone, test.line).Next(moment(t, test.after)).Format(time.RFC3339); got != test.want {
				t.Errorf("Next(%s) = %s, want %s", test.after, got, test.want)
			}
		})
	}
}

// TestClockChange tells all moments of a line from an hour of a day on.
func TestClockChange(t *testing.T) {
	t.Parallel()
	const oslo, newYork, sydney, lordHowe = "Europe/Oslo", "America/New_York", "Australia/Sydney", "Australia/Lord_Howe"
	for _, test := range []struct{ name, line, zone, after, want string }{
		{"skipped", "30 2 * * *", oslo, "2027-03-26T12:00:00Z",
			"2027-03-27T02:30:00+01:00 2027-03-28T03:00:00+02:00 2027-03-29T02:30:00+02:00"},
		{"skipped, and a moment when that fires", "30 2 * * *\n0 3 * * *", oslo, "2027-03-27T12:00:00Z",
			"2027-03-28T03:00:00+02:00 2027-03-29T02:30:00+02:00 2027-03-29T03:00:00+02:00"},
		{"several skipped fire once", "*/10 2 * * *", oslo, "2027-03-28T00:59:59Z",
			"2027-03-28T03:00:00+02:00 2027-03-29T02:00:00+02:00"},
		{"skipped of every hour", "30 * * * *", oslo, "2027-03-27T23:45:00Z",
			"2027-03-28T01:30:00+01:00 2027-03-28T03:30:00+02:00"},
		{"skipped on one day of the year", "30 2 28 3 *", oslo, "2027-01-01T00:00:00Z",
			"2027-03-28T03:00:00+02:00 2028-03-28T02:30:00+02:00"},
		{"shown twice", "30 2 * * *", oslo, "2026-10-24T12:00:00Z",
			"2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"},
		{"shown twice, asked in between", "30 2 * * *", oslo, "2026-10-25T00:45:00Z", "2026-10-26T02:30:00+01:00"},
		{"shown twice, asked the second time", "*/20 2 * * *", oslo, "2026-10-25T01:05:00Z", "2026-10-26T02:00:00+01:00"},
		{"shown twice, of every hour", "30 * * * *", oslo, "2026-10-24T23:45:00Z",
			"2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-25T03:30:00+01:00"},
		{"shown twice, all hours named", "30 0-23 * * *", oslo, "2026-10-24T23:45:00Z",
			"2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-25T03:30:00+01:00"},
		{"shown twice, every second hour", "0 */2 * * *", oslo, "2026-10-24T22:30:00Z",
			"2026-10-25T02:00:00+02:00 2026-10-25T04:00:00+01:00"},
		{"west, skipped", "15 2 * * *", newYork, "2027-03-13T12:00:00Z",
			"2027-03-14T03:00:00-04:00 2027-03-15T02:15:00-04:00"},
		{"west, shown twice", "15 1 * * *", newYork, "2026-10-31T12:00:00Z",
			"2026-11-01T01:15:00-04:00 2026-11-02T01:15:00-05:00"},
		{"south, skipped", "30 2 * * *", sydney, "2026-10-03T00:00:00Z",
			"2026-10-04T03:00:00+11:00 2026-10-05T02:30:00+11:00"},
		{"south, shown twice", "30 2 * * *", sydney, "2027-04-03T00:00:00Z",
			"2027-04-04T02:30:00+11:00 2027-04-05T02:30:00+10:00"},
		{"half an hour, skipped", "15 2 * * *", lordHowe, "2026-10-03T00:00:00Z",
			"2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00"},
		{"half an hour, not skipped", "45 2 * * *", lordHowe, "2026-10-03T00:00:00Z",
			"2026-10-04T02:45:00+11:00 2026-10-05T02:45:00+11:00"},
		{"half an hour, shown twice", "45 1 * * *", lordHowe, "2027-04-03T00:00:00Z",
			"2027-04-04T01:45:00+11:00 2027-04-05T01:45:00+10:30"},
		{"half an hour, of every hour", "45 * * * *", lordHowe, "2027-04-03T14:30:00Z",
			"2027-04-04T01:45:00+11:00 2027-04-04T01:45:00+10:30 2027-04-04T02:45:00+10:30"},
		{"midnight skipped", "0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z",
			"2018-11-04T01:00:00-02:00 2018-11-05T00:00:00-02:00"},
		{"day skipped", "0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z",
			"2011-12-29T09:00:00-10:00 2011-12-31T00:00:00+14:00 2011-12-31T09:00:00+14:00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := plan(t, test.zone, strings.Split(test.line, "\n")...)
			after := moment(t, test.after)
			for want := range strings.FieldsSeq(test.want) {
				got := p.Next(after)
				if !got.Equal(moment(t, want)) {
					t.Fatalf("after %s comes %s, want %s", after, got, want)
				}
				after = got
			}
		})
	}
}

func TestSeveralLinesAreOnePlan(t *testing.T) {
	t.Parallel()
	from := moment(t, "2026-11-20T12:00:07Z")
	p := plan(t, "", "*/10 * * * *", "0 * * * *", "@every 25m", "0 0 1 1 *").From(from.Add(300 * time.Millisecond))
	var got []string
	for after := from; len(got) < 8; {
		after = p.Next(after)
		got = append(got, after.Format(time.TimeOnly))
	}
	want := []string{"12:10:00", "12:20:00", "12:25:07", "12:30:00", "12:40:00", "12:50:00", "12:50:07", "13:00:00"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if next := p.Next(from.Add(-time.Hour)); !next.Equal(moment(t, "2026-11-20T11:10:00Z")) {
		t.Errorf("before its beginning: %s", next)
	}
}

func TestEveryKeepsToItsPlan(t *testing.T) {
	t.Parallel()
	from := moment(t, "2026-11-20T12:00:07Z")
	p := plan(t, "", "@every 10m").From(from)
	for late, want := range map[time.Duration]time.Duration{
		-time.Hour: 10 * time.Minute, 0: 10 * time.Minute, 599 * time.Second: 10 * time.Minute, 10 * time.Minute: 20 * time.Minute,
		25 * time.Minute: 30 * time.Minute,
	} {
		if got := p.Next(from.Add(late)); !got.Equal(from.Add(want)) {
			t.Errorf("%s after its beginning comes %s, want %s", late, got.Sub(from), want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, line, zone, field string
		column                  int
		reason                  string
	}{
		{"empty", "", "", "", 0, "has 0 fields"},
		{"four fields", "* * * *", "", "", 0, "has 4 fields"},
		{"seven fields", "* * * * * * *", "", "", 0, "has 7 fields"},
		{"value out of range", "61 * * * *", "", "minute", 1, `"61" is refused: end of range (61) above maximum (59); allowed are 0-59`},
		{"with seconds", "0 61 * * * *", "", "minute", 3, "above maximum"},
		{"no number", "a b c d e", "", "minute", 1, "failed to parse"},
		{"second item of a list", "0  1,24 * * *", "", "hour", 6, `"24"`},
		{"empty item", "0 1,,2 * * *", "", "hour", 5, "is empty"},
		{"sign", "0 +1 * * *", "", "hour", 3, "neither a number nor a name"},
		{"star of no range", "0 *-5 * * *", "", "hour", 3, "goes on after the *"},
		{"backward range", "0 0 20-10 * *", "", "day of month", 5, "beyond end of range"},
		{"step of zero", "*/0 * * * *", "", "minute", 1, "positive number"},
		{"unknown month", "0 0 1 FOO *", "", "month", 7, "failed to parse"},
		{"seventh day of the week", "0 0 * * 7", "", "day of week", 9, "0 is Sunday"},
		{"last day of the week", "0 0 * * L", "", "day of week", 9, `"L"`},
		{"impossible date", "0 0 30 2 *", "", "day of month", 5, "never comes"},
		{"impossible date with seconds", "0 0 0 31 4,6 *", "", "day of month", 7, "never comes"},
		{"unknown descriptor", "@sometimes", "", "", 1, "unknown descriptor"},
		{"no interval", "@every day", "", "interval", 8, `"day" is no interval`},
		{"interval too short", "@every 500ms", "", "interval", 8, "1s to 365 days"},
		{"negative interval", "@every -1h", "", "interval", 8, "1s to 365 days"},
		{"interval too long", "@every 8761h", "", "interval", 8, "1s to 365 days"},
		{"interval of parts of seconds", "@every 1500ms", "", "interval", 8, "whole seconds"},
		{"zone in the line", "TZ=UTC * * * * *", "", "", 1, "beside the line"},
		{"zone in the line after a space", " CRON_TZ=UTC * * * *", "", "", 1, "beside the line"},
		{"zone in the line without more", "TZ=UTC", "", "", 1, "beside the line"},
		{"unknown zone", "* * * * *", "Mars/Olympus", "", 0, "unknown time zone"},
		{"the machine's zone", "* * * * *", "Local", "", 0, "depend on the machine"},
		{"too long", strings.Repeat("*", 300), "", "", 0, "at most 256"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := cronline.Parse(test.zone, test.line)
			refused, ok := errors.AsType[*cronline.LineError](err)
			if !ok || refused.Line != test.line || refused.Field != test.field || refused.Column != test.column ||
				!strings.Contains(err.Error(), test.reason) {
				t.Fatalf("Parse(%q, %q) = %v (%+v), want a LineError for the line that says %q", test.line, test.zone, err, refused, test.reason)
			}
			if refused.Column > 0 && refused.Example == "" {
				t.Errorf("%v has no example", err)
			}
		})
	}
}

func TestParseRefusesTheLineAtFault(t *testing.T) {
	t.Parallel()
	_, err := cronline.Parse("Europe/Oslo", "0 9 * * *", "0 25 * * *")
	const want = `cron line "0 25 * * *" in time zone "Europe/Oslo": hour, column 3: "25" is refused: end of range (25) above maximum (23); ` +
		`allowed are 0-23, *, lists, ranges and steps; correct is for example "9-17"`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	for n, lines := range map[int][]string{0: nil, 33: slices.Repeat([]string{"@daily"}, 33)} {
		if _, err := cronline.Parse("", lines...); err == nil {
			t.Errorf("%d lines are accepted", n)
		}
	}
}

// Rows that were stored when less was refused must fire on.
func TestStoredReadsMoreThanParse(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"0 1,,2 * * *", "0 *-5 * * *", "@every 1500ms", "@every 0s", "@every 9000h"} {
		if _, err := cronline.Parse("", line); err == nil {
			t.Errorf("Parse accepts %q", line)
		}
		if _, err := cronline.Stored("", line); err != nil {
			t.Errorf("Stored: %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("*/5 * * * * *", "Europe/Oslo")
	f.Add("30 2 L 2,3 *", "Australia/Lord_Howe")
	f.Add("@every 1s", "")
	f.Add("TZ= ", "")
	f.Fuzz(func(t *testing.T, line, zone string) {
		parsed, err := cronline.Parse(zone, line)
		if refused, ok := errors.AsType[*cronline.LineError](err); ok && refused.Column > len(line)+1 {
			t.Errorf("line %q: the fault is in column %d", line, refused.Column)
		}
		if err != nil {
			return
		}
		now := time.Date(2026, 11, 20, 12, 0, 0, 500, time.UTC)
		next := parsed.Next(now)
		if !next.After(now) && !next.IsZero() {
			t.Errorf("line %q, zone %q: Next(%s) = %s, not after it", line, zone, now, next)
		}
		if before := parsed.Next(next.Add(-1)); !next.IsZero() && !before.Equal(next) {
			t.Errorf("line %q, zone %q: just before %s, the next is %s", line, zone, next, before)
		}
	})
}
