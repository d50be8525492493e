package scheduler

import (
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestStep has a schedule of every minute whose moment 1 comes due.
func TestStep(t *testing.T) {
	t.Parallel()
	last := new(minute(1))
	for _, tt := range []struct {
		name   string
		change func(*protocol.Schedule)
		before *protocol.Progress
		now    time.Time
		fires  bool
		next   time.Time
		after  protocol.Progress
	}{
		{"in time", nil, nil, minute(1), true, minute(2), protocol.Progress{Runs: 1, Last: last}},
		{"counts on", nil, &protocol.Progress{Runs: 6, Missed: 2}, minute(1), true, minute(2), protocol.Progress{Runs: 7, Missed: 2, Last: last}},
		{"missed moments collapse", nil, nil, minute(5), true, minute(6), protocol.Progress{Runs: 1, Missed: 4, Last: last}},
		{"some are caught up", catchUp(3), nil, minute(5), true, minute(2), protocol.Progress{Runs: 1, CaughtUp: 1, Last: last}},
		{"some were caught up", catchUp(3), &protocol.Progress{CaughtUp: 1}, minute(5), true, minute(2), protocol.Progress{Runs: 1, CaughtUp: 2, Last: last}},
		{"all were caught up", catchUp(3), &protocol.Progress{CaughtUp: 2}, minute(5), true, minute(6), protocol.Progress{Runs: 1, Missed: 4, Last: last}},
		{"in time again", catchUp(3), &protocol.Progress{CaughtUp: 2}, minute(1), true, minute(2), protocol.Progress{Runs: 1, Last: last}},
		{"nothing is caught up", catchUp(0), nil, minute(5), false, minute(6), protocol.Progress{Missed: 5}},
		{"nothing is caught up, but a minute is not late", catchUp(0), nil, minute(2), true, minute(3), protocol.Progress{Runs: 1, Missed: 1, Last: last}},
		{"more is missed than is counted", nil, nil, minute(5000), true, minute(5001), protocol.Progress{Runs: 1, Missed: 1000, Last: last}},
		{"in a pause", func(s *protocol.Schedule) { s.Resumed = new(minute(3)) }, &protocol.Progress{Runs: 2, Missed: 1}, minute(9), false, minute(4), protocol.Progress{Runs: 2, Missed: 1}},
		{"after a pause", func(s *protocol.Schedule) { s.Resumed = new(minute(0)) }, nil, minute(1), true, minute(2), protocol.Progress{Runs: 1, Last: last}},
		{"over in a pause", func(s *protocol.Schedule) { s.Resumed, s.Until = new(minute(3)), new(minute(3)) }, nil, minute(9), false, time.Time{}, protocol.Progress{}},
		{"last of its times", times(3), &protocol.Progress{Runs: 2}, minute(1), true, time.Time{}, protocol.Progress{Runs: 3, Last: last}},
		{"not the last of its times", times(3), &protocol.Progress{Runs: 1}, minute(1), true, minute(2), protocol.Progress{Runs: 2, Last: last}},
		{"last until", until(minute(1)), nil, minute(1), true, time.Time{}, protocol.Progress{Runs: 1, Last: last}},
		{"last until, others were missed", until(minute(3)), nil, minute(9), true, time.Time{}, protocol.Progress{Runs: 1, Missed: 2, Last: last}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := everyMinute()
			if tt.change != nil {
				tt.change(&s)
			}
			got := stored(t, 1, s).step(&protocol.Tick{Planned: minute(1), Progress: tt.before}, tt.now, found{})
			same := got.progress.Last == nil && tt.after.Last == nil || got.progress.Last != nil && tt.after.Last != nil && got.progress.Last.Equal(*tt.after.Last)
			got.progress.Last = tt.after.Last
			if !same || got.fires != tt.fires || !got.moment.Equal(tt.next) || got.progress != tt.after {
				t.Errorf("got %+v, last is right: %v; want fires %v, then %s, %+v", got, same, tt.fires, tt.next, tt.after)
			}
		})
	}
}

func catchUp(n int) func(*protocol.Schedule) { return func(s *protocol.Schedule) { s.CatchUp = &n } }

func times(n int) func(*protocol.Schedule) { return func(s *protocol.Schedule) { s.Times = n } }

func until(t time.Time) func(*protocol.Schedule) {
	return func(s *protocol.Schedule) { s.Until = &t }
}

// A moment that the jitter still holds back is not missed.
func TestStepWithJitter(t *testing.T) {
	t.Parallel()
	s := everyMinute()
	s.Jitter = protocol.Duration(time.Hour)
	r := stored(t, 1, s)
	for n := 1; n < 100; n++ {
		for _, now := range []time.Time{r.plan.Due(minute(n)), r.plan.Due(minute(n + 1)).Add(-1)} {
			if got := r.step(&protocol.Tick{Planned: minute(n)}, now, found{}); !got.moment.Equal(minute(n+1)) || got.progress.Missed != 0 {
				t.Fatalf("after moment %d, at %s, comes %+v", n, now, got)
			}
		}
		if got := r.step(&protocol.Tick{Planned: minute(n)}, r.plan.Due(minute(n+1)), found{}); !got.moment.Equal(minute(n+2)) || got.progress.Missed != 1 {
			t.Fatalf("after moment %d, when the next is due, comes %+v", n, got)
		}
	}
}
