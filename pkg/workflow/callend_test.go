package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// child waits until there are so many instances of a workflow of the project, and for the newest to wait. It returns its id.
func (h *house) child(workflow string, known ...string) string {
	h.t.Helper()
	var fresh []string
	natstest.Eventually(h.t, patience, fmt.Sprintf("there is an instance of %s beside %q", workflow, known), func() bool {
		fresh = slices.DeleteFunc(h.children(workflow), func(id string) bool { return slices.Contains(known, id) })
		return len(fresh) > 0
	})
	if len(fresh) > 1 {
		h.t.Fatalf("%q are instances of %s, want one", fresh, workflow)
	}
	h.until(workflow, fresh[0], "waits", func(s protocol.Status) bool { return s.State == Waiting })
	return fresh[0]
}

// get finds an instance of a workflow of the project.
func (h *house) get(workflow, id string) *Instance[string] {
	h.t.Helper()
	i, err := Bind[string, string](workflow).In(h.p).Get(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// middle calls the waiter "leaf".
func middle(ctx context.Context, _ Event[string]) (string, error) {
	return Call(ctx, "leaf", Bind[string, string]("leaf"), "")
}

// TestCallTimesOut: the error is that of a timeout, in every run, and the child ends, and what it calls.
func TestCallTimesOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("middle"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, e Event[string]) (string, error) {
		_, err := Call(ctx, "call", Bind[string, string]("middle"), "", Timeout(400*time.Millisecond))
		late, ok := errors.AsType[*TimeoutError](err)
		if !ok || !errors.Is(err, context.DeadlineExceeded) || late.Step != "call" {
			return "", fmt.Errorf("no timeout: %w", err)
		}
		got, err2 := WaitForEvent[string](ctx, "go on", "go-on")
		return got.Payload + " " + err.Error(), err2
	}), Define("middle", middle), waiter("leaf"))
	begin(h, "parent", "a", "")
	h.until("parent", "a", "waits for its event", func(s protocol.Status) bool { return s.State == Waiting && len(s.Steps) == 2 })
	id := h.children("middle")[0]
	if s := h.ends("middle", id, protocol.StateTerminated); s.Error == nil || s.Error.Name != protocol.FailureTerminated {
		t.Errorf("the child ended with %v", s.Error)
	}
	for _, leaf := range h.children("leaf") {
		h.ends("leaf", leaf, protocol.StateTerminated)
	}
	h.goOn("parent", "a", "then")
	s := h.ends("parent", "a", Complete)
	if want := fmt.Sprintf(`"then wait \"call\": instance \"%s\" of workflow \"middle\" did not end in time"`, id); string(s.Output) != want {
		t.Errorf("output %s, want %s", s.Output, want)
	}
	if n := h.children("middle"); len(n) != 1 {
		t.Errorf("a replay called again: %q", n)
	}
}

// TestGroupEndsItsCalls: a function of a group fails, and the call of another is given up: for good.
func TestGroupEndsItsCalls(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[string]) (string, error) {
		g := NewGroup(ctx)
		said := ""
		g.Go(func(ctx context.Context) error {
			_, err := Call(ctx, "call", Bind[string, string]("leaf"), "")
			failed, ok := errors.AsType[*CallError](err)
			if !ok || !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("not given up: %w", err)
			}
			said = failed.Error()
			return err
		})
		g.Go(func(ctx context.Context) error {
			if _, err := WaitForEvent[string](ctx, "fail", "fail"); err != nil {
				return err
			}
			return errors.New("no more")
		})
		failed := g.Wait()
		got, err := WaitForEvent[string](ctx, "go on", "go-on")
		return fmt.Sprintf("%v | %s | %s", failed, said, got.Payload), err
	}), waiter("leaf"))
	parent := begin(h, "parent", "a", "")
	id := h.child("leaf")
	h.must(parent.SendEvent(t.Context(), "fail", ""))
	h.ends("leaf", id, protocol.StateTerminated)
	h.until("parent", "a", "waits for its event", func(s protocol.Status) bool { return s.State == Waiting && len(s.Steps) == 3 })
	h.goOn("parent", "a", "then")
	s := h.ends("parent", "a", Complete)
	if string(s.Output) != `"no more | call \"call\": the call was given up: no more | then"` {
		t.Errorf("output %s", s.Output)
	}
	if step := called(t, s, "call"); step.State != "failed" || step.Error.Name != protocol.FailureCanceled {
		t.Errorf("the call shows %s", asText(step))
	}
	if n := h.children("leaf"); len(n) != 1 {
		t.Errorf("a replay called again: %q", n)
	}
}

// TestEndsGoDown: however an instance ends with an open call, its child ends, and the child's child.
func TestEndsGoDown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("middle"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[string]) (string, error) {
		err := Exec(ctx, "undone", func(context.Context) error { return nil },
			Compensate(func(context.Context, struct{}, error) error { return nil }))
		if err != nil {
			return "", err
		}
		go func() { _, _ = Call(ctx, "call", Bind[string, string]("middle"), "") }()
		got, err := WaitForEvent[string](ctx, "go on", "go-on")
		if got.Payload == "fail" {
			return "", errors.New("on purpose")
		}
		return "done", err
	}), Define("middle", middle), waiter("leaf"))
	var middles, leaves []string
	for _, tt := range []struct {
		name string
		end  func(i *Instance[string]) error
		want protocol.State
	}{
		{"completes", func(i *Instance[string]) error { return i.SendEvent(t.Context(), "go-on", "") }, Complete},
		{"fails", func(i *Instance[string]) error { return i.SendEvent(t.Context(), "go-on", "fail") }, Errored},
		{"is-terminated", func(i *Instance[string]) error { return i.Terminate(t.Context()) }, protocol.StateTerminated},
		{"is-undone", func(i *Instance[string]) error { return i.Terminate(t.Context(), RollbackFirst()) }, protocol.StateTerminated},
		{"is-deleted", func(i *Instance[string]) error { return i.Delete(t.Context()) }, ""},
	} {
		i := begin(h, "parent", tt.name, "")
		mid, leaf := h.child("middle", middles...), h.child("leaf", leaves...)
		middles, leaves = append(middles, mid), append(leaves, leaf)
		h.must(tt.end(i))
		h.ends("middle", mid, protocol.StateTerminated)
		h.ends("leaf", leaf, protocol.StateTerminated)
		if tt.want != "" {
			h.ends("parent", tt.name, tt.want)
		}
	}
	if n := len(h.children("middle")); n != len(middles) {
		t.Errorf("%d children, want %d", n, len(middles))
	}
}

// TestChildIsTakenAway: a child that somebody else ends or deletes fails the call.
func TestChildIsTakenAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[string]) (string, error) {
		_, err := Call(ctx, "call", Bind[string, string]("leaf"), "")
		failed, ok := errors.AsType[*InstanceError](err)
		if !ok {
			return "", fmt.Errorf("untyped: %w", err)
		}
		return failed.FailureName(), nil
	}), waiter("leaf"))
	var leaves []string
	for _, tt := range []struct {
		name, want string
		end        func(i *Instance[string]) error
	}{
		{"terminated", protocol.FailureTerminated, func(i *Instance[string]) error { return i.Terminate(t.Context()) }},
		{"deleted", protocol.FailureDeleted, func(i *Instance[string]) error { return i.Delete(t.Context()) }},
	} {
		begin(h, "parent", tt.name, "")
		leaf := h.child("leaf", leaves...)
		leaves = append(leaves, leaf)
		h.must(tt.end(h.get("leaf", leaf)))
		if s := h.ends("parent", tt.name, Complete); string(s.Output) != `"`+tt.want+`"` {
			t.Errorf("the parent of the child that is %s says %s", tt.name, s.Output)
		}
	}
}

// TestRestartOfTheParent: what is void ends, and a new child is begun; what is kept stays.
func TestRestartOfTheParent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[string]) (string, error) {
		first, err := Call(ctx, "first", Bind[string, string]("leaf"), "")
		if err != nil {
			return "", err
		}
		second, err := Call(ctx, "second", Bind[string, string]("leaf"), "")
		return first + " " + second, err
	}), waiter("leaf"))
	parent := begin(h, "parent", "a", "")
	void := h.child("leaf")
	h.must(parent.Restart(t.Context()))
	first := h.child("leaf", void)
	h.ends("leaf", void, protocol.StateTerminated)
	h.goOn("leaf", first, "one")
	second := h.child("leaf", void, first)
	h.must(parent.Restart(t.Context(), FromStep(StepCall, "second", 1)))
	third := h.child("leaf", void, first, second)
	h.ends("leaf", second, protocol.StateTerminated)
	h.goOn("leaf", third, "three")
	s := h.ends("parent", "a", Complete)
	if string(s.Output) != `"one three"` || called(t, s, "first").Callee.ID != first || called(t, s, "second").Callee.ID != third {
		t.Errorf("output %s of %s", s.Output, asText(s.Steps))
	}
	h.must(parent.Restart(t.Context(), FromStep(StepCall, "second", 1)))
	h.goOn("leaf", h.child("leaf", void, first, second, third), "four")
	natstest.Eventually(t, patience, "the parent has ended again", func() bool {
		s, _ := h.status("parent", "a")
		return s.State == Complete && string(s.Output) == `"one four"`
	})
}

// TestRestartOfTheChild: the first end counts, and a child that begins again before its end has one end.
func TestRestartOfTheChild(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("leaf"))
	h.serve(Define("parent", func(ctx context.Context, _ Event[string]) (string, error) {
		first, err := Call(ctx, "call", Bind[string, string]("leaf"), "", ID("c-1"))
		if err != nil {
			return "", err
		}
		second, err := Call(ctx, "call", Bind[string, string]("leaf"), "", ID("c-2"))
		return first + " " + second, err
	}), waiter("leaf"))
	begin(h, "parent", "a", "")
	h.child("leaf")
	child := h.get("leaf", "c-1")
	h.must(child.Restart(t.Context()))
	h.until("leaf", "c-1", "waits again", func(s protocol.Status) bool { return s.State == Waiting && s.Epoch == 1 })
	h.goOn("leaf", "c-1", "first")
	h.child("leaf", "c-1")
	h.must(child.Restart(t.Context()))
	h.until("leaf", "c-1", "waits again", func(s protocol.Status) bool { return s.State == Waiting && s.Epoch == 2 })
	h.goOn("leaf", "c-1", "again")
	h.until("leaf", "c-1", "has ended again", func(s protocol.Status) bool { return s.State == Complete && s.Epoch == 2 })
	h.goOn("leaf", "c-2", "second")
	if s := h.ends("parent", "a", Complete); string(s.Output) != `"first second"` {
		t.Errorf("output %s", s.Output)
	}
}

// TestPausedParent: its child goes on, and its end waits until the parent is resumed.
func TestPausedParent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.house("p", own("parent"), own("leaf"))
	h.serve(Define("parent", middle), waiter("leaf"))
	parent := begin(h, "parent", "a", "")
	id := h.child("leaf")
	h.must(parent.Pause(t.Context()))
	h.until("parent", "a", "is paused", func(s protocol.Status) bool { return s.State == protocol.StatePaused })
	h.goOn("leaf", id, "meanwhile")
	h.ends("leaf", id, Complete)
	h.must(parent.Resume(t.Context()))
	if s := h.ends("parent", "a", Complete); string(s.Output) != `"meanwhile"` {
		t.Errorf("output %s", s.Output)
	}
}
