package moments_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestBackfillMoments(t *testing.T) {
	t.Parallel()
	now := *minute(90)
	for _, test := range []struct {
		name        string
		row         *protocol.Schedule
		from, until int // minutes
		want        []int
	}{
		{"both ends", cron(nil), 0, 20, []int{0, 10, 20}},
		{"before it was made", cron(nil), -25, -5, []int{-20, -10}},
		{"none", cron(nil), 1, 9, nil},
		{"bounds do not count", cron(func(s *protocol.Schedule) { s.From, s.Until, s.Times = minute(15), minute(25), 1 }), 5, 35, []int{10, 20, 30}},
		{"an interval counts from where it does", interval(func(s *protocol.Schedule) { s.From = minute(5) }), -20, 30, []int{5, 15, 25}},
		{"several lines", cron(func(s *protocol.Schedule) { s.Cron, s.Lines = "", []string{"*/10 * * * *", "*/15 * * * *"} }), 0, 30, []int{0, 10, 15, 20, 30}},
	} {
		got, err := moments.Backfill{From: *minute(test.from), Until: *minute(test.until)}.Moments(test.row, now)
		if err != nil || len(got) != len(test.want) {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
			continue
		}
		for i, m := range test.want {
			if !got[i].Equal(*minute(m)) {
				t.Errorf("%s: moment %d is %s, want %s", test.name, i, got[i], minute(m))
			}
		}
	}
	second := cron(func(s *protocol.Schedule) { s.Cron = "* * * * * *" })
	for _, test := range []struct {
		name, field, want string
		row               *protocol.Schedule
		order             moments.Backfill
	}{
		{"once", "kind", "trigger", cron(func(s *protocol.Schedule) { s.Kind, s.At = protocol.ScheduleDate, minute(1) }), moments.Backfill{From: *minute(0), Until: *minute(9)}},
		{"no from", "from", "not set", cron(nil), moments.Backfill{Until: *minute(9)}},
		{"no until", "until", "not set", cron(nil), moments.Backfill{From: *minute(9)}},
		{"from before moments are numbered", "from", "allowed is from 1970-01-01T00:00:00Z on", cron(nil),
			moments.Backfill{From: time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC), Until: *minute(8)}},
		{"until before from", "until", "is before from", cron(nil), moments.Backfill{From: *minute(9), Until: *minute(8)}},
		{"in the future", "until", "up to now", cron(nil), moments.Backfill{From: *minute(9), Until: now.Add(time.Second)}},
		{"too many", "from", "10001 moments until 2026-11-22T14:01:00Z: allowed are 10000", second,
			moments.Backfill{From: minute(1).Add(-10_000 * time.Second), Until: *minute(1)}},
		{"far too many", "from", "100000 or more moments", second, moments.Backfill{From: minute(1).AddDate(-1, 0, 0), Until: *minute(1)}},
		{"id", "id", "of 1025 bytes", cron(nil), moments.Backfill{From: *minute(0), Until: *minute(9), ID: strings.Repeat("x", 1025)}},
	} {
		_, err := test.order.Moments(test.row, now)
		refused, ok := errors.AsType[*moments.FieldError](err)
		if !ok || refused.Field != test.field || !strings.Contains(refused.Error(), test.want) {
			t.Errorf("%s: got %v, want an error about %s that says %s", test.name, err, test.field, test.want)
		}
	}
}
