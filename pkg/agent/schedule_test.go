package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests name zones on any machine

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestScheduleIsStoredAndBecomesARow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			after, err := Schedule(r.Context(), After(time.Hour), d.Note, "later")
			if err != nil {
				return err
			}
			at, err := Schedule(r.Context(), At(time.Date(2027, 2, 23, 8, 0, 0, 0, time.FixedZone("", 3600))), d.Note, "then")
			if err != nil {
				return err
			}
			cron, err := Schedule(r.Context(), Cron(" */5  * * * * * ", "Europe/Oslo"), d.Note, "again")
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode([]Task{after, at, cron})
		}
	}))
	began := time.Now()
	_, body := h.call(t, http.MethodPost, "/agents/desk/jo", "")
	var tasks []Task
	if err := json.Unmarshal([]byte(body), &tasks); err != nil || len(tasks) != 3 {
		t.Fatalf("answer %q: %v", body, err)
	}
	record, _ := r.record(t, "jo")
	if len(record.Outbox) != 3 || len(record.Seen) != 3 {
		t.Errorf("record %+v, want three entries in the outbox and three known sources", record)
	}
	if want := protocol.OutgoingID(record.Life, 1, 1); tasks[0].ID != want {
		t.Errorf("id of a schedule that fires once: %s, want %s", tasks[0].ID, want)
	}
	rows := map[string]protocol.Schedule{}
	for _, task := range tasks {
		var row protocol.Schedule
		r.awaitRow(t, task.ID, &row)
		if row.ID != task.ID || row.Class != "Desk" || row.Name != "jo" || row.Life != record.Life || row.Callback != "Note" || task.Callback != "Note" {
			t.Errorf("row %+v of %+v", row, task)
		}
		rows[string(row.Kind)] = row
	}
	delay, date, cron := rows["delay"], rows["date"], rows["cron"]
	if delay.At == nil || delay.At.Sub(began.Add(time.Hour)).Abs() > time.Minute || !delay.At.Equal(tasks[0].Next) {
		t.Errorf("delay is at %v, want an hour after %s", delay.At, began)
	}
	if date.At == nil || date.At.Format(time.RFC3339) != "2027-02-23T07:00:00Z" {
		t.Errorf("date is at %v", date.At)
	}
	if cron.Cron != "*/5 * * * * *" || cron.Zone != "Europe/Oslo" || string(cron.Payload) != `"again"` || cron.At != nil {
		t.Errorf("cron row %+v", cron)
	}
	if wait := tasks[2].Next.Sub(cron.Created); wait <= 0 || wait > 5*time.Second {
		t.Errorf("next moment is %s after the schedule was made, want within 5s", wait)
	}
}

func (r *rig) awaitRow(t *testing.T, id string, into *protocol.Schedule) {
	t.Helper()
	r.awaitRecord(t, "jo", "the row of schedule "+id+" is there", func(protocol.Record) bool {
		raw := r.row(t, protocol.SchedulesBucket(testProject), protocol.ScheduleKey("Desk", "jo", id))
		return raw != nil && json.Unmarshal(raw, into) == nil
	})
}

func TestCronScheduleIsOneAndCanBeCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			switch r.Method {
			case http.MethodGet:
				return count(d, w, r)
			case http.MethodDelete:
				found, err := CancelSchedule(r.Context(), r.URL.Query().Get("id"))
				if err != nil {
					return err
				}
				return json.NewEncoder(w).Encode(found)
			}
			first, err := Schedule(r.Context(), Cron("@hourly"), d.Note, "x")
			if err != nil {
				return err
			}
			second, err := Schedule(r.Context(), Cron("@hourly"), d.Note, "x")
			if err != nil {
				return err
			}
			other, err := Schedule(r.Context(), Cron("@hourly"), d.Note, "y")
			if first.ID != second.ID || first.ID == other.ID {
				t.Errorf("ids %s, %s, %s: want the same for the same, another for another payload", first.ID, second.ID, other.ID)
			}
			if err != nil {
				return err
			}
			_, err = io.WriteString(w, first.ID)
			return err
		}
	}))
	_, id := h.call(t, http.MethodPost, "/agents/desk/jo", "")
	h.expect(t, "/agents/desk/jo", 200, "0") // a turn later, the outbox is carried out
	before := r.rows(t, protocol.SchedulesBucket(testProject))
	_, again := h.call(t, http.MethodPost, "/agents/desk/jo", "")
	record, _ := r.record(t, "jo")
	if again != id || len(before) != 2 || record.Turn != 1 {
		t.Errorf("scheduled again: id %s (%s before), %d rows, %d turns; want the same id, 2 rows, nothing stored", again, id, len(before), record.Turn)
	}
	for _, want := range []string{"true", "false"} {
		if _, found := h.call(t, http.MethodDelete, "/agents/desk/jo?id="+id, ""); found != want {
			t.Errorf("CancelSchedule = %s, want %s", found, want)
		}
	}
	h.expect(t, "/agents/desk/jo", 200, "0")
	if rows := r.rows(t, protocol.SchedulesBucket(testProject)); len(rows) != 1 {
		t.Errorf("rows after the cancel: %v, want the other one", rows)
	}
	if _, back := h.call(t, http.MethodPost, "/agents/desk/jo", ""); back != id {
		t.Errorf("id %s after it was cancelled and made again, want %s", back, id)
	}
}

// turnOf returns the context of a turn without a host.
func turnOf(t *testing.T, class Class, a Agent, stored protocol.Record) (context.Context, *draft) {
	t.Helper()
	if err := class.Err(); err != nil {
		t.Fatal(err)
	}
	d := &draft{agent: agentNamed("jo"), class: class.class, core: a.base(), stored: stored}
	return turn.With(t.Context(), d), d
}

type promoted struct{}

func (*promoted) Promoted(context.Context, string) error { return nil }

type fancy struct {
	Base[int]
	promoted
}

func (f *fancy) Plain(context.Context, string) error             { return nil }
func (f *fancy) hidden(context.Context, string) error            { return nil }
func (f *fancy) OnStart(context.Context) error                   { return nil }
func (f *fancy) OnError(context.Context, error) error            { return nil }
func (f *fancy) TwoResults(context.Context, string) (int, error) { return 0, nil }
func plainFunction(context.Context, string) error                { return nil }
func (g *generic[T]) Typed(context.Context, T) error             { return nil }
func (s *stranger) Plain(context.Context, string) error          { return nil }

type generic[T any] struct{ Base[T] }

type stranger struct{}

type ringer interface {
	Plain(context.Context, string) error
}

func TestCallbacksAreMethodValuesOfTheAgent(t *testing.T) {
	t.Parallel()
	f := &fancy{}
	class := Define("Fancy", func() *fancy { return &fancy{} })
	ctx, _ := turnOf(t, class, f, protocol.Record{Life: 1})
	try := func(callback func(context.Context, string) error) (Task, error) {
		return Schedule(ctx, After(0), callback, "x")
	}
	for _, test := range []struct {
		name     string
		callback func(context.Context, string) error
		stored   string
		reason   string
	}{
		{"method", f.Plain, "Plain", ""},
		{"promoted method", f.Promoted, "Promoted", ""},
		{"nil", nil, "", "is nil"},
		{"closure", func(context.Context, string) error { return nil }, "", "closure"},
		{"function", plainFunction, "", "closure"},
		{"method that is not exported", f.hidden, "", "must be exported"},
		{"method of another type", (&stranger{}).Plain, "", "another type"},
		{"method of another agent", (&desk{}).Note, "", "another type"},
		{"method of an interface", ringer(f).Plain, "", "another type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			task, err := try(test.callback)
			if test.reason == "" {
				if err != nil || task.Callback != test.stored {
					t.Errorf("Schedule = %+v, %v; want it stored as %s", task, err, test.stored)
				}
				return
			}
			refused, ok := errors.AsType[*CallbackError](err)
			if !ok || refused.Class != "Fancy" || !strings.Contains(refused.Reason, test.reason) {
				t.Errorf("Schedule = %+v, %v; want a CallbackError that says %q", task, err, test.reason)
			}
		})
	}
	if _, err := Schedule(ctx, After(0), f.OnError, error(nil)); err == nil || !strings.Contains(err.Error(), "no hook") {
		t.Errorf("Schedule of a hook = %v, want a CallbackError", err)
	}
	if _, err := Schedule(ctx, After(0), f.SetState, 3); err == nil {
		t.Error("Schedule of SetState: want a CallbackError")
	}

	g := &generic[[]int]{}
	generics, _ := turnOf(t, Define("Generic", func() *generic[[]int] { return &generic[[]int]{} }), g, protocol.Record{Life: 1})
	if task, err := Schedule(generics, After(0), g.Typed, []int{1}); err != nil || task.Callback != "Typed" {
		t.Errorf("Schedule of a generic agent's method = %+v, %v", task, err)
	}
}

func TestScheduleRefusesBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	a := &desk{}
	class := desks(nil)[0]
	full := protocol.Record{Life: 1, Seen: map[string]uint64{}}
	for i := range maxSources {
		full.Seen[protocol.ScheduleSource(protocol.OutgoingID(1, 9, i))] = 0
	}
	for _, test := range []struct {
		name   string
		when   When
		text   string
		stored protocol.Record
		want   string
	}{
		{"zero when", When{}, "x", protocol.Record{}, "wanted is agent.After, agent.At, agent.Cron or agent.Every"},
		{"negative delay", After(-time.Second), "x", protocol.Record{}, "must not be negative"},
		{"zero moment", At(time.Time{}), "x", protocol.Record{}, "not set"},
		{"moment that no clock can be armed for", At(time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC)), "x", protocol.Record{}, "2200"},
		{"delay beyond that", After(1<<63 - 1), "x", protocol.Record{}, "2200"},
		{"interval too short", Every(time.Second - 1), "x", protocol.Record{}, "1s to 365 days"},
		{"interval too long", Every(protocol.MaxInterval + 1), "x", protocol.Record{}, "1s to 365 days"},
		{"negative interval", Every(-time.Hour), "x", protocol.Record{}, "1s to 365 days"},
		{"payload over the limit", After(0), strings.Repeat("x", protocol.MaxPayload), protocol.Record{}, "at most 524288"},
		{"too many", After(0), "x", full, "4096"},
		{"bad cron line", Cron("61 * * * *"), "x", protocol.Record{}, `"61 * * * *"`},
		{"place of the fault", Cron(" 0  25 * * * "), "x", protocol.Record{}, `"0  25 * * *": hour, column 4: "25"`},
		{"date that never comes", Cron("0 0 30 2 *"), "x", protocol.Record{}, "day of month, column 5: never comes"},
		{"interval out of range", Cron("@every  1ms"), "x", protocol.Record{}, "interval, column 9: \"1ms\" must be 1s to 365 days"},
		{"cron line of seven fields", Cron("* * * * * * *"), "x", protocol.Record{}, "has 7 fields"},
		{"unknown zone", Cron("* * * * *", "Mars/Olympus"), "x", protocol.Record{}, `"Mars/Olympus"`},
		{"two zones", Cron("* * * * *", "UTC", "UTC"), "x", protocol.Record{}, "one time zone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, d := turnOf(t, class, a, test.stored)
			_, err := Schedule(ctx, test.when, a.Note, test.text)
			if _, ok := errors.AsType[*ScheduleError](err); !ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Schedule = %v, want a ScheduleError that says %s", err, test.want)
			}
			if len(d.out) != 0 {
				t.Errorf("draft has %+v, want nothing", d.out)
			}
		})
	}
	now := time.Now()
	for _, test := range []struct {
		name, field, want string
		when              When
		options           []ScheduleOption
	}{
		{"no lines", "when", "there are 0 lines", CronLines(nil), nil},
		{"second line", "when", `"0 25 * * *": hour, column 3`, CronLines([]string{"@daily", "0 25 * * *"}), nil},
		{"zero from", "from", "not set", Every(time.Hour), []ScheduleOption{From(time.Time{})}},
		{"zero until", "until", "not set", Every(time.Hour), []ScheduleOption{Until(time.Time{})}},
		{"no times", "times", "1 to 1000000", Every(time.Hour), []ScheduleOption{Times(0)}},
		{"negative times", "times", "1 to 1000000", Every(time.Hour), []ScheduleOption{Times(-1)}},
		{"too many lines", "when", "there are 33 lines; allowed are 1 to 32", CronLines(slices.Repeat([]string{"@daily"}, 33)), nil},
		{"overlong line", "when", "at most 256", Cron(strings.Repeat("1,", 130) + "1 * * * *"), nil},
		{"impossible date among lines", "when", `"0 0 31 4 *": day of month, column 5: never comes`, CronLines([]string{"@daily", "0 0 31 4 *"}), nil},
		{"zone of the machine", "when", "must not depend on the machine", Cron("@daily", "Local"), nil},
		{"moment before the first year", "at", "from 1 on", At(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)), nil},
		{"from before 1970", "from", "from 1970-01-01 on", Every(time.Hour), []ScheduleOption{From(time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC))}},
		{"from after all moments", "from", "before 2200", Every(time.Hour), []ScheduleOption{From(now.AddDate(200, 0, 0))}},
		{"from after the last moment of the line", "from", "leaves no moment", Cron("0 0 2 1 *"), []ScheduleOption{From(time.Date(2199, 6, 1, 0, 0, 0, 0, time.UTC))}},
		{"no moment between from and until", "until", "leaves no moment", Cron("0 0 1 1 *"), []ScheduleOption{
			From(time.Date(2100, 1, 2, 0, 0, 0, 0, time.UTC)), Until(time.Date(2100, 12, 31, 0, 0, 0, 0, time.UTC))}},
		{"jitter of years", "jitter", "365 days", Cron("@yearly"), []ScheduleOption{Jitter(366 * 24 * time.Hour)}},
		{"negative jitter", "jitter", "more than nothing", Every(time.Hour), []ScheduleOption{Jitter(-1)}},
		{"negative catch-up", "catch_up", "0 to 1000", Every(time.Hour), []ScheduleOption{CatchUp(-1)}},
		{"until of a date", "until", "fire more than once", At(now), []ScheduleOption{Until(now)}},
		{"jitter of a delay", "jitter", "fire more than once", After(time.Hour), []ScheduleOption{Jitter(time.Second)}},
		{"catch-up of a delay", "catch_up", "fire more than once", After(time.Hour), []ScheduleOption{CatchUp(2)}},
		{"too many times", "times", "1000000", Every(time.Hour), []ScheduleOption{Times(1_000_001)}},
		{"no jitter", "jitter", "more than nothing", Every(time.Hour), []ScheduleOption{Jitter(0)}},
		{"too much to catch up", "catch_up", "0 to 1000", Every(time.Hour), []ScheduleOption{CatchUp(1001)}},
		{"until before from", "until", "is before from", Every(time.Hour), []ScheduleOption{From(now.Add(3 * time.Hour)), Until(now.Add(2 * time.Hour))}},
		{"until that has passed", "until", "leaves no moment", Cron("@daily"), []ScheduleOption{Until(now.Add(-time.Hour))}},
		{"times of a delay", "times", "fire more than once", After(time.Hour), []ScheduleOption{Times(2)}},
		{"from of a date", "from", "fire more than once", At(now), []ScheduleOption{From(now)}},
	} {
		ctx, d := turnOf(t, class, a, protocol.Record{Life: 1})
		_, err := Schedule(ctx, test.when, a.Note, "x", test.options...)
		refused, ok := errors.AsType[*ScheduleError](err)
		if !ok || refused.Field != test.field || !strings.Contains(refused.Error(), test.want) || len(d.out) != 0 {
			t.Errorf("%s: got %v and %d drafted; want a ScheduleError about %s that says %s", test.name, err, len(d.out), test.field, test.want)
		}
	}
	ctx, d := turnOf(t, class, a, protocol.Record{Life: 1})
	if _, err := Schedule(ctx, After(0), a.Note, "x", Retry{MaxAttempts: -1}); err == nil || len(d.out) != 0 {
		t.Errorf("Schedule with a Retry that cannot be = %v, and drafted %+v; want a RetryError and nothing", err, d.out)
	}
	ctx, _ = turnOf(t, Define("Odd", func() *odd { return &odd{} }), &odd{}, protocol.Record{})
	if _, err := Schedule(ctx, After(0), (&odd{}).Take, make(chan int)); err == nil || !strings.Contains(err.Error(), "payload") {
		t.Errorf("Schedule with a payload that is no JSON = %v, want a ScheduleError", err)
	}
}

type odd struct{ Base[int] }

func (*odd) Take(context.Context, chan int) error { return nil }
