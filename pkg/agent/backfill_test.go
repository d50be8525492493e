package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestBackfill breaks off in the middle, and the agent's host is killed: repeated, each moment fires once, in its order.
func TestBackfill(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hours := func(d *desk) {
		d.request = showLog
		d.ring = func(ctx context.Context, d *desk, _ string) error {
			m, _ := Firing(ctx)
			return d.Note(ctx, m.Planned.UTC().Format("15"))
		}
	}
	h := r.host(t, desks(hours), timings(quick))
	short, _ := h.schedule(t, r, "?cron", "x")
	all := SchedulesOf(r.program(t, project.Config{Name: testProject}))
	id := "Desk/jo/" + short
	natstest.Eventually(t, soon, "the row is there", func() bool { _, err := all.Get(t.Context(), id); return err == nil })
	callRing(t, r, short)
	if err := all.Pause(t.Context(), id, "it is backfilled all the same"); err != nil {
		t.Fatal(err)
	}
	order := Backfill{From: time.Date(2026, 11, 20, 1, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 20, 6, 59, 0, 0, time.UTC), ID: "again"}
	if planned, err := all.BackfillMoments(t.Context(), id, order); err != nil || len(planned) != 6 || !planned[0].Equal(order.From) {
		t.Errorf("moments %s, %v", planned, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := order
	first.Progress = func(done, of int) {
		if done == 2 && of == 6 {
			cancel()
		}
	}
	_, err := all.Backfill(ctx, id, first)
	if broken, ok := errors.AsType[*BackfillError](err); !ok || broken.Sent != 2 || broken.ID != "again" || !errors.Is(err, context.Canceled) {
		t.Fatalf("broken off: %v", err)
	}
	h.kill(t)
	for range 2 {
		if done, err := all.Backfill(t.Context(), id, order); err != nil || done.Sent != 6 {
			t.Fatalf("repeated: %+v, %v", done, err)
		}
	}
	h = r.host(t, desks(hours), timings(quick))
	r.inboxEmpty(t)
	h.expect(t, "/agents/desk/jo", 200, "01,02,03,04,05,06")
	// Another order fires them again, unless the schedule is gone before they come.
	stray := func(schedule string) {
		t.Helper()
		record, _ := r.record(t, "jo")
		m := firing(short, record.Life, 0, "stray")
		m.Source, m.Schedule = protocol.BackfillSource("other", schedule, order.From, order.Until), schedule
		r.mail(t, "jo", testProject, m)
		r.inboxEmpty(t)
	}
	stray(short)
	stray("cron-gone")
	h.expect(t, "/agents/desk/jo", 200, "01,02,03,04,05,06,stray")
	if got, err := all.Get(t.Context(), id); err != nil || got.Runs != 0 || got.Paused == nil {
		t.Errorf("the schedule is %+v, %v", got, err)
	}
	order.Until = time.Now().Add(time.Hour)
	_, err = all.Backfill(t.Context(), id, order)
	if refused, ok := errors.AsType[*ScheduleError](err); !ok || refused.Field != "until" || !strings.Contains(err.Error(), "in the future") {
		t.Errorf("in the future: %v", err)
	}
	if _, err := all.Backfill(t.Context(), "Desk/jo/none", order); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("of none: %v", err)
	}
}
