package cronline_test

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests name zones on any machine

	"github.com/skein-run/skein/internal/cronline"
)

func TestNext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, line, zone, after, want string }{
		{"five fields", "30 9 * * 1", "", "2026-11-20T12:00:00Z", "2026-11-23T09:30:00Z"},
		{"six fields have seconds first", "*/5 * * * * *", "", "2026-11-20T12:00:03Z", "2026-11-20T12:00:05Z"},
		{"zone", "0 9 * * *", "Europe/Oslo", "2026-11-20T12:00:00Z", "2026-11-21T08:00:00Z"},
		{"zone in summer", "0 9 * * *", "Europe/Oslo", "2026-07-20T12:00:00Z", "2026-07-21T07:00:00Z"},
		{"the zone of the moment does not matter", "0 9 * * *", "", "2026-11-20T23:30:00+05:00", "2026-11-21T09:00:00Z"},
		{"leap day", "0 0 29 2 *", "", "2026-11-20T12:00:00Z", "2028-02-29T00:00:00Z"},
		{"descriptor", "@daily", "America/New_York", "2026-11-20T12:00:00Z", "2026-11-21T05:00:00Z"},
		{"every", "@every 90s", "", "2026-11-20T12:00:00Z", "2026-11-20T12:01:30Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			line, err := cronline.Parse(test.line, test.zone)
			if err != nil {
				t.Fatal(err)
			}
			after, err := time.Parse(time.RFC3339, test.after)
			if err != nil {
				t.Fatal(err)
			}
			if got := line.Next(after).Format(time.RFC3339); got != test.want {
				t.Errorf("Next(%s) = %s, want %s", test.after, got, test.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, line, zone, reason string }{
		{"empty", "", "", "has 0 fields"},
		{"four fields", "* * * *", "", "has 4 fields"},
		{"seven fields", "* * * * * * *", "", "has 7 fields"},
		{"value out of range", "61 * * * *", "", "above maximum"},
		{"no number", "a b c d e", "", "failed to parse"},
		{"impossible date", "0 0 31 2 *", "", "never comes"},
		{"unknown descriptor", "@sometimes", "", "unrecognized descriptor"},
		{"zone in the line", "TZ=UTC * * * * *", "", "beside the line"},
		{"zone in the line without more", "TZ=UTC", "", "beside the line"},
		{"unknown zone", "* * * * *", "Mars/Olympus", "unknown time zone"},
		{"the machine's zone", "* * * * *", "Local", "depend on the machine"},
		{"too long", strings.Repeat("*", 300), "", "at most 256"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := cronline.Parse(test.line, test.zone)
			refused, ok := errors.AsType[*cronline.LineError](err)
			if !ok || refused.Line != test.line || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("Parse(%q, %q) = %v, want a LineError for the line that says %q", test.line, test.zone, err, test.reason)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("*/5 * * * * *", "Europe/Oslo")
	f.Add("@every 1s", "")
	f.Add("TZ= ", "")
	f.Fuzz(func(t *testing.T, line, zone string) {
		parsed, err := cronline.Parse(line, zone)
		if err != nil {
			return
		}
		now := time.Date(2026, 11, 20, 12, 0, 0, 500, time.UTC)
		if next := parsed.Next(now); !next.After(now) && !next.IsZero() {
			t.Errorf("line %q, zone %q: Next(%s) = %s, not after it", line, zone, now, next)
		}
	})
}
