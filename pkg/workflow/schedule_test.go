package workflow_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// record is what was started, and what was logged.
type record struct {
	mu     sync.Mutex // guards what follows
	events []workflow.Event[map[string]int]
	log    bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *record) logged(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), text)
}

// started are the events of the instances whose params have n, in the order in which they began.
func (r *record) started(n int) (events []workflow.Event[map[string]int]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Payload["n"] == n {
			events = append(events, e)
		}
	}
	return events
}

func (r *record) digest() workflow.Definition {
	return workflow.Define("Digest", func(_ context.Context, event workflow.Event[map[string]int]) (string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, event)
		return "done", nil
	})
}

// run runs a runner of the project until the returned function is called.
func (r *record) run(t *testing.T, nc *nats.Conn, schedules ...project.Schedule) (p *project.Project, stop func()) {
	t.Helper()
	return r.runAll(t, nc, []project.Workflow{{Name: "digest", ClassName: "Digest", Schedules: schedules}}, r.digest())
}

func (r *record) runAll(t *testing.T, nc *nats.Conn, workflows []project.Workflow, code ...workflow.Definition) (p *project.Project, stop func()) {
	t.Helper()
	config := project.Config{Name: "shop", Workflows: workflows}
	p, err := project.Open(t.Context(), config, project.Conn(nc), project.Logger(slog.New(slog.NewTextHandler(r, nil))))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, workflow.Runner(code...)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the runner ended with %v", err)
		}
		p.Close()
	})
	t.Cleanup(stop)
	natstest.Eventually(t, natstest.Patience, "the runner is ready", p.IsReady)
	return p, stop
}

func runScheduler(t *testing.T, nc *nats.Conn) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := scheduler.New(scheduler.Options{NC: nc, JS: natstest.JetStream(t, nc), Log: slog.New(slog.DiscardHandler)})
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the scheduler ended with %v", err)
		}
	})
}

// TestSchedulesStartInstances has a real runner and a real scheduler, and a line of every second.
func TestSchedulesStartInstances(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	runScheduler(t, server.Connect(t))
	r := new(record)
	every := project.Schedule{Cron: "* * * * * *", Zone: "Europe/Oslo", Params: json.RawMessage(`{"n": 1}`)}
	before := time.Now()
	p, stop := r.run(t, server.Connect(t), every)
	natstest.Eventually(t, natstest.Patience, "two instances have run", func() bool { return len(r.started(1)) >= 2 })
	for _, e := range r.started(1) {
		s := e.Schedule
		if s == nil || s.Cron != every.Cron || s.Zone != every.Zone || s.Planned.Before(before.Truncate(time.Second)) || s.Planned.Nanosecond() != 0 ||
			s.Actual.Before(s.Planned) || !s.Actual.Equal(e.Timestamp) || e.Workflow != "digest" {
			t.Fatalf("event %+v of schedule %+v", e, s)
		}
	}
	digest := workflow.Bind[map[string]int, string]("digest").In(p)
	if instance, err := digest.Create(t.Context(), map[string]int{"n": 7}); err != nil {
		t.Fatal(err)
	} else if _, err := instance.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := r.started(7); len(events) != 1 || events[0].Schedule != nil {
		t.Errorf("started by a program: %+v", events)
	}
	first := r.started(1)[0]
	status, err := digest.Get(t.Context(), first.InstanceID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := status.Status(t.Context()); err != nil || got.Source.Kind != "cron" || got.Source.Class != "digest" {
		t.Errorf("status %+v, error %v", got, err)
	}
	stop()

	// Another runner says something else: each moment has one instance all the same.
	every.Params = json.RawMessage(`{"n":2}`)
	_, stop = r.run(t, server.Connect(t), every)
	natstest.Eventually(t, natstest.Patience, "an instance has the new params", func() bool { return len(r.started(2)) >= 1 })
	stop()
	instances := map[time.Time]string{} // one that was stopped in the middle has begun twice
	for _, e := range append(r.started(1), r.started(2)...) {
		planned := e.Schedule.Planned
		if id, ok := instances[planned]; ok && id != e.InstanceID {
			t.Errorf("both %s and %s are of %s", id, e.InstanceID, planned)
		}
		instances[planned] = e.InstanceID
	}
	_, stop = r.run(t, server.Connect(t))
	stop()
	if n := r.logged("changed=params\n"); n != 1 {
		t.Errorf("the log says %d times that the params were changed, want 1", n)
	}
	for _, did := range []string{"created", "updated", "removed"} {
		if n := r.logged(`msg="schedule ` + did); n != 1 {
			t.Errorf("the log says %d times that a schedule was %s, want 1", n, did)
		}
	}
}

// TestScheduleOfAWorkflowThatIsGone has a workflow whose schedule has started instances when no runner was there, and the
// runner that comes next does not have it any more: its schedule goes, what was started waits for somebody who has the code, or
// is terminated.
func TestScheduleOfAWorkflowThatIsGone(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect(t)
	r := new(record)
	digest := project.Workflow{Name: "digest", ClassName: "Digest"}
	report := project.Workflow{Name: "report", ClassName: "Report", Schedules: []project.Schedule{{Cron: "* * * * * *"}}}
	_, stop := r.runAll(t, server.Connect(t), []project.Workflow{digest, report}, r.digest(),
		workflow.Define("Report", func(context.Context, workflow.Event[any]) (string, error) { return "done", nil }))
	stop()
	runScheduler(t, nc)
	js := natstest.JetStream(t, nc)
	messages := func(stream string) uint64 {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	var started string
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "an instance is started", func() bool {
		m, err := store.Last(t.Context(), protocol.WorkflowsStream("shop", 0), protocol.CreateSubjects("shop", "report"))
		if err != nil {
			return false
		}
		var create protocol.Create
		if err := json.Unmarshal(m.Data, &create); err != nil {
			t.Fatal(err)
		}
		started = create.ID
		return true
	})
	r.runAll(t, server.Connect(t), []project.Workflow{digest}, r.digest())
	if n := r.logged(`msg="schedule removed" project=shop workflow=report`); n != 1 {
		t.Errorf("the log says %d times that the schedule was removed:\n%s", n, r.log.String())
	}
	natstest.Eventually(t, natstest.Patience, "nothing is armed, and no row is left", func() bool {
		return messages(protocol.StreamClock) == 0 && messages(protocol.KVStream(protocol.SchedulesBucket("shop"))) == 0
	})
	natstest.Eventually(t, natstest.Patience, "the log tells that there is no code", func() bool {
		return r.logged("this runner has no code for a workflow") == 1
	})
	// As the skein command does.
	operator, err := project.Open(t.Context(), project.Config{Name: "shop", Workflows: []project.Workflow{report}}, project.Conn(nc))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	instance, err := workflow.Bind[any, string]("report").In(operator).Get(t.Context(), started)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := instance.Status(t.Context()); err != nil || status.State != protocol.StateQueued || status.Source.Kind != "cron" {
		t.Errorf("status %+v, error %v", status, err)
	}
	if err := instance.Terminate(t.Context()); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "it is terminated", func() bool {
		status, err := instance.Status(t.Context())
		return err == nil && status.State == protocol.StateTerminated
	})
}
