package workflow_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestSchedulesOf does what operators do, with a runner and without a scheduler.
func TestSchedulesOf(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	r := new(record)
	daily := project.Schedule{Cron: "0 6 * * *", Params: json.RawMessage(`{"n":1}`)}
	p, stop := r.run(t, server.Connect(t), daily)
	ctx, all := t.Context(), workflow.SchedulesOf(p)
	id := "digest/" + protocol.CronID(daily.Cron, "")
	get := func() workflow.ScheduleStatus {
		t.Helper()
		s, err := all.Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := get(); s.Next == nil || s.Next.Hour() != 6 || string(s.Params) != `{"n":1}` || s.Paused != nil {
		t.Errorf("it is %+v", s)
	}
	for range 2 { // twice is once
		if err := all.Pause(ctx, id, "closed"); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now()
	instance, err := all.Trigger(ctx, id)
	if err != nil || !strings.HasPrefix(instance, protocol.CronID(daily.Cron, "")+"-") {
		t.Fatalf("triggered: %q, %v", instance, err)
	}
	if other, err := all.Trigger(ctx, id); err != nil || other == instance {
		t.Errorf("triggered again: %q, %v", other, err)
	}
	natstest.Eventually(t, natstest.Patience, "both instances have run", func() bool { return len(r.started(1)) == 2 })
	for _, e := range r.started(1) {
		if e.Schedule == nil || e.Schedule.Cron != daily.Cron || e.Schedule.Planned.Before(before) {
			t.Errorf("triggered: %+v of %+v", e, e.Schedule)
		}
	}
	stop()

	// A runner that has something else to say leaves it paused.
	daily.Params = json.RawMessage(`{"n":2}`)
	over := project.Schedule{Cron: "@hourly", Until: new(before.Add(-time.Hour))}
	p, _ = r.run(t, server.Connect(t), daily, over)
	if n := r.logged("level=WARN msg=\"schedule has no moment to come: its bounds have passed\" project=shop workflow=digest schedule=" + protocol.CronID(over.Cron, "")); n != 1 || r.logged("no moment to come") != 1 {
		t.Errorf("the log says %d times that a schedule is over, want 1:\n%s", n, r.log.String())
	}
	all = workflow.SchedulesOf(p)
	if s := get(); s.Paused == nil || s.Paused.Note != "closed" || s.Next != nil || string(s.Params) != `{"n":2}` {
		t.Errorf("paused: %+v", s)
	}
	if err := all.Resume(ctx, id); err != nil {
		t.Fatal(err)
	}
	if s := get(); s.Paused != nil || s.Next == nil {
		t.Errorf("resumed: %+v", s)
	}

	for name, err := range map[string]error{
		"pause": all.Pause(ctx, "digest/none", ""), "resume": all.Resume(ctx, "digest/none"),
	} {
		if !errors.Is(err, workflow.ErrNoSchedule) {
			t.Errorf("%s of none: %v", name, err)
		}
	}
	for field, err := range map[string]error{"id": all.Resume(ctx, "digest"), "note": all.Pause(ctx, id, strings.Repeat("x", protocol.MaxNote+1))} {
		if refused, ok := errors.AsType[*workflow.ScheduleError](err); !ok || refused.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestBackfillOfAWorkflow breaks off in the middle, and is repeated.
func TestBackfillOfAWorkflow(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	r := new(record)
	daily := project.Schedule{Cron: "0 6 * * *", Params: json.RawMessage(`{"n":1}`), Times: 1}
	p, _ := r.run(t, server.Connect(t), daily)
	all := workflow.SchedulesOf(p)
	id := "digest/" + protocol.CronID(daily.Cron, "")
	order := workflow.Backfill{From: time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 5, 6, 0, 0, 0, time.UTC)}
	ctx, cancel := context.WithCancel(t.Context())
	first := order
	first.Progress = func(done, _ int) {
		if done == 2 {
			cancel()
		}
	}
	_, err := all.Backfill(ctx, id, first)
	broken, ok := errors.AsType[*workflow.BackfillError](err)
	if !ok || broken.Sent != 2 || broken.Moments != 5 || broken.ID == "" {
		t.Fatalf("broken off: %v", err)
	}
	order.ID = broken.ID
	if done, err := all.Backfill(t.Context(), id, order); err != nil || done != (workflow.Backfilled{ID: broken.ID, Moments: 5, Sent: 3, There: 2}) {
		t.Fatalf("repeated: %+v, %v", done, err)
	}
	natstest.Eventually(t, natstest.Patience, "five instances have run", func() bool { return len(r.started(1)) == 5 })
	for _, e := range r.started(1) {
		planned := e.Schedule.Planned
		if planned.Before(order.From) || planned.After(order.Until) || e.InstanceID != protocol.CronInstance(protocol.CronID(daily.Cron, ""), planned) {
			t.Errorf("instance %s is of %s", e.InstanceID, planned)
		}
	}
	if s, err := all.Get(t.Context(), id); err != nil || s.Runs != 0 || s.Next == nil {
		t.Errorf("the schedule is %+v, %v", s, err)
	}
	order.From = time.Time{}
	_, err = all.BackfillMoments(t.Context(), id, order)
	if refused, ok := errors.AsType[*workflow.ScheduleError](err); !ok || refused.Field != "from" {
		t.Errorf("without from: %v", err)
	}
}
