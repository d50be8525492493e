package moments_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

var created = time.Date(2026, 11, 22, 14, 0, 0, 500_300_000, time.UTC)

func minute(n int) *time.Time {
	return new(created.Truncate(time.Minute).Add(time.Duration(n) * time.Minute))
}

func cron(change func(*protocol.Schedule)) *protocol.Schedule {
	row := &protocol.Schedule{ID: "s", Class: "Desk", Name: "jo", Kind: protocol.ScheduleCron, Cron: "*/10 * * * *", Created: created}
	if change != nil {
		change(row)
	}
	return row
}

func interval(change func(*protocol.Schedule)) *protocol.Schedule {
	return cron(func(s *protocol.Schedule) {
		s.Kind, s.Cron, s.Interval = protocol.ScheduleInterval, "", protocol.Duration(10*time.Minute)
		change(s)
	})
}

// TestMoments tells all moments of the first hour, in seconds since the full minute before the creation.
func TestMoments(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		row  *protocol.Schedule
		want []float64
	}{
		{"cron", cron(nil), []float64{600, 1200, 1800, 2400, 3000, 3600}},
		{"several lines", cron(func(s *protocol.Schedule) { s.Cron, s.Lines = "", []string{"*/30 * * * *", "*/20 * * * *"} }),
			[]float64{1200, 1800, 2400, 3600}},
		{"from, which may be a moment", cron(func(s *protocol.Schedule) { s.From = minute(40) }), []float64{2400, 3000, 3600}},
		{"from, which has passed", cron(func(s *protocol.Schedule) { s.From = minute(-40) }), []float64{600, 1200, 1800, 2400, 3000, 3600}},
		{"until, which may be a moment", cron(func(s *protocol.Schedule) { s.Until = minute(20) }), []float64{600, 1200}},
		{"until, between", cron(func(s *protocol.Schedule) { s.Until = minute(29) }), []float64{600, 1200}},
		{"interval", interval(func(s *protocol.Schedule) { s.Until = minute(25) }), []float64{600.5003, 1200.5003}},
		{"interval from a moment to come", interval(func(s *protocol.Schedule) { s.From, s.Until = minute(5), minute(25) }), []float64{300, 900, 1500}},
		{"interval from a moment that has passed", interval(func(s *protocol.Schedule) { s.From, s.Until = minute(-13), minute(25) }), []float64{420, 1020}},
		{"interval from now, which has the number of the creation", interval(func(s *protocol.Schedule) {
			s.From, s.Until = new(created.Add(300*time.Microsecond)), minute(25)
		}), []float64{600.5006, 1200.5006}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			plan, err := moments.Of(test.row)
			if err != nil {
				t.Fatal(err)
			}
			next := plan.First()
			for _, want := range test.want {
				if got := next.Sub(*minute(0)).Seconds(); got != want {
					t.Fatalf("got %v, want %v of %v", got, want, test.want)
				}
				next = plan.After(next)
			}
			if !next.IsZero() && !next.After(*minute(60)) {
				t.Errorf("then comes %s", next)
			}
		})
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	of := func(name string, jitter time.Duration, until *time.Time) moments.Plan {
		plan, err := moments.Of(cron(func(s *protocol.Schedule) { s.Name, s.Jitter, s.Until = name, protocol.Duration(jitter), until }))
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	jo, again, ada := of("jo", time.Hour, nil), of("jo", time.Hour, nil), of("ada", time.Hour, nil)
	var below, same int
	const n = 1000
	moment := jo.First()
	for range n {
		due := jo.Due(moment)
		if !due.Equal(again.Due(moment)) || due.Before(moment) || !due.Before(jo.After(moment)) {
			t.Fatalf("moment %s is due at %s, and at %s", moment, due, again.Due(moment))
		}
		if due.Sub(moment) < 5*time.Minute {
			below++
		}
		if due.Equal(ada.Due(moment)) {
			same++
		}
		moment = jo.After(moment)
	}
	if below < n*4/10 || below > n*6/10 || same > 0 {
		t.Errorf("of %d delays of up to 10 minutes, %d are below 5, and %d are those of another agent", n, below, same)
	}
	if due := of("jo", 0, nil).Due(moment); !due.Equal(moment) {
		t.Errorf("without jitter, %s is due at %s", moment, due)
	}
	if last := of("jo", time.Nanosecond, minute(10)); !last.Due(*minute(10)).Equal(*minute(10)) {
		t.Error("a jitter of less than a nanosecond delays")
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		row         *protocol.Schedule
		field, want string
	}{
		{cron(func(s *protocol.Schedule) { s.Kind = "moon" }), "kind", "allowed are"},
		{cron(func(s *protocol.Schedule) { s.Cron = "x" }), "cron", "has 1 fields"},
		{cron(func(s *protocol.Schedule) { s.Lines = []string{"@daily", "x"} }), "cron", "has 1 fields"},
		{cron(func(s *protocol.Schedule) { s.Times = -1 }), "times", "1 to 1000000"},
		{cron(func(s *protocol.Schedule) { s.Times = protocol.MaxTimes + 1 }), "times", "1 to 1000000"},
		{cron(func(s *protocol.Schedule) { s.Jitter = -1 }), "jitter", "365 days"},
		{cron(func(s *protocol.Schedule) { s.CatchUp = new(1001) }), "catch_up", "0 to 1000"},
		{cron(func(s *protocol.Schedule) { s.CatchUp = new(-1) }), "catch_up", "0 to 1000"},
		{cron(func(s *protocol.Schedule) { s.From, s.Until = minute(20), minute(10) }), "until", "is before from"},
		{cron(func(s *protocol.Schedule) { s.From, s.Until = minute(21), minute(29) }), "until", "leaves no moment"},
		{cron(func(s *protocol.Schedule) { s.Until = minute(-10) }), "until", "leaves no moment"},
		{cron(func(s *protocol.Schedule) { s.From = new(created.AddDate(200, 0, 0)) }), "from", "2200"},
		{cron(func(s *protocol.Schedule) {
			s.Cron, s.From = "0 0 2 1 *", new(time.Date(2199, 6, 1, 0, 0, 0, 0, time.UTC))
		}), "from", "leaves no moment"},
		{interval(func(s *protocol.Schedule) { s.From = new(time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC)) }), "from", "1970"},
		{cron(func(s *protocol.Schedule) {
			s.Kind, s.At = protocol.ScheduleDate, new(time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC))
		}), "at", "from 1 on"},
		{cron(func(s *protocol.Schedule) { s.Jitter = protocol.Duration(protocol.MaxInterval + 1) }), "jitter", "365 days"},
		{interval(func(s *protocol.Schedule) { s.Interval = protocol.Duration(protocol.MaxInterval + 1) }), "interval", "1s to 365 days"},
		{interval(func(s *protocol.Schedule) { s.Interval = 1 }), "interval", "1s to 365 days"},
		{cron(func(s *protocol.Schedule) { s.Kind, s.At, s.Times = protocol.ScheduleDate, minute(1), 2 }), "times", "fire more than once"},
		{cron(func(s *protocol.Schedule) { s.Kind, s.At, s.Jitter = protocol.ScheduleDelay, minute(1), 2 }), "jitter", "fire more than once"},
	} {
		_, err := moments.Of(test.row)
		if refused, ok := errors.AsType[*moments.FieldError](err); !ok || refused.Field != test.field || !strings.Contains(refused.Reason, test.want) {
			t.Errorf("got %v, want a FieldError about %s that says %q", err, test.field, test.want)
		}
	}
}

// An interval that counts from long ago must not come to moments that have passed again and again.
func TestIntervalFromLongAgo(t *testing.T) {
	t.Parallel()
	for _, from := range []time.Time{time.Unix(0, 0), time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)} {
		plan, err := moments.Of(interval(func(s *protocol.Schedule) { s.From = &from }))
		if err != nil {
			continue
		}
		for _, now := range []time.Time{created, created.AddDate(150, 0, 0)} {
			if next := plan.After(now); !next.After(now) || next.Sub(now) > 10*time.Minute {
				t.Errorf("from %s, %s comes after %s", from, next, now)
			}
		}
	}
}
