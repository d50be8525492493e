package scheduler

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
	_ "time/tzdata" // rows name time zones

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

var created = time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC)

func minute(n int) time.Time { return created.Add(time.Duration(n) * time.Minute) }

func everyMinute() protocol.Schedule {
	return protocol.Schedule{V: 1, ID: "s", Class: "Desk", Name: "jo", Kind: protocol.ScheduleCron, Cron: "* * * * *", Callback: "C", Created: created}
}

func everyTen() protocol.Schedule {
	return protocol.Schedule{V: 1, ID: "s", Class: "Desk", Name: "jo", Kind: protocol.ScheduleInterval,
		Interval: protocol.Duration(10 * time.Minute), Callback: "C", Created: created}
}

func once(at time.Time) protocol.Schedule {
	return protocol.Schedule{V: 1, ID: "s", Class: "Desk", Name: "jo", Kind: protocol.ScheduleDate, At: &at, Callback: "C", Created: created}
}

var latest = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

var testKey = key{agent: protocol.Agent{Project: "desk", Class: "Desk", Name: "jo"}, id: "s"}

func stored(t *testing.T, revision uint64, s protocol.Schedule) *row {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRow(testKey, &journal.Message{Sequence: revision, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDecide(t *testing.T) {
	t.Parallel()
	cron, again, date := stored(t, 5, everyMinute()), stored(t, 8, everyMinute()), stored(t, 5, once(minute(9)))
	other := everyMinute()
	other.Payload = json.RawMessage(`1`)
	changed := stored(t, 8, other)
	interval := stored(t, 5, everyTen())
	of := func(r *row, planned time.Time) *protocol.Tick {
		return &protocol.Tick{V: 1, Revision: r.revision, Definition: r.definition, Planned: planned}
	}
	parked := func(r *row, planned time.Time) *protocol.Tick {
		t := of(r, planned)
		t.Parked = true
		return t
	}
	stopped, went := everyMinute(), everyMinute()
	stopped.Pause(minute(2), "for a test")
	paused := stored(t, 9, stopped)
	went.Pause(minute(2), "for a test")
	went.Resume(minute(8))
	resumed := stored(t, 10, went)
	tests := []struct {
		name   string
		view   view
		want   verb
		moment time.Time
	}{
		{"nothing anywhere", view{}, leave, time.Time{}},
		{"new date", view{row: date}, arm, minute(9)},
		{"new cron", view{row: cron}, arm, minute(1)},
		{"cron that was put while nobody looked fires what it missed once", view{row: cron, now: minute(60)}, arm, minute(1)},
		{"row is gone, moment is armed", view{armed: of(cron, minute(3))}, disarm, time.Time{}},
		{"row is gone, moment has fired", view{fired: of(cron, minute(3))}, leave, time.Time{}},
		{"armed already", view{row: cron, armed: of(cron, minute(3))}, leave, time.Time{}},
		{"date armed already", view{row: date, armed: of(date, minute(9))}, leave, time.Time{}},
		{"put again unchanged", view{row: again, armed: of(cron, minute(3))}, leave, time.Time{}},
		{"put again unchanged while it fires", view{row: again, fired: of(cron, minute(3))}, await, time.Time{}},
		{"row came twice while its firing waits", view{row: cron, fired: of(cron, minute(3))}, leave, time.Time{}},
		{"changed", view{row: changed, armed: of(cron, minute(3))}, arm, minute(1)},
		{"changed while the old one fires", view{row: changed, fired: of(cron, minute(3))}, arm, minute(1)},
		{"older than what is armed", view{row: cron, armed: of(changed, minute(3))}, leave, time.Time{}},
		{"something else is armed", view{row: cron, armed: &protocol.Tick{}}, arm, minute(1)},

		{"cron has fired", view{row: cron, handled: of(cron, minute(1)), now: minute(1).Add(time.Second)}, arm, minute(2)},
		{"cron has fired early by another clock", view{row: cron, handled: of(cron, minute(2)), now: minute(1)}, arm, minute(3)},
		{"missed moments collapse", view{row: cron, handled: of(cron, minute(1)), now: minute(9).Add(time.Second)}, arm, minute(10)},
		{"a moment that is now is missed too", view{row: cron, handled: of(cron, minute(1)), now: minute(9)}, arm, minute(10)},
		{"fired twice, the next is armed", view{row: cron, armed: of(cron, minute(2)), handled: of(cron, minute(1)), now: minute(1)}, leave, time.Time{}},
		{"fired, the same moment is armed again", view{row: cron, armed: of(cron, minute(1)), handled: of(cron, minute(1)), now: minute(1)}, arm, minute(2)},
		{"fired, an earlier moment is armed", view{row: cron, armed: of(cron, minute(1)), handled: of(cron, minute(4)), now: minute(4)}, arm, minute(5)},
		{"fired and put again unchanged", view{row: again, handled: of(cron, minute(1)), now: minute(1)}, arm, minute(2)},
		{"fired and changed meanwhile", view{row: changed, handled: of(cron, minute(4)), now: minute(4)}, arm, minute(1)},
		{"fired and deleted meanwhile", view{handled: of(cron, minute(4)), now: minute(4)}, leave, time.Time{}},
		{"fired and deleted meanwhile, moment is armed", view{armed: of(cron, minute(5)), handled: of(cron, minute(4))}, disarm, time.Time{}},
		{"fired, a newer row is armed", view{row: cron, armed: of(changed, minute(5)), handled: of(cron, minute(4)), now: minute(4)}, leave, time.Time{}},
		{"new interval", view{row: interval}, arm, minute(10)},
		{"interval has fired late", view{row: interval, handled: of(interval, minute(10)), now: minute(17)}, arm, minute(20)},
		{"fired again, the next one fires", view{row: cron, fired: of(cron, minute(2)), handled: of(cron, minute(1)), now: minute(9)}, leave, time.Time{}},
		{"paused", view{row: paused, armed: of(cron, minute(3))}, park, minute(3)},
		{"paused, came twice", view{row: paused, armed: parked(cron, minute(3))}, leave, time.Time{}},
		{"paused before it was armed", view{row: paused}, park, minute(1)},
		{"paused, something else is armed", view{row: paused, armed: of(changed, minute(3))}, park, minute(1)},
		{"paused while it fires", view{row: paused, fired: of(cron, minute(3))}, await, time.Time{}},
		{"paused, its firing comes", view{row: paused, handled: of(cron, minute(3))}, park, minute(3)},
		{"paused, its firing comes again", view{row: paused, armed: parked(cron, minute(4)), handled: of(cron, minute(3))}, leave, time.Time{}},
		{"paused when its firing was mail", view{row: paused, handled: of(cron, minute(3)), now: minute(3)}, park, minute(4)},
		{"paused, deleted", view{armed: parked(cron, minute(3))}, disarm, time.Time{}},
		{"resumed", view{row: resumed, armed: parked(cron, minute(3))}, arm, minute(3)},
		{"resumed, came twice", view{row: resumed, armed: of(cron, minute(3))}, leave, time.Time{}},
		{"resumed, what was planned in the pause fires", view{row: resumed, handled: of(cron, minute(3)), now: minute(8)}, arm, minute(9)},
		{"resumed, and nobody has seen it for long", view{row: resumed, handled: of(cron, minute(3)), now: minute(20)}, arm, minute(9)},
		{"date has fired, and its row is still there", view{row: date, handled: of(date, minute(9)), now: minute(9)}, arm, minute(9)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			do, next := decide(tt.view)
			if do != tt.want || !next.moment.Equal(tt.moment) {
				t.Errorf("got %s %s, want %s %s", do, next.moment, tt.want, tt.moment)
			}
		})
	}
}

func TestNextMoments(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, line, zone         string
		fired, now, first, later time.Time
	}{
		{"seconds", "*/5 * * * * *", "", created.Add(5 * time.Second), created.Add(6 * time.Second),
			created.Add(5 * time.Second), created.Add(10 * time.Second)},
		{"descriptor", "@hourly", "", minute(60), minute(61), minute(60), minute(120)},
		{"zone", "30 15 * * *", "Europe/Oslo", minute(30), minute(31), minute(30), minute(30 + 24*60)},
		{"every does not drift when it fires late", "@every 10m", "", minute(10), minute(10).Add(7 * time.Second), minute(10), minute(20)},
		{"every keeps to its plan when moments were missed", "@every 10m", "", minute(10), minute(25), minute(10), minute(30)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := everyMinute()
			s.Cron, s.Zone = tt.line, tt.zone
			r := stored(t, 1, s)
			if got := r.plan.First(); !got.Equal(tt.first) {
				t.Errorf("first is %s, want %s", got, tt.first)
			}
			if got := r.step(&protocol.Tick{Planned: tt.fired}, tt.now, found{}).moment; !got.Equal(tt.later) {
				t.Errorf("next is %s, want %s", got, tt.later)
			}
		})
	}
}

func TestIntervalKeepsToItsPlan(t *testing.T) {
	t.Parallel()
	r := stored(t, 1, everyTen())
	if got := r.plan.First(); !got.Equal(minute(10)) {
		t.Errorf("first is %s, want %s", got, minute(10))
	}
	for _, tt := range []struct {
		name             string
		fired, now, want time.Time
	}{
		{"in time", minute(10), minute(10), minute(20)},
		{"late", minute(10), minute(19), minute(20)},
		{"a moment that is now is missed", minute(10), minute(20), minute(30)},
		{"missed moments collapse, the plan stays", minute(10), minute(65), minute(70)},
		{"early by another clock", minute(20), minute(19), minute(30)},
	} {
		if got := r.step(&protocol.Tick{Planned: tt.fired}, tt.now, found{}).moment; !got.Equal(tt.want) {
			t.Errorf("%s: next is %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestParseRowRefuses(t *testing.T) {
	t.Parallel()
	change := func(f func(*protocol.Schedule)) string {
		s := once(minute(1))
		f(&s)
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	cron := func(line, zone string) string {
		return change(func(s *protocol.Schedule) { s.Kind, s.Cron, s.Zone, s.At = protocol.ScheduleCron, line, zone, nil })
	}
	tests := []struct{ name, data, want string }{
		{"no JSON", "garbage", `schedule row: invalid character 'g' looking for beginning of value`},
		{"other class", change(func(s *protocol.Schedule) { s.Class = "X" }), `schedule row: class "X": its key says "Desk"`},
		{"other agent", change(func(s *protocol.Schedule) { s.Name = "X" }), `schedule row: name "X": its key says "jo"`},
		{"other id", change(func(s *protocol.Schedule) { s.ID = "X" }), `schedule row: id "X": its key says "s"`},
		{"no callback", change(func(s *protocol.Schedule) { s.Callback = "" }), `schedule row: callback "": is empty`},
		{"no creation", change(func(s *protocol.Schedule) { s.Created = time.Time{} }), `schedule row: created "": is missing`},
		{"created too late", change(func(s *protocol.Schedule) { s.Created = latest.Add(time.Hour) }),
			`schedule row: created "2200-01-01T01:00:00Z": allowed is before 2200-01-01`},
		{"unknown kind", change(func(s *protocol.Schedule) { s.Kind = "moon" }),
			`schedule row: kind "moon": allowed are "delay", "date", "cron" and "interval"`},
		{"interval too short", change(func(s *protocol.Schedule) {
			s.Kind, s.Interval = protocol.ScheduleInterval, protocol.Duration(time.Second-1)
		}),
			`schedule row: interval "999.999999ms": an interval must be 1s to 365 days long`},
		{"interval too long", change(func(s *protocol.Schedule) {
			s.Kind, s.Interval = protocol.ScheduleInterval, protocol.Duration(protocol.MaxInterval+1)
		}),
			`schedule row: interval "8760h0m0.000000001s": an interval must be 1s to 365 days long`},
		{"date without moment", change(func(s *protocol.Schedule) { s.At = nil }), `schedule row: at "": a date needs a moment`},
		{"moment that is zero", change(func(s *protocol.Schedule) { s.At = new(time.Time) }), `schedule row: at "": a date needs a moment`},
		{"moment too late", change(func(s *protocol.Schedule) { s.At = new(latest.Add(time.Hour)) }),
			`schedule row: at "2200-01-01T01:00:00Z": allowed is before 2200-01-01`},
		{"empty line", cron("", ""),
			`schedule row: cron "": cron line "": has 0 fields; allowed are 5, 6 with seconds first, or a descriptor such as "@hourly"; correct is for example "30 9 * * MON-FRI"`},
		{"unknown zone", cron("* * * * *", "Mars/Olympus"),
			`schedule row: cron "* * * * *": cron line "* * * * *" in time zone "Mars/Olympus": unknown time zone; allowed are IANA names; correct is for example "Europe/Oslo"`},
		{"line that never comes", cron("0 0 31 2 *", ""), `schedule row: cron "0 0 31 2 *": cron line "0 0 31 2 *": day of month, column 5: never comes: no month of the line has such a day; correct is for example "0 0 28 2 *"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := parseRow(testKey, &journal.Message{Sequence: 1, Data: []byte(tt.data)})
			if _, ok := errors.AsType[*RowError](err); !ok || r != nil || err.Error() != tt.want {
				t.Errorf("got %+v, %v, want %s", r, err, tt.want)
			}
		})
	}
}

func TestParseRowOfANewerProgram(t *testing.T) {
	t.Parallel()
	for _, row := range []string{`{"v":99,"kind":"moon"}`, `{"kind":{"of":"moon"},"v":99}`} {
		_, err := parseRow(testKey, &journal.Message{Sequence: 1, Data: []byte(row)})
		if !errors.Is(err, errNewerRow) {
			t.Errorf("%s: got %v, want errNewerRow", row, err)
		}
	}
}

func TestParseRowDeleted(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*journal.Message{
		"delete marker": {Header: nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}},
		"purge marker":  {Header: nats.Header{protocol.HeaderKVOperation: {"PURGE"}}},
		"tombstone":     {},
	} {
		if r, err := parseRow(testKey, m); r != nil || err != nil {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}

func TestMomentsLongPast(t *testing.T) {
	t.Parallel()
	old := time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := protocol.FiringNumber(old); got != 1 {
		t.Errorf("number is %d, want 1", got)
	}
	if got := fireAt(old); got != "1970-01-01T00:00:00Z" {
		t.Errorf("fires at %s", got)
	}
	if got := fireAt(created.Add(123456789)); got != "2026-11-22T14:00:00.123456789Z" {
		t.Errorf("fires at %s", got)
	}
}

func TestRowSubjects(t *testing.T) {
	t.Parallel()
	k := key{agent: protocol.Agent{Project: "desk", Class: "Desk", Name: "jo@x"}, id: "a b"}
	if got, err := parseRowSubject("desk", k.rowSubject()); got != k || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := parseDueSubject(k.dueSubject()); got != k || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, subject := range []string{"", "$KV.SCHEDULES_other.Desk.jo.s", "$KV.SCHEDULES_desk.Desk.jo", "$KV.SCHEDULES_desk.Desk.jo.=4"} {
		if k, err := parseRowSubject("desk", subject); err == nil {
			t.Errorf("%q is read as %+v", subject, k)
		}
	}
}
