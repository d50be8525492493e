package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// updating lets a desk update one of its schedules by PUT, with what options are.
func updating(options func(*desk) []UpdateOption) func(*desk) {
	return func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method != http.MethodPut {
				return showLog(d, w, r)
			}
			found, err := UpdateSchedule(r.Context(), r.URL.Query().Get("id"), options(d)...)
			if err != nil {
				return err
			}
			_, err = io.WriteString(w, strconv.FormatBool(found))
			return err
		}
	}
}

func TestUpdateSchedule(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(updating(func(d *desk) []UpdateOption {
		return []UpdateOption{Every(time.Second), Calling(d.Note, "new"), Times(3), Retry{MaxAttempts: 7}}
	})))
	id, _ := h.schedule(t, r, "?cron", "old")
	var made, updated protocol.Schedule
	r.awaitRow(t, id, &made)
	for _, want := range []string{"true", "true"} { // the second one changes nothing
		if _, body := h.call(t, http.MethodPut, "/agents/desk/jo?id="+id, ""); body != want {
			t.Fatalf("updated: %s, want %s", body, want)
		}
	}
	if _, body := h.call(t, http.MethodPut, "/agents/desk/jo?id=other", ""); body != "false" {
		t.Errorf("another one: %s", body)
	}
	r.awaitRecord(t, "jo", "the row is updated", func(protocol.Record) bool {
		r.awaitRow(t, id, &updated)
		return updated.Updated != nil
	})
	if updated.ID != id || !updated.Created.Equal(made.Created) || updated.Kind != protocol.ScheduleInterval || updated.Cron != "" ||
		updated.Times != 3 || string(updated.Payload) != `"new"` || updated.Retry.MaxAttempts != 7 || updated.Origin == "" || updated.V != protocol.ScheduleVersion {
		t.Errorf("the row is %+v", updated)
	}
	if _, again := h.call(t, http.MethodPost, "/agents/desk/jo?cron", "old"); again != id {
		t.Errorf("made again, it is %s, want %s", again, id)
	}
	r.scheduler(t)
	r.awaitRecord(t, "jo", "it has fired three times, and is gone", func(p protocol.Record) bool { return len(p.Seen) == 0 })
	h.expect(t, "/agents/desk/jo", 200, "new,new,new")
}

// TestMovedDate has a firing on its way that is no more meant.
func TestMovedDate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(updating(func(*desk) []UpdateOption { return []UpdateOption{After(2 * time.Hour)} })))
	id, life := h.schedule(t, r, "", "x")
	var row protocol.Schedule
	r.awaitRow(t, id, &row)
	first := protocol.FiringNumber(*row.At)
	h.call(t, http.MethodPut, "/agents/desk/jo?id="+id, "")
	r.awaitRecord(t, "jo", "the row is moved", func(protocol.Record) bool {
		r.awaitRow(t, id, &row)
		return protocol.FiringNumber(*row.At) > first
	})
	mail := func(number uint64) {
		t.Helper()
		m := firing(id, life, 0, "x")
		m.Number = number
		r.mail(t, "jo", testProject, m)
		r.inboxEmpty(t)
	}
	mail(first)
	h.expect(t, "/agents/desk/jo", 200, "")
	mail(protocol.FiringNumber(*row.At))
	h.expect(t, "/agents/desk/jo", 200, "x")
	if record, _ := r.record(t, "jo"); len(record.Seen) != 0 {
		t.Errorf("the record knows %v", record.Seen)
	}
}

func TestUpdatesThatAreRefused(t *testing.T) {
	t.Parallel()
	a, class := &desk{}, desks(nil)[0]
	now := time.Now()
	for _, tt := range []struct {
		name, field, want string
		when              When
		options           []UpdateOption
	}{
		{"once from cron", "when", "fires once", Cron("@daily"), []UpdateOption{After(0)}},
		{"cron from once", "when", "fires once", After(time.Hour), []UpdateOption{Cron("@daily")}},
		{"zero when", "when", "wanted is", Cron("@daily"), []UpdateOption{When{}}},
		{"two whens", "when", "one is allowed", Cron("@daily"), []UpdateOption{Cron("@hourly"), Every(time.Hour)}},
		{"two callbacks", "callback", "one is allowed", Cron("@daily"), []UpdateOption{Calling(a.Note, "1"), Calling(a.Note, "2")}},
		{"line", "when", "hour, column 3", Cron("@daily"), []UpdateOption{Cron("0 25 * * *")}},
		{"interval", "when", "1s to 365 days", Cron("@daily"), []UpdateOption{Every(time.Millisecond)}},
		{"payload", "payload", "at most", Cron("@daily"), []UpdateOption{Calling(a.Note, strings.Repeat("x", protocol.MaxPayload))}},
		{"times", "times", "1 to 1000000", Cron("@daily"), []UpdateOption{Times(-1)}},
		{"times of a date", "times", "fire more than once", At(now.Add(time.Hour)), []UpdateOption{Times(2)}},
		{"until", "until", "no moment", Cron("@daily"), []UpdateOption{Until(now)}},
		{"jitter", "jitter", "365 days", Cron("@daily"), []UpdateOption{Jitter(protocol.MaxInterval + 1)}},
	} {
		ctx, d := turnOf(t, class, a, protocol.Record{Life: 1})
		task, err := Schedule(ctx, tt.when, a.Note, "x")
		if err != nil {
			t.Fatal(err)
		}
		_, err = UpdateSchedule(ctx, task.ID, tt.options...)
		refused, ok := errors.AsType[*ScheduleError](err)
		if !ok || refused.Field != tt.field || !strings.Contains(refused.Error(), tt.want) || len(d.out) != 1 {
			t.Errorf("%s: got %v and %d drafted; want a ScheduleError about %s that says %s", tt.name, err, len(d.out), tt.field, tt.want)
		}
	}
	ctx, d := turnOf(t, class, a, protocol.Record{Life: 1})
	task, err := Schedule(ctx, Cron("@daily"), a.Note, "x", Until(now.Add(time.Hour*48)), Times(3), Jitter(time.Second), CatchUp(4))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := UpdateSchedule(ctx, task.ID, Until(time.Time{}), Times(0), Jitter(0), CatchUp(1)); err != nil || len(d.out) != 2 {
		t.Fatalf("bounds are taken away: %v, %d drafted", err, len(d.out))
	}
	if row := d.out[1].Schedule; row.Until != nil || row.Times != 0 || row.Jitter != 0 || row.CatchUp != nil || row.Cron != "@daily" || row.Updated == nil || row.Moved != nil {
		t.Errorf("the row is %+v", row)
	}
	if _, err := UpdateSchedule(ctx, task.ID, Calling(func(context.Context, string) error { return nil }, "x")); err == nil || len(d.out) != 2 {
		t.Errorf("a closure: %v", err)
	}
}
