package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// doorTest is one of two projects with an account each: a caller, and the owner of the door.
type doorTest struct {
	name string
	run  func(caller, owner *world)
}

// TestDoorKilled kills processes on both sides of a door with kill -9, after something is done and before whoever wanted it knows:
// it is wanted again, and was done once.
func TestDoorKilled(t *testing.T) {
	t.Parallel()
	tests := []doorTest{
		{"create stored", createStoredAtTheDoor},
		{"event stored", eventStoredAtTheDoor},
		{"start of a call stored", func(caller, owner *world) { callAtTheDoor(caller, owner, owner, testsignal.PorterStored) }},
		{"start of a call answered", func(caller, owner *world) { callAtTheDoor(caller, owner, caller, testsignal.PostAnswered) }},
		{"end of a call stored", func(caller, owner *world) { callAtTheDoor(caller, owner, caller, testsignal.PorterStored) }},
		{"end of a call answered", func(caller, owner *world) { callAtTheDoor(caller, owner, owner, testsignal.PostAnswered) }},
	}
	var projects, grants []string
	for _, test := range tests {
		caller, owner := tenants(test.name)
		projects, grants = append(projects, caller, owner), append(grants, caller+":"+owner)
	}
	s := natstest.Start(t, natstest.Accounts(t, projects, grants...))
	account := func(name string) *rig {
		return &rig{
			url: strings.Replace(s.URL(), "nats://", fmt.Sprintf("nats://%s:%s@", name, name), 1), replicas: 1,
			connect: func(t testing.TB, o ...nats.Option) *nats.Conn {
				return s.Connect(t, append(o, natstest.User(name))...)
			},
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, b := tenants(test.name)
			caller, owner := newWorld(t, account(a), a), newWorld(t, account(b), b)
			caller.calls = owner
			test.run(caller, owner)
			caller.awaitSaid()
			owner.awaitSaid()
		})
	}
}

func tenants(test string) (caller, owner string) {
	return projectName(test) + "-caller", projectName(test) + "-owner"
}

// callee is the workflow of the world that this one calls, as a program of this one's account has it.
func (w *world) callee() workflow.Bound[script, []string] {
	w.t.Helper()
	p, err := project.Open(w.t.Context(), project.Config{Name: w.name, Workflows: []project.Workflow{
		{Name: mainWorkflow, Binding: callBinding, ClassName: "Script", ScriptName: w.calls.name},
	}}, project.Conn(w.nc))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return workflow.Bind[script, []string](callBinding).In(p)
}

// posted is how much of what runners of the project have to say at doors is not noted as answered.
func (w *world) posted() uint64 {
	w.t.Helper()
	n := uint64(0)
	natstest.Ask(w.t, "what "+w.name+" has to say", func(ctx context.Context) error {
		stream, err := w.js.Stream(ctx, protocol.PostStream(w.name))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil // it is made when it is first needed
		}
		if err == nil {
			n = stream.CachedInfo().State.Msgs
		}
		return err
	})
	return n
}

func (w *world) awaitSaid() {
	w.t.Helper()
	eventually(w.t, patience, "all that "+w.name+" has to say is said", func() bool { return w.posted() == 0 })
}

// unanswered does something that needs an answer, while the process that is to give it stands still at PorterStored and is killed then.
// It returns when another process has answered.
func (w *world) unanswered(victim *process, stored func() bool, do func() error) {
	w.t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	victim.awaitSignal(w.t, testsignal.PorterStored)
	if !stored() {
		w.t.Error("nothing is stored")
	}
	select {
	case err := <-done:
		w.t.Fatalf("it was answered by a process that stands still: %v", err)
	default:
	}
	victim.kill(w.t)
	w.runner(setup{})
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

// createStoredAtTheDoor: an instance is stored, and whoever wants it is not told.
func createStoredAtTheDoor(caller, owner *world) {
	s := ops(do("x"), wait("first", "go"))
	victim := owner.runner(setup{stopAt: testsignal.PorterStored})
	callee := caller.callee()
	var created *workflow.Instance[[]string]
	owner.unanswered(victim, func() bool { return owner.trail("a").creates == 1 }, func() (err error) {
		created, err = callee.Create(caller.t.Context(), s, workflow.ID("a"))
		return err
	})
	if tr := owner.onlyChild(); tr.creates != 1 || created.Origin() != workflow.Created {
		owner.t.Errorf("%d creates are stored, and the origin is %v", tr.creates, created.Origin())
	}
	if err := created.SendEvent(caller.t.Context(), "go", "on"); err != nil {
		owner.t.Fatal(err)
	}
	owner.finish("a", s)
	owner.quiesce()
}

// eventStoredAtTheDoor: an event is stored, and whoever has sent it is not told.
func eventStoredAtTheDoor(caller, owner *world) {
	s := ops(wait("first", "go"), wait("second", "go"))
	owner.create("a", s)
	victim := owner.runner(setup{stopAt: testsignal.PorterStored})
	instance, err := caller.callee().Get(caller.t.Context(), "a")
	if err != nil {
		owner.t.Fatal(err)
	}
	owner.unanswered(victim, func() bool { return len(owner.trail("a").events) == 1 }, func() error {
		return instance.SendEvent(caller.t.Context(), "go", "once")
	})
	if events := len(owner.trail("a").events); events < 2 { // a slow answer makes the sender ask once more
		owner.t.Errorf("%d events are stored, want the one and its repetition", events)
	}
	owner.reaches("a", "waits again", func(s protocol.Status) bool { return s.State == protocol.StateWaiting && len(s.Steps) == 2 })
	if err := instance.SendEvent(caller.t.Context(), "go", "twice"); err != nil {
		owner.t.Fatal(err)
	}
	tr := owner.finish("a", s)
	if got := strings.Join(tr.output(owner.t), " "); got != "once twice" {
		owner.t.Errorf("the events that were taken are %q, want each once", got)
	}
	owner.quiesce()
}

// callAtTheDoor: a workflow of the caller calls one of the owner, and a runner of one of the two is killed at a point of that. With
// PorterStored the owner's has stored the start and the caller's the end, with PostAnswered it is the other way round.
func callAtTheDoor(caller, owner, victims *world, point string) {
	t := caller.t
	child := ops(do("x"))
	s := ops(op{Call: "call", Script: &child}, wait("after", "go"))
	mine, theirs := setup{workflows: []string{mainWorkflow}}, setup{}
	again := mine
	if victims == owner {
		again, theirs.stopAt = theirs, point
	} else {
		mine.stopAt = point
	}
	victim, other := caller.runner(mine), owner.runner(theirs)
	if victims == owner {
		victim, other = other, victim
	}
	known := map[string]*trail{}
	if victims == caller && point == testsignal.PostAnswered {
		known = startIsPosted(caller, owner, other, s)
	} else {
		caller.create("a", s)
	}
	victim.awaitSignal(t, point)
	if n := victims.posted(); point == testsignal.PostAnswered && n != 1 {
		t.Errorf("%d requests wait in %s, want the one whose answer is not noted", n, victims.name)
	}
	victim.kill(t)
	victims.runner(again)
	caller.reaches("a", "waits for what follows", func(s protocol.Status) bool { return s.State == protocol.StateWaiting && len(s.Steps) == 2 })
	caller.awaitSaid()
	owner.awaitSaid()
	caller.send("a", "go", "on")
	if n := caller.finish("a", s).count(protocol.EntryReceived); n != 2 {
		t.Errorf("%d answers and events were taken, want one of each", n)
	}
	called := owner.trails()
	maps.DeleteFunc(called, func(id string, _ *trail) bool { return known[id] != nil })
	if len(called) != 1 {
		t.Errorf("%d instances were called, want one", len(called))
	}
	for _, tr := range called {
		if tr.audit(t); tr.creates != 1 {
			t.Errorf("%d creates are stored of what was called, want one", tr.creates)
		}
	}
	caller.quiesce()
	owner.quiesce()
}

// startIsPosted creates an instance that calls one of the owner while nobody is at the door: its start is kept, and said when somebody is
// there. What there is at the door is known from an earlier call, of what is returned.
func startIsPosted(caller, owner *world, there *process, s script) map[string]*trail {
	earlier := ops(s.Ops[0])
	caller.create("earlier", earlier)
	caller.finish("earlier", earlier)
	owner.awaitSaid()
	known := owner.trails()
	there.terminate(owner.t)
	caller.create("a", s)
	eventually(caller.t, patience, "the start is posted", func() bool { return caller.posted() == 1 })
	owner.runner(setup{})
	return known
}
