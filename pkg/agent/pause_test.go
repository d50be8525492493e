package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fired := make(chan Moment, 4)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			id, note := r.URL.Query().Get("id"), r.URL.Query().Get("note")
			var err error
			found := true
			switch r.Method {
			case http.MethodPost:
				_, err = Schedule(r.Context(), Cron("@hourly"), d.Ring, "x")
			case http.MethodPut:
				found, err = PauseSchedule(r.Context(), id, note)
			case http.MethodDelete:
				found, err = ResumeSchedule(r.Context(), id)
			case http.MethodPatch:
				found, err = TriggerSchedule(r.Context(), id)
			}
			if err != nil || !found {
				http.Error(w, "not found", http.StatusNotFound)
				return err
			}
			tasks, err := ListSchedules(r.Context(), ScheduleFilter{})
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode(tasks)
		}
		d.ring = func(ctx context.Context, d *desk, _ string) error {
			m, _ := Firing(ctx)
			fired <- m
			return nil
		}
	}))
	do := func(method, query string) Task {
		t.Helper()
		var tasks []Task
		status, body := h.call(t, method, "/agents/desk/jo"+query, "")
		if err := json.Unmarshal([]byte(body), &tasks); err != nil || status != 200 || len(tasks) != 1 {
			t.Fatalf("answer %d %q: %v", status, body, err)
		}
		return tasks[0]
	}
	made := do(http.MethodPost, "")
	id := "?id=" + made.ID
	paused := do(http.MethodPut, id+"&note=closed")
	if paused.Paused == nil || paused.Paused.Note != "closed" || !paused.Next.IsZero() {
		t.Fatalf("paused is %+v", paused)
	}
	if again := do(http.MethodPut, id+"&note=sold"); again.Paused.Note != "sold" || !again.Paused.Since.Equal(paused.Paused.Since) {
		t.Errorf("paused again is %+v, before it was %+v", again.Paused, paused.Paused)
	}
	if got := do(http.MethodGet, ""); got.Paused == nil || got.Paused.Note != "sold" {
		t.Errorf("stored is %+v", got)
	}
	before := time.Now()
	do(http.MethodPatch, id) // also while it is paused
	select {
	case m := <-fired:
		if m.Schedule != made.ID || m.Planned.Before(before) {
			t.Errorf("triggered is %+v", m)
		}
	case <-time.After(soon):
		t.Fatal("what was triggered did not fire")
	}
	if resumed := do(http.MethodDelete, id); resumed.Paused != nil || resumed.Next.IsZero() {
		t.Errorf("resumed is %+v", resumed)
	}
	if again := do(http.MethodDelete, id); again.Paused != nil {
		t.Errorf("resumed again is %+v", again)
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
		if status, _ := h.call(t, method, "/agents/desk/jo?id=other", ""); status != 404 {
			t.Errorf("%s of another schedule = %d, want 404", method, status)
		}
	}
	ctx, d := turnOf(t, desks(nil)[0], &desk{}, protocol.Record{Life: 1})
	if _, err := PauseSchedule(ctx, made.ID, strings.Repeat("x", protocol.MaxNote+1)); err == nil || len(d.out) != 0 {
		t.Errorf("a note that is too long: %v", err)
	}
}
