package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

var rowsBegan = time.Date(2026, 11, 29, 9, 0, 0, 0, time.UTC)

// hourlyRow is the row of a schedule of the desk "jo" after some changes.
func hourlyRow(changes ...func(*protocol.Schedule)) protocol.Schedule {
	row := protocol.Schedule{
		V: protocol.Version, ID: "cron-s", Class: "Desk", Name: "jo", Kind: protocol.ScheduleCron, Cron: "@hourly", Callback: "Note",
		Payload: json.RawMessage(`"x"`), Created: rowsBegan,
	}
	for _, change := range changes {
		change(&row)
	}
	return row
}

func minutes(n int) time.Time { return rowsBegan.Add(time.Duration(n) * time.Minute) }

func pausedAt(n int, note string) func(*protocol.Schedule) {
	return func(s *protocol.Schedule) { s.Pause(minutes(n), note) }
}

func resumedAt(n int) func(*protocol.Schedule) {
	return func(s *protocol.Schedule) { s.Resume(minutes(n)) }
}

func timesAt(n, times int) func(*protocol.Schedule) {
	return func(s *protocol.Schedule) {
		to := *s
		to.Times = times
		if _, err := s.Update(to, minutes(n)); err != nil {
			panic(err)
		}
	}
}

func withPayload(p string) func(*protocol.Schedule) {
	return func(s *protocol.Schedule) { s.Payload = json.RawMessage(p) }
}

func TestRowAgain(t *testing.T) {
	t.Parallel()
	otherLife := func(s *protocol.Schedule) { s.Life = 7 }
	madeLater := func(s *protocol.Schedule) { s.Created = minutes(1) }
	ofNewer := func(s *protocol.Schedule) { s.V = protocol.ScheduleVersion + 1 }
	for _, tt := range []struct {
		name               string
		asked, there, want protocol.Schedule
	}{
		{"the same", hourlyRow(), hourlyRow(), hourlyRow()},
		{"paused since", hourlyRow(), hourlyRow(pausedAt(1, "")), hourlyRow(pausedAt(1, ""))},
		{"resumed since", hourlyRow(pausedAt(1, "")), hourlyRow(pausedAt(1, ""), resumedAt(2)), hourlyRow(pausedAt(1, ""), resumedAt(2))},
		{"paused again since", hourlyRow(pausedAt(1, ""), resumedAt(2)), hourlyRow(pausedAt(1, ""), resumedAt(2), pausedAt(3, "")),
			hourlyRow(pausedAt(1, ""), resumedAt(2), pausedAt(3, ""))},
		{"another note since", hourlyRow(pausedAt(1, "a")), hourlyRow(pausedAt(1, "b")), hourlyRow(pausedAt(1, "b"))},
		{"not paused yet", hourlyRow(pausedAt(1, "")), hourlyRow(), hourlyRow(pausedAt(1, ""))},
		{"not resumed yet", hourlyRow(pausedAt(1, ""), resumedAt(2)), hourlyRow(pausedAt(1, "")), hourlyRow(pausedAt(1, ""), resumedAt(2))},
		{"not updated yet", hourlyRow(timesAt(1, 3)), hourlyRow(pausedAt(2, "")), hourlyRow(timesAt(1, 3), pausedAt(2, ""))},
		{"updated since", hourlyRow(pausedAt(1, "")), hourlyRow(pausedAt(1, ""), timesAt(2, 3)), hourlyRow(pausedAt(1, ""), timesAt(2, 3))},
		{"updated twice", hourlyRow(timesAt(1, 3), timesAt(3, 5)), hourlyRow(timesAt(1, 3), pausedAt(2, "")),
			hourlyRow(timesAt(1, 3), timesAt(3, 5), pausedAt(2, ""))},
		{"another payload", hourlyRow(withPayload(`"y"`)), hourlyRow(pausedAt(1, "")), hourlyRow(withPayload(`"y"`), pausedAt(1, ""))},
		{"of another life", hourlyRow(otherLife), hourlyRow(pausedAt(1, "")), hourlyRow(otherLife)},
		{"made again", hourlyRow(madeLater), hourlyRow(pausedAt(2, "")), hourlyRow(madeLater)},
		{"of a newer program", hourlyRow(ofNewer), hourlyRow(pausedAt(2, "")), hourlyRow(ofNewer)},
	} {
		there, err := json.Marshal(tt.there)
		if err != nil {
			t.Fatal(err)
		}
		got, want := rowText(t, rowAgain(tt.asked, &journal.Message{Data: there})), rowText(t, tt.want)
		if got != want {
			t.Errorf("%s: got\n%s, want\n%s", tt.name, got, want)
		}
	}
	gone := &journal.Message{Header: nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}}
	if got := rowText(t, rowAgain(hourlyRow(), gone)); got != rowText(t, hourlyRow()) {
		t.Errorf("gone: %s", got)
	}
}

func rowText(t *testing.T, row protocol.Schedule) string {
	t.Helper()
	body, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestInheritedRowOfWhatHasEnded: a change must not bring a schedule back.
func TestInheritedRowOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil), timings(quick))
	r.own(t, "jo", "dead", protocol.Outgoing{ID: "0.1.1", Kind: protocol.OutgoingSchedule, Schedule: new(hourlyRow(timesAt(1, 3)))})
	h.expect(t, "/agents/desk/jo", 200, "5")
	if got := r.row(t, protocol.SchedulesBucket(testProject), protocol.ScheduleKey("Desk", "jo", "cron-s")); got != nil {
		t.Errorf("the row is %s", got)
	}
}

// TestInheritedRows has what a lost host may have carried out: an operator has paused a schedule since.
func TestInheritedRows(t *testing.T) {
	t.Parallel()
	put := func(n string, row protocol.Schedule) protocol.Outgoing {
		return protocol.Outgoing{ID: "0.1." + n, Kind: protocol.OutgoingSchedule, Schedule: &row}
	}
	cancel := protocol.Outgoing{ID: "0.1.2", Kind: protocol.OutgoingCancelSchedule, Cancel: "cron-s"}
	earlier := hourlyRow(func(s *protocol.Schedule) { s.Created = minutes(-1) })
	for name, outbox := range map[string][]protocol.Outgoing{
		"made":       {put("1", hourlyRow())},
		"made again": {put("1", earlier), cancel, put("3", hourlyRow())},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.host(t, desks(nil), timings(quick))
			key, want := protocol.ScheduleKey("Desk", "jo", "cron-s"), hourlyRow(pausedAt(1, ""))
			r.put(t, protocol.SchedulesBucket(testProject), key, want)
			r.own(t, "jo", "dead", outbox...)
			h.expect(t, "/agents/desk/jo", 200, "5")
			if got := string(r.row(t, protocol.SchedulesBucket(testProject), key)); got != rowText(t, want) {
				t.Errorf("the row is %s", got)
			}
		})
	}
}
