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

// TestSchedulesOf does what operators do, with an agent that is there.
func TestSchedulesOf(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fired := make(chan Moment, 4)
	h := r.host(t, desks(func(d *desk) {
		d.request = cancelOrShow
		d.ring = func(ctx context.Context, _ *desk, _ string) error {
			m, _ := Firing(ctx)
			fired <- m
			return nil
		}
	}))
	ctx, all := t.Context(), SchedulesOf(r.program(t, project.Config{Name: testProject}))
	short, _ := h.schedule(t, r, "?cron", "x")
	id := "Desk/jo/" + short
	natstest.Eventually(t, soon, "the row is there", func() bool { _, err := all.Get(ctx, id); return err == nil })
	list := func(filter AgentTaskFilter) (tasks []AgentTask) {
		t.Helper()
		for task, err := range all.List(ctx, filter) {
			if err != nil {
				t.Fatal(err)
			}
			tasks = append(tasks, task)
		}
		return tasks
	}
	for n, filter := range map[int]AgentTaskFilter{1: {Class: "Desk", Agent: "jo"}, 0: {Class: "Desk", Agent: "al"}} {
		if got := list(filter); len(got) != n || n == 1 && (got[0].ID != id || got[0].Agent != "jo" || got[0].Next.IsZero()) {
			t.Errorf("%+v: %+v", filter, got)
		}
	}

	for range 2 { // twice is once
		if err := all.Pause(ctx, id, "closed"); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(AgentTaskFilter{}); len(got) != 1 || got[0].Paused == nil || got[0].Paused.Note != "closed" || !got[0].Next.IsZero() {
		t.Errorf("paused: %+v", got)
	}
	before := time.Now()
	callRing(t, r, short)
	if err := all.Trigger(ctx, id); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-fired:
		if m.Schedule != short || m.Planned.Before(before.Add(-time.Millisecond)) {
			t.Errorf("triggered is %+v", m)
		}
	case <-time.After(soon):
		t.Fatal("what was triggered did not fire")
	}
	if err := all.Resume(ctx, id); err != nil {
		t.Fatal(err)
	}
	if got, err := all.Get(ctx, id); err != nil || got.Paused != nil || got.Next.IsZero() {
		t.Errorf("resumed: %+v, %v", got, err)
	}

	if err := all.Delete(ctx, id); err != nil {
		t.Fatal(err)
	}
	r.awaitRecord(t, "jo", "the agent has forgotten it", func(p protocol.Record) bool {
		_, known := p.Seen[protocol.ScheduleSource(short)]
		return !known
	})
	if got := list(AgentTaskFilter{}); len(got) != 0 {
		t.Errorf("deleted: %+v", got)
	}
	for name, err := range map[string]error{
		"pause": all.Pause(ctx, id, ""), "resume": all.Resume(ctx, id), "trigger": all.Trigger(ctx, id), "delete": all.Delete(ctx, id),
	} {
		if !errors.Is(err, ErrNoSchedule) {
			t.Errorf("%s of a schedule that is gone: %v", name, err)
		}
	}
	if _, err := all.Get(ctx, short); err == nil || !strings.Contains(err.Error(), "<class>/<agent>/<id>") {
		t.Errorf("an id that is none: %v", err)
	}
	if err := all.Pause(ctx, id, strings.Repeat("x", protocol.MaxNote+1)); err == nil || !strings.Contains(err.Error(), "note") {
		t.Errorf("a note that is too long: %v", err)
	}
}

// callRing lets a schedule call Ring, which tests can hear.
func callRing(t *testing.T, r *rig, id string) {
	t.Helper()
	bucket := bucketOf(protocol.SchedulesBucket(testProject))
	subject := bucket.subject(protocol.ScheduleKey("Desk", "jo", id))
	m, err := r.store.Last(t.Context(), bucket.stream, subject)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Replace(string(m.Data), `"callback":"Note"`, `"callback":"Ring"`, 1)
	if _, err := r.store.Append(t.Context(), bucket.stream, subject, m.Sequence, []byte(body)); err != nil {
		t.Fatal(err)
	}
}
