package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// house is one project with a runner on the bench's server.
type house struct {
	*bench
	name  string
	p     *project.Project
	slots int
	// goneAfter is a setting of the runner.
	goneAfter time.Duration
}

// house opens a project and makes what it needs. Workflows of its own go by their class names.
func (b *bench) house(name string, entries ...project.Workflow) *house {
	b.t.Helper()
	h := &house{bench: b, name: name, p: b.open(name, entries...), slots: 16}
	classes := map[string]string{}
	for _, w := range h.p.Config.Own() {
		classes[w.Name] = w.ClassName
	}
	if err := errors.Join(
		streams.EnsureProjects(b.t.Context(), b.js, streams.Options{}),
		streams.EnsureWorkflows(b.t.Context(), b.js, name, 1, streams.Options{}),
		streams.RegisterWorkflows(b.t.Context(), b.js, name, 1, classes),
	); err != nil {
		b.t.Fatal(err)
	}
	return h
}

func own(name string) project.Workflow { return project.Workflow{Name: name, ClassName: name} }

func from(script, name string) project.Workflow {
	return project.Workflow{Name: name, ClassName: name, ScriptName: script}
}

// serve runs a runner of the project until the returned function is called or the test ends. Every wait parks.
func (h *house) serve(definitions ...Definition) (stop func()) {
	h.t.Helper()
	code, _, err := service{definitions}.match(h.p)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r := runner.New(runner.Config{
		Settings: execution.Settings{ShortWait: -time.Hour, Hooks: execution.Hooks{Replays: true}}, Code: code, Slots: h.slots, Grace: h.grace, Linger: h.linger,
		Reader: runner.Reader{Store: h.store, Project: h.name, Shards: 1}, JS: h.js, Log: slog.New(h.log), GoneAfter: h.goneAfter,
	})
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				h.t.Errorf("runner of %s: %v", h.name, err)
			}
		}
	}
	h.t.Cleanup(stop)
	return stop
}

// begin starts an instance of a workflow of the project.
func begin[P any](h *house, workflow, id string, params P) *Instance[string] {
	h.t.Helper()
	i, err := Bind[P, string](workflow).In(h.p).Create(h.t.Context(), params, ID(id))
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// status is that of an instance of the project; ok is false if there is none.
func (h *house) status(workflow, id string) (s protocol.Status, ok bool) {
	h.t.Helper()
	s, err := runner.Reader{Store: h.store, Project: h.name, Shards: 1}.Status(h.t.Context(), workflow, id)
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		h.t.Fatal(err)
	}
	return s, err == nil
}

// until waits until an instance is as cond wants it.
func (h *house) until(workflow, id, what string, cond func(protocol.Status) bool) (last protocol.Status) {
	h.t.Helper()
	natstest.Eventually(h.t, patience, fmt.Sprintf("%s/%s/%s %s", h.name, workflow, id, what), func() bool {
		s, ok := h.status(workflow, id)
		last = s
		return ok && cond(s)
	})
	return last
}

// patience is how long it may take what must happen: these machines are small, and busy.
const patience = 2 * time.Minute

// ends waits until an instance has ended in a state.
func (h *house) ends(workflow, id string, want protocol.State) protocol.Status {
	h.t.Helper()
	s := h.until(workflow, id, "has ended", func(s protocol.Status) bool { return s.State.Finished() })
	if s.State != want {
		h.t.Fatalf("%s/%s is %s with %s, %v, want %s", workflow, id, s.State, s.Output, s.Error, want)
	}
	return s
}

// children are the ids of the instances of a workflow of the project.
func (h *house) children(workflow string) []string {
	h.t.Helper()
	stream, err := h.js.Stream(h.t.Context(), protocol.WorkflowsStream(h.name, 0))
	if err != nil {
		h.t.Fatal(err)
	}
	info, err := stream.Info(h.t.Context(), withSubjects(protocol.Instance{Project: h.name, Workflow: workflow, ID: "*"}.CreateSubject()))
	if err != nil {
		h.t.Fatal(err)
	}
	var ids []string
	for subject := range info.State.Subjects {
		i, _, err := protocol.ParseInstanceSubject(subject)
		if err != nil {
			h.t.Fatal(err)
		}
		ids = append(ids, i.ID)
	}
	return ids
}

// step is the status of a call.
func called(t testing.TB, s protocol.Status, name string) protocol.StepStatus {
	t.Helper()
	for _, step := range s.Steps {
		if step.Op == protocol.OpCall && step.Name == name {
			return step
		}
	}
	t.Fatalf("no call %q in %+v", name, s.Steps)
	return protocol.StepStatus{}
}

func asText(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
