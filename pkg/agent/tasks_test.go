package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

func ids(tasks []Task) (ids []string) {
	for _, t := range tasks {
		ids = append(ids, t.ID)
	}
	return ids
}

// TestIdempotencyOfSchedules holds which schedules are the same, in one turn.
func TestIdempotencyOfSchedules(t *testing.T) {
	t.Parallel()
	a := &desk{}
	ctx, d := turnOf(t, desks(nil)[0], a, protocol.Record{Life: 1})
	hour, day := time.Now().Add(time.Hour), time.Now().Add(24*time.Hour)
	for _, test := range []struct {
		name          string
		first, second func() (Task, error)
		same          bool
	}{
		{"cron", func() (Task, error) { return Schedule(ctx, Cron("@hourly"), a.Note, "1") },
			func() (Task, error) { return Schedule(ctx, Cron(" @hourly "), a.Note, "1") }, true},
		{"cron, not wanted", func() (Task, error) { return Schedule(ctx, Cron("@hourly"), a.Note, "2", Idempotent(false)) },
			func() (Task, error) { return Schedule(ctx, Cron("@hourly"), a.Note, "2", Idempotent(false)) }, false},
		{"interval", func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "1") },
			func() (Task, error) { return Schedule(ctx, Every(60*time.Second), a.Note, "1") }, true},
		{"interval, another one", func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "2") },
			func() (Task, error) { return Schedule(ctx, Every(time.Hour), a.Note, "2") }, false},
		{"interval, another payload", func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "3") },
			func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "4") }, false},
		{"interval, another callback", func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "5") },
			func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Ring, "5") }, false},
		{"interval, not wanted", func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "6", Idempotent(false)) },
			func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "6", Idempotent(false)) }, false},
		{"one line of several", func() (Task, error) { return Schedule(ctx, Cron("@daily"), a.Note, "1") },
			func() (Task, error) { return Schedule(ctx, CronLines([]string{"@daily"}), a.Note, "1") }, true},
		{"several lines", func() (Task, error) { return Schedule(ctx, CronLines([]string{"@daily", "0 9  * * *"}), a.Note, "1") },
			func() (Task, error) { return Schedule(ctx, CronLines([]string{"@daily", "0 9 * * *"}), a.Note, "1") }, true},
		{"other lines", func() (Task, error) { return Schedule(ctx, CronLines([]string{"@daily", "0 9 * * *"}), a.Note, "2") },
			func() (Task, error) { return Schedule(ctx, CronLines([]string{"@daily", "0 8 * * *"}), a.Note, "2") }, false},
		{"other bounds", func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "11", Times(3)) },
			func() (Task, error) { return Schedule(ctx, Every(time.Minute), a.Note, "11", Times(4)) }, true},
		{"delay", func() (Task, error) { return Schedule(ctx, After(time.Hour), a.Note, "1") },
			func() (Task, error) { return Schedule(ctx, After(time.Hour), a.Note, "1") }, false},
		{"delay, wanted: the time is not in the key", func() (Task, error) { return Schedule(ctx, After(time.Hour), a.Note, "7", Idempotent(true)) },
			func() (Task, error) { return Schedule(ctx, After(time.Minute), a.Note, "7", Idempotent(true)) }, true},
		{"date, wanted", func() (Task, error) { return Schedule(ctx, At(hour), a.Note, "8", Idempotent(true)) },
			func() (Task, error) { return Schedule(ctx, At(day), a.Note, "8", Idempotent(true)) }, true},
		{"date, another payload", func() (Task, error) { return Schedule(ctx, At(hour), a.Note, "9", Idempotent(true)) },
			func() (Task, error) { return Schedule(ctx, At(hour), a.Note, "10", Idempotent(true)) }, false},
	} {
		before := len(d.out)
		first, err := test.first()
		if err != nil {
			t.Fatal(err)
		}
		second, err := test.second()
		if err != nil {
			t.Fatal(err)
		}
		if same := first.ID == second.ID; same != test.same || (len(d.out) == before+1) != test.same {
			t.Errorf("%s: ids %s and %s, %d drafted; want the same one: %v", test.name, first.ID, second.ID, len(d.out)-before, test.same)
		}
		if test.same && (!second.Created.Equal(first.Created) || second.Next.Sub(first.Next).Abs() > time.Minute) {
			t.Errorf("%s: got %+v the second time, want the schedule there is, %+v", test.name, second, first)
		}
	}
}

// TestLateFiringOfAnEarlierScheduleIsDropped holds that a schedule which is made again does not take what an earlier one
// of the same id has still under way.
func TestLateFiringOfAnEarlierScheduleIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) { d.request = cancelOrShow }))
	before := uint64(time.Now().Add(-time.Second).UnixMilli())
	for range 2 {
		id, life := h.schedule(t, r, "?cron", "tick")
		m := firing(id, life, 0, "late")
		m.Number = before
		r.mail(t, "jo", testProject, m)
		r.inboxEmpty(t)
		h.expect(t, "/agents/desk/jo", 200, "")
		h.call(t, http.MethodDelete, "/agents/desk/jo?id="+id, "")
	}
	once := func(at time.Time) uint64 { return firstMark(&protocol.Schedule{Kind: protocol.ScheduleDate, At: &at}) }
	past := time.Now().Add(-time.Hour)
	if once(past) != protocol.FiringNumber(past)-1 || once(time.Unix(0, 0)) != 0 {
		t.Error("the mark of a schedule of the past swallows its own firing")
	}
}

func TestListSchedules(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var filter ScheduleFilter
	now := time.Now()
	yearly := fmt.Sprintf("0 0 1 %d *", now.AddDate(0, 6, 0).Month()) // the last of all, whatever the day
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPost {
				_, err := Schedule(r.Context(), After(time.Hour), d.Note, "delay")
				_, err2 := Schedule(r.Context(), At(now.Add(2*time.Hour)), d.Note, "date", Idempotent(true))
				_, err3 := Schedule(r.Context(), Cron(yearly), d.Note, "cron")
				_, err4 := Schedule(r.Context(), Every(3*time.Hour), d.Note, "interval")
				if err := errors.Join(err, err2, err3, err4); err != nil {
					return err
				}
			}
			tasks, err := ListSchedules(r.Context(), filter)
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode(tasks)
		}
		d.ring = func(context.Context, *desk, string) error { return nil }
	}))
	get := func(method string) (tasks []Task) {
		t.Helper()
		status, body := h.call(t, method, "/agents/desk/jo", "")
		if err := json.Unmarshal([]byte(body), &tasks); err != nil || status != 200 {
			t.Fatalf("answer %d %q: %v", status, body, err)
		}
		return tasks
	}
	drafted := get(http.MethodPost)
	var kinds []string
	for _, task := range drafted {
		kinds = append(kinds, string(task.Kind))
	}
	if want := []string{"delay", "date", "interval", "cron"}; !slices.Equal(kinds, want) {
		t.Fatalf("schedules of the turn's own: %v, want %v, the next first", kinds, want)
	}
	stored := get(http.MethodGet) // from their rows
	if !slices.Equal(ids(stored), ids(drafted)) || string(stored[0].Payload) != `"delay"` || !stored[0].Next.Equal(drafted[0].Next) ||
		time.Duration(stored[2].Interval) != 3*time.Hour || stored[2].Next.Sub(stored[2].Created) != 3*time.Hour || stored[3].Cron != yearly {
		t.Errorf("stored schedules %+v, drafted were %+v", stored, drafted)
	}
	for _, test := range []struct {
		name   string
		filter ScheduleFilter
		want   []string
	}{
		{"id", ScheduleFilter{ID: stored[1].ID}, []string{stored[1].ID}},
		{"unknown id", ScheduleFilter{ID: "1.1.9"}, nil},
		{"kind", ScheduleFilter{Kind: protocol.ScheduleInterval}, []string{stored[2].ID}},
		{"from", ScheduleFilter{From: stored[1].Next}, ids(stored[1:])},
		{"to", ScheduleFilter{To: stored[1].Next}, ids(stored[:1])},
		{"both, and a kind", ScheduleFilter{From: stored[0].Next, To: stored[2].Next, Kind: protocol.ScheduleDate}, ids(stored[1:2])},
	} {
		filter = test.filter
		if got := ids(get(http.MethodGet)); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	filter = ScheduleFilter{}
	tick := protocol.Tick{V: 1, Revision: 1, Definition: "d", Planned: now, Progress: &protocol.Progress{Runs: 4, Missed: 2, Last: &now}}
	body, err := json.Marshal(tick)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Publish(t.Context(), protocol.ClockSubject(testProject, "Desk", "jo", stored[3].ID), nil, body); err != nil {
		t.Fatal(err)
	}
	if got := get(http.MethodGet); got[3].Runs != 4 || got[3].Missed != 2 || !got[3].Last.Equal(now) || got[2].Runs != 0 {
		t.Errorf("what schedules have done: %+v", got[2:])
	}
	// One that has fired for the only time has no row any more.
	bucket := bucketOf(protocol.SchedulesBucket(testProject))
	if err := removeRow(t.Context(), r.store, bucket.stream, bucket.subject(protocol.ScheduleKey("Desk", "jo", stored[0].ID))); err != nil {
		t.Fatal(err)
	}
	if got := ids(get(http.MethodGet)); !slices.Equal(got, ids(stored[1:])) {
		t.Errorf("schedules %v after one has fired, want %v", got, ids(stored[1:]))
	}
	if got := (ScheduleFilter{Kind: "moon"}).check(); got == nil {
		t.Error("an unknown kind is no mistake")
	}
	if got := (ScheduleFilter{From: now, To: now}).check(); got == nil {
		t.Error("a range that is empty is no mistake")
	}
}
