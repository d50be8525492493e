package scheduler

import (
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestStepOverlaps has a schedule of every minute whose moment 1 comes due while earlier firings are not done, or has waited
// for that since minute 1 of another one.
func TestStepOverlaps(t *testing.T) {
	t.Parallel()
	const (
		skips  = "skips"
		fires  = "fires"
		holds  = "holds"
		misses = "misses"
	)
	agent, flow := false, true
	for _, tt := range []struct {
		name     string
		overlap  protocol.Overlap
		workflow bool
		undone   int
		since    *time.Time
		now      time.Time
		change   func(*protocol.Schedule)
		does     string
		next     time.Time
		counts   [3]int // runs, missed, skipped
	}{
		{"agent, nothing is undone", protocol.OverlapSkip, agent, 0, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"agent skips", protocol.OverlapSkip, agent, 1, nil, minute(1), nil, skips, minute(2), [3]int{0, 0, 1}},
		{"agent skips, and others were missed", protocol.OverlapSkip, agent, 2, nil, minute(3), nil, skips, minute(4), [3]int{0, 2, 1}},
		{"agent skips, and catches up", protocol.OverlapSkip, agent, 2, nil, minute(3), catchUp(3), skips, minute(2), [3]int{0, 0, 1}},
		{"agent misses what comes too late", protocol.OverlapSkip, agent, 1, nil, minute(3), catchUp(0), misses, minute(4), [3]int{0, 3, 0}},
		{"agent skips the last", protocol.OverlapSkip, agent, 1, nil, minute(1), until(minute(1)), skips, time.Time{}, [3]int{0, 0, 1}},
		{"what is skipped is none of the times", protocol.OverlapSkip, agent, 1, nil, minute(1), times(1), skips, minute(2), [3]int{0, 0, 1}},
		{"agent buffers one", protocol.OverlapBufferOne, agent, 1, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"agent buffers no more", protocol.OverlapBufferOne, agent, 2, nil, minute(1), nil, skips, minute(2), [3]int{0, 0, 1}},
		{"agent buffers all", protocol.OverlapBufferAll, agent, 2, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"agent cancels", protocol.OverlapCancelRunning, agent, 2, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"agent allows all", protocol.OverlapAllowAll, agent, 2, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},

		{"workflow allows all", "", flow, 1, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"workflow allows all, told so", protocol.OverlapAllowAll, flow, 1, nil, minute(1), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"workflow skips", protocol.OverlapSkip, flow, 1, nil, minute(1), nil, skips, minute(2), [3]int{0, 0, 1}},
		{"workflow holds one", protocol.OverlapBufferOne, flow, 1, nil, minute(1), nil, holds, minute(1), [3]int{}},
		{"workflow holds the last", protocol.OverlapBufferOne, flow, 1, nil, minute(1), until(minute(1)), holds, minute(1), [3]int{}},
		{"workflow holds, others pass", protocol.OverlapBufferOne, flow, 1, new(minute(1)), minute(9), nil, holds, minute(1), [3]int{}},
		{"workflow starts the one, others have passed", protocol.OverlapBufferOne, flow, 0, new(minute(1)), minute(9), nil, fires, minute(10), [3]int{1, 0, 8}},
		{"so it does if nothing is caught up", protocol.OverlapBufferOne, flow, 0, new(minute(1)), minute(9), catchUp(0), fires, minute(10), [3]int{1, 0, 8}},
		{"so it does if all is caught up", protocol.OverlapBufferOne, flow, 0, new(minute(1)), minute(9), catchUp(9), fires, minute(10), [3]int{1, 0, 8}},
		{"workflow starts the last", protocol.OverlapBufferOne, flow, 0, new(minute(1)), minute(9), until(minute(2)), fires, time.Time{}, [3]int{1, 0, 1}},
		{"workflow holds all", protocol.OverlapBufferAll, flow, 1, nil, minute(1), nil, holds, minute(1), [3]int{}},
		{"workflow starts the first of all", protocol.OverlapBufferAll, flow, 0, new(minute(1)), minute(9), catchUp(0), fires, minute(2), [3]int{1, 0, 0}},
		{"workflow has started all", protocol.OverlapBufferAll, flow, 0, new(minute(1)), minute(1).Add(time.Second), nil, fires, minute(2), [3]int{1, 0, 0}},
		{"workflow cancels", protocol.OverlapCancelRunning, flow, 1, nil, minute(1), nil, holds, minute(1), [3]int{}},
		{"workflow has cancelled", protocol.OverlapCancelRunning, flow, 0, new(minute(1)), minute(2), nil, fires, minute(3), [3]int{1, 0, 1}},
		{"what waits is out of the bounds", protocol.OverlapBufferOne, flow, 1, new(minute(1)), minute(9),
			func(s *protocol.Schedule) { s.From, s.Updated = new(minute(5)), new(minute(9)) }, skips, minute(5), [3]int{}},
		{"what waits was paused and resumed", protocol.OverlapBufferAll, flow, 0, new(minute(1)), minute(9),
			func(s *protocol.Schedule) { s.Resumed = new(minute(5)) }, skips, minute(6), [3]int{0, 0, 1}},
		{"what waited may be skipped now", protocol.OverlapSkip, flow, 1, new(minute(1)), minute(9), nil, skips, minute(10), [3]int{0, 0, 9}},
		{"what waited may overlap now", protocol.OverlapAllowAll, flow, 1, new(minute(1)), minute(9), nil, fires, minute(10), [3]int{1, 0, 8}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := everyMinute()
			s.V, s.Overlap = protocol.ScheduleVersion, tt.overlap
			if tt.change != nil {
				tt.change(&s)
			}
			r := stored(t, 1, s)
			if tt.workflow {
				r.Workflow = "digest"
			}
			got := r.step(&protocol.Tick{Planned: minute(1), Since: tt.since}, tt.now, found{undone: tt.undone})
			if counts := [3]int{got.progress.Runs, got.progress.Missed, got.progress.Skipped}; counts != tt.counts || !got.moment.Equal(tt.next) {
				t.Errorf("counts %v, then %s; want %v, then %s", counts, got.moment, tt.counts, tt.next)
			}
			if got.fires != (tt.does == fires) || (!got.at.IsZero()) != (tt.does == holds) || tt.does == holds && got.since == nil {
				t.Errorf("got %+v, want that it %s", got, tt.does)
			}
		})
	}
}

// A moment that waits is looked at less often the longer it does, and all that wait in a row are marked as such.
func TestStepWaits(t *testing.T) {
	t.Parallel()
	s := everyMinute()
	s.V, s.Overlap = protocol.ScheduleVersion, protocol.OverlapBufferAll
	r := stored(t, 1, s)
	r.Workflow = "digest"
	tick, now := &protocol.Tick{Planned: minute(1)}, minute(1)
	looks := 0
	for now.Before(minute(4)) {
		got := r.step(tick, now, found{undone: 1})
		if wait := got.at.Sub(now); wait < firstLook || wait > longLook || wait > firstLook+now.Sub(minute(1))/partWaited {
			t.Fatalf("after %s it waits for another %s", now.Sub(minute(1)), wait)
		}
		tick, now = &protocol.Tick{Planned: got.moment, Since: got.since}, got.at
		looks++
	}
	if looks < 20 || looks > 60 || !tick.Since.Equal(minute(1)) || !tick.Planned.Equal(minute(1)) {
		t.Errorf("%d looks in three minutes, then %+v", looks, tick)
	}
	for _, moment := range []int{2, 3, 4} {
		got := r.step(tick, now, found{})
		if !got.fires || !got.moment.Equal(minute(moment)) || got.since == nil || !got.since.Equal(now) || !got.at.IsZero() {
			t.Fatalf("got %+v, want that moment %d waits since %s", got, moment, now)
		}
		tick = &protocol.Tick{Planned: got.moment, Since: got.since}
	}
	if got := r.step(tick, now, found{}); !got.moment.Equal(minute(5)) || got.since != nil {
		t.Errorf("got %+v, want that moment 5 does not wait", got)
	}
}
