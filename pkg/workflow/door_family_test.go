package workflow

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// echo answers with what it was started with, once it is told to.
func echo(ctx context.Context, e Event[string]) (string, error) {
	if _, err := WaitForEvent[string](ctx, "wait", "go"); err != nil {
		return "", err
	}
	return e.Payload + large("answer"), nil
}

var callee = Bind[string, string]("child")

// calls waits for a child in another project.
func calls(ctx context.Context, e Event[string]) (string, error) {
	got, err := Call(ctx, "call", callee, large(e.Payload), ID("c-"+e.Payload))
	if err != nil {
		return "", err
	}
	if want := large(e.Payload) + large("answer"); got != want {
		return "", fmt.Errorf("the child returned %d bytes, want %d", len(got), len(want))
	}
	return e.Payload, nil
}

func local(ctx context.Context, e Event[string]) (string, error) {
	return Do(ctx, "here", func(context.Context) (string, error) { return e.Payload, nil })
}

func setupFamily(t *testing.T) (b, a *tenant) {
	t.Helper()
	acc := setupAccounts(t, []string{"a", "b"}, "a:b")
	return acc.tenant("b", own("child")), acc.tenant("a", own("parent"), own("local"), from("b", "child"))
}

func create(n *tenant, workflow, id string) *Instance[string] {
	n.t.Helper()
	i, err := Bind[string, string](workflow).In(n.p).Create(n.t.Context(), id, ID(id))
	if err != nil {
		n.t.Fatal(err)
	}
	return i
}

func (n *tenant) send(workflow, id, eventType string) {
	n.t.Helper()
	i, err := Bind[string, string](workflow).In(n.p).Get(n.t.Context(), id)
	if err == nil {
		err = i.SendEvent(n.t.Context(), eventType, "")
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// posted is how much of a project waits for an answer of others.
func (n *tenant) posted() uint64 {
	n.t.Helper()
	state, err := n.p.Journal().State(n.t.Context(), protocol.PostStream(n.p.Config.Name))
	if err != nil {
		return 0
	}
	return state.Messages
}

// TestDoorCall: a workflow calls one of another account, with values that no message takes, and is told of its end.
func TestDoorCall(t *testing.T) {
	t.Parallel()
	b, a := setupFamily(t)
	b.serve(Define("child", echo))
	a.serve(Define("parent", calls), Define("local", local))
	i := create(a, "parent", "1")
	b.until("child", "c-1", "waits", func(s protocol.Status) bool { return s.State == Waiting })
	b.send("child", "c-1", "go")
	if got, err := i.Result(t.Context()); got != "1" || err != nil {
		t.Errorf("result %q, %v", got, err)
	}
	if s := b.ends("child", "c-1", Complete); s.Parent == nil || s.Parent.Project != "a" {
		t.Errorf("parent %+v", s.Parent)
	}
	// Its id is that of another's child now.
	second, err := Bind[string, string]("parent").In(a.p).Create(t.Context(), "1", ID("2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Result(t.Context()); !isA[*InstanceError](err) || !strings.Contains(err.Error(), ErrExists.Error()) {
		t.Errorf("a call of a taken id: %v", err)
	}
	natstest.Eventually(t, natstest.Patience, "all is said", func() bool { return a.posted()+b.posted() == 0 })
}

// TestDoorCallEnds: whoever does not wait any more ends its child.
func TestDoorCallEnds(t *testing.T) {
	t.Parallel()
	b, a := setupFamily(t)
	b.serve(Define("child", echo))
	a.serve(Define("parent", calls), Define("local", local))
	i := create(a, "parent", "1")
	b.until("child", "c-1", "waits", func(s protocol.Status) bool { return s.State == Waiting })
	if err := i.Terminate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.ends("child", "c-1", Terminated)
	natstest.Eventually(t, natstest.Patience, "all is said", func() bool { return a.posted()+b.posted() == 0 })
}

// TestDoorAway: while nobody of the called project is there, calls wait without holding up anything else, and so does the end of one
// that is not wanted any more; while nobody of the caller is there, ends wait.
func TestDoorAway(t *testing.T) {
	t.Parallel()
	b, a := setupFamily(t)
	b.serve(Define("child", echo))()
	a.p.Config.Settings.Slots = 2
	stop := a.serve(Define("parent", calls), Define("local", local))
	knows(a, "b")
	var waiting []*Instance[string]
	for n := range 6 {
		waiting = append(waiting, create(a, "parent", fmt.Sprint(n)))
	}
	for n := range waiting {
		a.until("parent", fmt.Sprint(n), "waits", func(s protocol.Status) bool { return s.State == Waiting })
	}
	if got, err := create(a, "local", "l").Result(t.Context()); got != "l" || err != nil {
		t.Errorf("another instance meanwhile: %q, %v", got, err)
	}
	if err := waiting[5].Terminate(t.Context()); err != nil {
		t.Error(err)
	}
	a.ends("parent", "5", Terminated)
	back := a.accounts.tenant("b", own("child"))
	back.serve(Define("child", echo))
	for n := range 5 {
		back.until("child", fmt.Sprintf("c-%d", n), "waits", func(s protocol.Status) bool { return s.State == Waiting })
	}
	back.ends("child", "c-5", Terminated)
	stop()
	for n := range 5 {
		back.send("child", fmt.Sprintf("c-%d", n), "go")
		back.ends("child", fmt.Sprintf("c-%d", n), Complete)
	}
	natstest.Eventually(t, natstest.Patience, "all ends wait", func() bool { return back.posted() >= 5 })
	again := a.accounts.tenant("a", own("parent"), own("local"), from("b", "child"))
	again.serve(Define("parent", calls), Define("local", local))
	for n := range 5 {
		if got := string(again.ends("parent", fmt.Sprint(n), Complete).Output); got != fmt.Sprintf("%q", fmt.Sprint(n)) {
			t.Errorf("parent %d returned %s", n, got)
		}
	}
	natstest.Eventually(t, natstest.Patience, "all is said", func() bool { return again.posted()+back.posted() == 0 })
}

// knows lets a project remember what another has, although that does not answer now: as it would if it had asked before.
func knows(n *tenant, of string) {
	n.t.Helper()
	n.p.Know(projectTarget(of), 1)
}

func projectTarget(of string) project.Target {
	return project.Target{Binding: "child", Project: of, Workflow: "child", Class: "child"}
}
