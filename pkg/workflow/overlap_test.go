package workflow_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/crontab"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// overlapping has for each policy a workflow that goes by its name, and that is started every few seconds: a moment that fires only after
// the next one has passed stands for both. The first instance of each waits for an event.
type overlapping struct {
	server *natstest.Server
	table  crontab.Table

	mu      sync.Mutex // guards what follows
	planned map[string][]time.Time
	first   map[string]string // id by workflow
}

const apart = 3 * time.Second

var overlapped = []protocol.Overlap{
	protocol.OverlapSkip, protocol.OverlapBufferOne, protocol.OverlapBufferAll, protocol.OverlapCancelRunning, protocol.OverlapAllowAll,
}

func (o *overlapping) define(overlap protocol.Overlap) workflow.Definition {
	return workflow.Define(string(overlap), func(ctx context.Context, event workflow.Event[any]) (string, error) {
		if o.begin(string(overlap), event.InstanceID, event.Schedule.Planned) {
			_, err := workflow.WaitForEvent[any](ctx, "go", "go")
			return "waited", err
		}
		return "", nil
	})
}

// begin notes an instance, once, and reports whether it is the first of its workflow.
func (o *overlapping) begin(name, id string, planned time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first[name] == "" {
		o.first[name] = id
	}
	if !slices.ContainsFunc(o.planned[name], planned.Equal) {
		o.planned[name] = append(o.planned[name], planned)
	}
	return o.first[name] == id
}

// moments are the planned ones of all instances of a workflow that have begun, counted from the first.
func (o *overlapping) moments(overlap protocol.Overlap) (all []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.planned[string(overlap)] {
		all = append(all, int(p.Sub(o.planned[string(overlap)][0])/apart))
	}
	return all
}

func (o *overlapping) await(t *testing.T, what string, overlap protocol.Overlap, n int) []int {
	t.Helper()
	natstest.Eventually(t, natstest.Patience, string(overlap)+": "+what, func() bool { return len(o.moments(overlap)) >= n })
	return o.moments(overlap)
}

// awaitStatus waits until what a schedule has done is as wanted.
func (o *overlapping) awaitStatus(t *testing.T, what string, overlap protocol.Overlap, wanted func(crontab.Status) bool) {
	t.Helper()
	natstest.Eventually(t, natstest.Patience, string(overlap)+": "+what, func() bool {
		all, err := o.table.List(t.Context())
		return err == nil && slices.ContainsFunc(all, func(s crontab.Status) bool { return s.Workflow == string(overlap) && wanted(s) })
	})
}

// run runs a runner until the returned function kills it: its connection is gone.
func (o *overlapping) run(t *testing.T) (p *project.Project, kill func()) {
	t.Helper()
	config := project.Config{Name: "shop"}
	var definitions []workflow.Definition
	for _, overlap := range overlapped {
		config.Workflows = append(config.Workflows, project.Workflow{Name: string(overlap), ClassName: string(overlap), Schedules: []project.Schedule{
			{Cron: "*/3 * * * * *", Overlap: overlap},
		}})
		definitions = append(definitions, o.define(overlap))
	}
	nc := o.server.Connect(t)
	p, err := project.Open(t.Context(), config, project.Conn(nc), project.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, workflow.Runner(definitions...)) }()
	kill = sync.OnceFunc(func() {
		nc.Close()
		cancel()
		<-done // an error: it has lost its connection
		p.Close()
	})
	t.Cleanup(kill)
	natstest.Eventually(t, natstest.Patience, "the runner is ready", p.IsReady)
	return p, kill
}

// TestSchedulesOverlap has instances that wait for an event while moments pass, also while no runner lives.
func TestSchedulesOverlap(t *testing.T) {
	t.Parallel()
	o := &overlapping{server: natstest.Start(t), planned: map[string][]time.Time{}, first: map[string]string{}}
	nc := o.server.Connect(t)
	s := scheduler.New(scheduler.Options{NC: nc, JS: natstest.JetStream(t, nc), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the scheduler ended with %v", err)
		}
	})
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	o.table = crontab.Table{Store: store, Project: "shop"}
	_, kill := o.run(t)
	o.awaitStatus(t, "others have begun beside the first, of each moment unless one was missed", protocol.OverlapAllowAll, func(s crontab.Status) bool {
		m := o.moments(protocol.OverlapAllowAll)
		slices.Sort(m) // a busy machine may begin them in another order
		return len(m) >= 3 && (s.Missed > 0 || slices.Equal(m[:3], []int{0, 1, 2}))
	})
	if m := o.await(t, "the first was cancelled", protocol.OverlapCancelRunning, 2); m[1] != 1 {
		t.Errorf("cancel running: instances of %v", m)
	}
	waits := func(s crontab.Status) bool { return s.Waits != nil && s.Runs == 1 && s.Skipped == 0 && s.Missed == 0 }
	o.awaitStatus(t, "a moment waits", protocol.OverlapBufferOne, waits)
	o.awaitStatus(t, "a moment waits", protocol.OverlapBufferAll, waits)
	var skipped int
	o.awaitStatus(t, "moments are skipped", protocol.OverlapSkip, func(s crontab.Status) bool {
		skipped = s.Skipped
		return s.Skipped >= 2 && s.Runs == 1
	})
	kill()
	o.awaitStatus(t, "more are skipped without a runner", protocol.OverlapSkip, func(s crontab.Status) bool { return s.Skipped > skipped && s.Runs == 1 })
	p, _ := o.run(t)
	o.mu.Lock()
	cancelled, first := o.first[string(protocol.OverlapCancelRunning)], map[string]string{}
	for _, overlap := range overlapped[:3] {
		first[string(overlap)] = o.first[string(overlap)]
		if n := len(o.planned[string(overlap)]); n != 1 {
			t.Errorf("%s: %d instances have begun while the first runs", overlap, n)
		}
	}
	o.mu.Unlock()
	for name, id := range first {
		instance, err := workflow.Bind[any, string](name).In(p).Get(t.Context(), id)
		if err == nil {
			err = instance.SendEvent(t.Context(), "go", nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if m := o.await(t, "it goes on", protocol.OverlapSkip, 2); m[1] <= skipped {
		t.Errorf("skip: instances of %v, the first %d moments were skipped", m, skipped)
	}
	if m := o.await(t, "it goes on", protocol.OverlapBufferOne, 3); m[1] != 1 || m[2] < 4 {
		t.Errorf("buffer one: instances of %v", m)
	}
	if m := o.await(t, "it goes on", protocol.OverlapBufferAll, 4); !slices.Equal(m[:4], []int{0, 1, 2, 3}) {
		t.Errorf("buffer all: instances of %v", m)
	}
	instance, err := workflow.Bind[any, string](string(protocol.OverlapCancelRunning)).In(p).Get(t.Context(), cancelled)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := instance.Status(t.Context()); err != nil || status.State != protocol.StateTerminated {
		t.Errorf("the one that was cancelled is %s, %v", status.State, err)
	}
}
