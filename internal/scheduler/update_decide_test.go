package scheduler

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// changed is a row that an agent has updated at a moment.
func changed(t *testing.T, revision uint64, s protocol.Schedule, now time.Time, change func(*protocol.Schedule)) *row {
	t.Helper()
	to := s
	change(&to)
	if did, err := s.Update(to, now); err != nil || !did {
		t.Fatalf("updated %t, %v", did, err)
	}
	return stored(t, revision, s)
}

// TestDecideOfWhatWasUpdated has a schedule of every minute that was updated at minute 4, and dates that were moved then.
func TestDecideOfWhatWasUpdated(t *testing.T) {
	t.Parallel()
	now := minute(4)
	plain, date := stored(t, 5, everyMinute()), stored(t, 5, once(minute(9)))
	payload := changed(t, 8, everyMinute(), now, func(s *protocol.Schedule) { s.Payload = json.RawMessage(`2`) })
	even := changed(t, 8, everyMinute(), now, func(s *protocol.Schedule) { s.Cron = "*/2 * * * *" })
	interval := changed(t, 8, everyMinute(), now, func(s *protocol.Schedule) {
		s.Kind, s.Cron, s.Interval = protocol.ScheduleInterval, "", protocol.Duration(3*time.Minute)
	})
	until := changed(t, 8, everyMinute(), now, func(s *protocol.Schedule) { s.Until = new(minute(6)) })
	thrice := changed(t, 8, everyMinute(), now, func(s *protocol.Schedule) { s.Times = 3 })
	paused := changed(t, 9, everyMinute(), now, func(s *protocol.Schedule) { s.Cron = "*/2 * * * *"; s.Pause(minute(3), "") })
	later := changed(t, 8, once(minute(9)), now, func(s *protocol.Schedule) { s.At = new(minute(20)) })
	stopped := once(minute(9))
	stopped.Pause(minute(9), "")
	stoppedDate := stored(t, 8, stopped)

	of := func(r *row, planned time.Time) *protocol.Tick { return new(r.tick(step{moment: planned})) }
	old := func(planned time.Time) *protocol.Tick { // as of a scheduler that knows no updates
		return &protocol.Tick{V: 1, Revision: plain.revision, Definition: plain.definition, Planned: planned}
	}
	run := func(planned time.Time, runs int) *protocol.Tick {
		tick := of(plain, planned)
		tick.Progress = &protocol.Progress{Runs: runs, Last: new(planned.Add(-time.Minute))}
		return tick
	}
	park := func(tick *protocol.Tick) *protocol.Tick { tick.Parked = true; return tick }
	for _, tt := range []struct {
		name   string
		view   view
		want   verb
		moment time.Time
		runs   int
		over   bool
	}{
		{"payload", view{row: payload, armed: of(plain, minute(5))}, leave, time.Time{}, 0, false},
		{"payload, of an old scheduler", view{row: payload, armed: old(minute(5))}, leave, time.Time{}, 0, false},
		{"payload, while it fires", view{row: payload, fired: old(minute(4))}, await, time.Time{}, 0, false},
		{"payload, when it has fired", view{row: payload, handled: old(minute(4)), now: minute(4)}, arm, minute(5), 1, false},
		{"line", view{row: even, armed: run(minute(5), 4)}, arm, minute(6), 4, false},
		{"line, of an old scheduler", view{row: even, armed: old(minute(5))}, arm, minute(6), 0, false},
		{"line, nobody has served the old one", view{row: even}, arm, minute(6), 0, false},
		{"line, what is due is none of the new moments", view{row: even, armed: run(minute(3), 2)}, arm, minute(6), 2, false},
		{"line, what is due stays due", view{row: even, armed: run(minute(2), 1)}, arm, minute(2), 1, false},
		{"line, and what was due has fired late", view{row: even, handled: of(even, minute(2)), now: minute(4)}, arm, minute(6), 1, false},
		{"line, the change came twice", view{row: even, armed: of(even, minute(6))}, leave, time.Time{}, 0, false},
		{"line, an old row comes late", view{row: plain, armed: of(even, minute(6))}, leave, time.Time{}, 0, false},
		{"line, while the old moment fires", view{row: even, fired: run(minute(3), 2)}, await, time.Time{}, 0, false},
		{"line, the old moment fires", view{row: even, handled: run(minute(3), 2), now: minute(5)}, arm, minute(6), 2, false},
		{"line, the old moment was mail", view{row: even, by: plain, handled: run(minute(3), 2), now: minute(3)}, arm, minute(4), 3, false},
		{"line, the old moment was mail after that", view{row: even, by: plain, handled: run(minute(8), 2), now: minute(8)}, arm, minute(10), 3, false},
		{"interval", view{row: interval, armed: run(minute(5), 4)}, arm, minute(6), 4, false},
		{"until", view{row: until, armed: run(minute(5), 4)}, arm, minute(5), 4, false},
		{"until, it is over", view{row: until, armed: run(minute(7), 6)}, arm, minute(6), 6, true},
		{"times", view{row: thrice, armed: run(minute(4), 2)}, arm, minute(4), 2, false},
		{"times, it is over", view{row: thrice, armed: run(minute(5), 4)}, arm, minute(4), 4, true},
		{"times, it is over, and seen twice", view{row: thrice, armed: new(thrice.tick(step{moment: minute(4), over: true}))}, leave, time.Time{}, 0, false},
		{"times, its last firing was mail", view{row: thrice, by: plain, handled: run(minute(3), 2), now: minute(3)}, arm, minute(3), 3, true},
		{"paused", view{row: paused, armed: run(minute(5), 4)}, "park", minute(6), 4, false},
		{"paused before", view{row: paused, armed: park(run(minute(5), 4))}, "park", minute(6), 4, false},
		{"paused, the old moment fires", view{row: paused, handled: run(minute(3), 2)}, "park", minute(6), 2, false},
		{"date", view{row: later, armed: of(date, minute(9))}, arm, minute(20), 0, false},
		{"date, while it fires", view{row: later, fired: of(date, minute(9))}, await, time.Time{}, 0, false},
		{"date, the old moment fires", view{row: later, handled: of(date, minute(9)), now: minute(9)}, arm, minute(20), 0, false},
		{"date, the old moment was mail", view{row: later, by: date, handled: of(date, minute(9)), now: minute(9)}, arm, minute(20), 1, false},
		{"date, paused when it was mail", view{row: stoppedDate, by: date, handled: of(date, minute(9)), now: minute(9)}, arm, minute(9), 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, s := decide(tt.view)
			if got != tt.want || !s.moment.Equal(tt.moment) || s.over != tt.over || s.progress.Runs != tt.runs {
				t.Errorf("decided %s %s, %d runs, over %t; want %s %s, %d runs, over %t", got, s.moment, s.progress.Runs, s.over, tt.want, tt.moment, tt.runs, tt.over)
			}
		})
	}
}

// A firing that was on its way when the row was updated fires only if its moment is still one.
func TestStepAfterAnUpdate(t *testing.T) {
	t.Parallel()
	plain, date := stored(t, 5, everyMinute()), stored(t, 5, once(minute(9)))
	even := changed(t, 8, everyMinute(), minute(4), func(s *protocol.Schedule) { s.Cron = "*/2 * * * *" })
	many := changed(t, 8, everyMinute(), minute(4), func(s *protocol.Schedule) { s.Cron, s.CatchUp = "*/2 * * * *", new(9) })
	later := changed(t, 8, once(minute(9)), minute(4), func(s *protocol.Schedule) { s.At = new(minute(20)) })
	for _, tt := range []struct {
		name    string
		row, of *row
		planned int
		fires   bool
		next    time.Time
	}{
		{"no moment any more", even, plain, 3, false, minute(6)},
		{"still a moment", even, plain, 2, true, minute(6)},
		{"what the old line left out is not caught up", many, plain, 2, true, minute(6)},
		{"a date that was moved", later, date, 9, false, minute(20)},
		{"over", plain, plain, 0, false, time.Time{}},
	} {
		tick := tt.of.tick(step{moment: minute(tt.planned), over: tt.planned == 0})
		if s := tt.row.step(&tick, minute(5), found{}); s.fires != tt.fires || !s.moment.Equal(tt.next) || s.progress.Missed != 0 {
			t.Errorf("%s: fires %t, then %s (%+v); want %t, %s", tt.name, s.fires, s.moment, s.progress, tt.fires, tt.next)
		}
	}
}
