package workflow

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestDoor: what a program does with instances of a project in another account it does as in one account, with the same outcomes and
// errors.
func TestDoor(t *testing.T) {
	t.Parallel()
	a := setupAccounts(t, []string{"a", "b"}, "a:b")
	b := a.tenant("b", own("w"))
	b.serve(Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		one, err := Do(ctx, "one", func(context.Context) (string, error) { return "1", nil })
		if err != nil {
			return "", err
		}
		got, err := WaitForEvent[string](ctx, "wait", "go")
		return e.Payload + one + got.Payload, err
	}))
	caller := a.tenant("a", from("b", "w"), from("b", "none"), from("c", "lost"))
	w := Bind[string, string]("w").In(caller.p)
	i, err := w.Create(t.Context(), "p", ID("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(t.Context(), "p", ID("x")); !isA[*ExistsError](err) {
		t.Errorf("a second create of the id: %v", err)
	}
	if again, err := w.Create(t.Context(), "p", ID("x"), OnExisting(ReturnExisting)); err != nil || again.Origin() != Found {
		t.Errorf("a create that takes what is there: %v", err)
	}
	if _, err := w.Get(t.Context(), "y"); !isA[*NotFoundError](err) {
		t.Errorf("get what is not there: %v", err)
	}
	b.until("w", "x", "waits", func(s protocol.Status) bool { return s.State == Waiting })
	s, err := i.Status(t.Context())
	if err != nil || s.State != Waiting || len(s.Steps) != 2 {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := i.Pause(t.Context()); err != nil {
		t.Error(err)
	}
	b.until("w", "x", "is paused", func(s protocol.Status) bool { return s.State == Paused })
	if err := errors.Join(i.Resume(t.Context()), i.SendEvent(t.Context(), "go", large("e"))); err != nil {
		t.Error(err)
	}
	got, err := i.Result(t.Context())
	if want := "p1" + large("e"); err != nil || got != want {
		t.Errorf("result of %d bytes, %v, want %d", len(got), err, len(want))
	}
	if err := i.SendEvent(t.Context(), "go", "again"); !isA[*FinishedError](err) {
		t.Errorf("an event after the end: %v", err)
	}
	if err := i.Restart(t.Context(), FromStep(StepDo, "two", 1)); !isA[*UnknownStepError](err) {
		t.Errorf("a restart from a step that is not there: %v", err)
	}
	if err := errors.Join(i.Restart(t.Context()), i.Terminate(t.Context())); err != nil {
		t.Error(err)
	}
	if _, err := i.Result(t.Context()); !isA[*InstanceError](err) {
		t.Errorf("result of what was terminated: %v", err)
	}
	told := 0
	for _, err := range i.Subscribe(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		told++
	}
	if told == 0 {
		t.Error("nothing is told of the instance")
	}
	if err := i.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if again, err := w.Create(t.Context(), large("p"), ID("x")); err != nil || again.Origin() != Created {
		t.Errorf("a create of the id of what was deleted: %v", err)
	}
	for binding, want := range map[string]string{
		"none": `binding "none": project "b" has no workflow "none", there is "w"`,
		"lost": `binding "lost": no project "c" is registered, there is none; has one of its runners ever started, and, if it has an account of its own, has it granted this one access?`,
	} {
		if _, err := Bind[string, string](binding).In(caller.p).Create(t.Context(), "p"); fmt.Sprint(err) != want {
			t.Errorf("create by %q: %v", binding, err)
		}
	}
}
