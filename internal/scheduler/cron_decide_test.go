package scheduler

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// digestRow is a workflow's schedule of every minute; change makes it what the test needs.
func digestRow(t *testing.T, revision uint64, change func(*protocol.Schedule)) *row {
	t.Helper()
	s := protocol.Schedule{
		V: protocol.ScheduleVersion, ID: protocol.CronID("* * * * *", ""), Class: protocol.ClassCron, Name: "digest", Workflow: "digest",
		Kind: protocol.ScheduleCron, Cron: "* * * * *", Created: created,
	}
	change(&s)
	r, err := parseDigestRow(t, revision, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parseDigestRow(t *testing.T, revision uint64, s protocol.Schedule) (*row, error) {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	k := key{agent: protocol.Agent{Project: "desk", Class: s.Class, Name: "digest"}, id: s.ID}
	return parseRow(k, &journal.Message{Sequence: revision, Data: data})
}

// TestDecideOfAWorkflow is about what differs from the schedules of agents: a row is changed in place, and stays when the
// schedule is over.
func TestDecideOfAWorkflow(t *testing.T) {
	t.Parallel()
	plain := digestRow(t, 5, func(*protocol.Schedule) {})
	params := digestRow(t, 8, func(s *protocol.Schedule) {
		s.Payload, s.CatchUp, s.Updated = json.RawMessage(`1`), new(3), new(minute(4))
	})
	later := digestRow(t, 8, func(s *protocol.Schedule) { s.From, s.Updated = new(minute(30)), new(minute(4)) })
	sooner := digestRow(t, 9, func(s *protocol.Schedule) { s.Updated = new(minute(10)) })
	ended := digestRow(t, 9, func(s *protocol.Schedule) { s.Until, s.Updated = new(minute(6)), new(minute(4)) })
	longer := digestRow(t, 10, func(s *protocol.Schedule) { s.Until, s.Updated = new(minute(90)), new(minute(40)) })
	thrice := digestRow(t, 9, func(s *protocol.Schedule) { s.Times, s.Updated = 3, new(minute(4)) })
	paused := digestRow(t, 9, func(s *protocol.Schedule) { s.Until = new(minute(6)); s.Pause(minute(6), "") })
	again := digestRow(t, 12, func(s *protocol.Schedule) { s.Created = minute(20) })
	of := func(r *row, planned time.Time) *protocol.Tick {
		t := r.tick(step{moment: planned})
		return &t
	}
	run := func(r *row, planned time.Time, runs int) *protocol.Tick {
		t := of(r, planned)
		t.Progress = &protocol.Progress{Runs: runs, Last: new(planned.Add(-time.Minute))}
		return t
	}
	over := func(r *row, last time.Time) *protocol.Tick {
		t := r.tick(step{moment: last, over: true, progress: protocol.Progress{Runs: 3, Last: &last}})
		t.Parked = true
		return &t
	}
	for _, tt := range []struct {
		name   string
		view   view
		want   verb
		moment time.Time
		over   bool
	}{
		{"new", view{row: plain}, arm, minute(1), false},
		{"params changed", view{row: params, armed: of(plain, minute(5))}, leave, time.Time{}, false},
		{"params changed, while it fires", view{row: params, fired: of(plain, minute(4))}, await, time.Time{}, false},
		{"params changed, when it has fired", view{row: params, handled: of(plain, minute(4)), now: minute(4)}, arm, minute(5), false},
		{"begins later", view{row: later, armed: of(plain, minute(5))}, arm, minute(30), false},
		{"begins later, the change came twice", view{row: later, armed: of(later, minute(30))}, leave, time.Time{}, false},
		{"begins later, an old row comes late", view{row: plain, armed: of(later, minute(30))}, leave, time.Time{}, false},
		{"begins sooner, but not in the past", view{row: sooner, armed: of(later, minute(30))}, arm, minute(11), false},
		{"changed when a moment was due", view{row: ended, armed: of(plain, minute(3))}, arm, minute(3), false},
		{"changed, what has fired since does not fire again", view{row: ended, armed: run(plain, minute(6), 5)}, arm, minute(6), false},
		{"ends before what is armed", view{row: ended, armed: run(plain, minute(7), 6)}, park, minute(6), true},
		{"has fired for the last time", view{row: ended, handled: run(ended, minute(6), 5), now: minute(6)}, park, minute(6), true},
		{"is over", view{row: ended, armed: over(ended, minute(6))}, leave, time.Time{}, false},
		{"is over, the last firing came again", view{row: ended, armed: over(ended, minute(6)), handled: of(ended, minute(6)), now: minute(6)}, leave, time.Time{}, false},
		{"was over, goes on from the change", view{row: longer, armed: over(ended, minute(6))}, arm, minute(41), false},
		{"has fired as often as it may now", view{row: thrice, armed: run(plain, minute(5), 4)}, park, minute(4), true},
		{"may fire more often", view{row: thrice, armed: run(plain, minute(5), 2)}, arm, minute(5), false},
		{"paused when it is over", view{row: paused, armed: over(paused, minute(6))}, leave, time.Time{}, false},
		{"paused, its last firing was started", view{row: paused, handled: run(paused, minute(6), 5), now: minute(6)}, park, minute(6), true},
		{"removed", view{armed: of(plain, minute(5))}, disarm, time.Time{}, false},
		{"removed and made again", view{row: again, armed: over(ended, minute(6))}, arm, minute(21), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, s := decide(tt.view)
			if got != tt.want || !s.moment.Equal(tt.moment) || s.over != tt.over {
				t.Errorf("decided %s %s over %t, want %s %s over %t", got, s.moment, s.over, tt.want, tt.moment, tt.over)
			}
		})
	}
}

// A firing that was on its way when the row was changed.
func TestStepOutsideOfNewBounds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*protocol.Schedule)
		moment time.Time
	}{
		{"before from", func(s *protocol.Schedule) { s.From = new(minute(9)) }, minute(9)},
		{"after until", func(s *protocol.Schedule) { s.Until = new(minute(2)) }, time.Time{}},
		{"more than times", func(s *protocol.Schedule) { s.Times = 2 }, time.Time{}},
	} {
		r := digestRow(t, 5, func(s *protocol.Schedule) { tt.change(s); s.Updated = new(minute(4)) })
		s := r.step(&protocol.Tick{Planned: minute(3), Progress: &protocol.Progress{Runs: 2}}, minute(3), found{})
		if s.fires || !s.moment.Equal(tt.moment) || s.progress.Runs != 2 || s.progress.Missed != 0 {
			t.Errorf("%s: %+v", tt.name, s)
		}
	}
}

func TestRowsOfWorkflowsThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		field  string
		change func(*protocol.Schedule)
	}{
		{"workflow", func(s *protocol.Schedule) { s.Workflow = "other" }},
		{"workflow", func(s *protocol.Schedule) { s.Workflow, s.Callback = "", "C" }},
		{"workflow", func(s *protocol.Schedule) { s.Class = "Desk" }},
		{"kind", func(s *protocol.Schedule) {
			s.Kind, s.Interval = protocol.ScheduleInterval, protocol.Duration(time.Hour)
		}},
		{"cron", func(s *protocol.Schedule) { s.Cron = "61 * * * *" }},
		{"times", func(s *protocol.Schedule) { s.Times = -1 }},
	} {
		s := digestRow(t, 5, func(*protocol.Schedule) {}).Schedule
		tt.change(&s)
		_, err := parseDigestRow(t, 5, s)
		if bad, ok := errors.AsType[*RowError](err); !ok || bad.Field != tt.field {
			t.Errorf("%+v: error is %v, want one of %q", s, err, tt.field)
		}
	}
}
