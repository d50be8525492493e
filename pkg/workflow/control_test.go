package workflow

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

func TestControlsAreStored(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	instance, incarnation := d.make("a")
	key := protocol.Key{Op: protocol.OpDo, Name: "pay", Count: 2}
	d.put(d.instance("w", "a").LogSubject(), protocol.Append{
		V: 1, ID: "x", Incarnation: incarnation, Holder: protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: incarnation},
		Entries: []protocol.Entry{{Kind: protocol.EntryStarted, Step: &key, Attempt: 1}},
	})
	inputs := map[string]bool{}
	for _, row := range []struct {
		name string
		call func(context.Context) error
		want protocol.Control
	}{
		{"pause", instance.Pause, protocol.Control{Action: protocol.ActionPause}},
		{"resume", func(ctx context.Context) error { return instance.Resume(ctx) }, protocol.Control{Action: protocol.ActionResume}},
		{"accept", func(ctx context.Context) error { return instance.Resume(ctx, AcceptDivergence()) }, protocol.Control{Action: protocol.ActionResume, Accept: true}},
		{"terminate", func(ctx context.Context) error { return instance.Terminate(ctx) }, protocol.Control{Action: protocol.ActionTerminate}},
		{"roll back", func(ctx context.Context) error { return instance.Terminate(ctx, RollbackFirst()) }, protocol.Control{Action: protocol.ActionTerminate, Rollback: true}},
		{"restart", func(ctx context.Context) error { return instance.Restart(ctx) }, protocol.Control{Action: protocol.ActionRestart}},
		{"restart from a step", func(ctx context.Context) error { return instance.Restart(ctx, FromStep(StepDo, "pay", 2)) },
			protocol.Control{Action: protocol.ActionRestart, From: &key}},
		{"delete", instance.Delete, protocol.Control{Action: protocol.ActionDelete}},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := d.stored()
			if err := row.call(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, at := d.control("a")
			if at != before+1 || d.stored() != at {
				t.Errorf("stored at %d, the stream went from %d to %d", at, before, d.stored())
			}
			if got.Sent.IsZero() || got.Input == "" || inputs[got.Input] {
				t.Errorf("control %+v: want a moment and an input of its own", got)
			}
			inputs[got.Input] = true
			if (got.From == nil) != (row.want.From == nil) || got.From != nil && *got.From != *row.want.From {
				t.Errorf("from %+v", got.From)
			}
			want := row.want
			want.V, want.Incarnation, want.Source = 1, incarnation, protocol.Source{Kind: "program", Project: "p"}
			want.Input, want.Sent, want.From = got.Input, got.Sent, got.From
			if got != want {
				t.Errorf("control is\n%+v, want\n%+v", got, want)
			}
		})
	}
}

// TestRefusedControls: each has an error that says why, and nothing is stored.
func TestRefusedControls(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	running, _ := d.make("running")
	ended, incarnation := d.make("ended")
	d.announce("ended", protocol.Done{Incarnation: incarnation, State: protocol.StateErrored})
	expired, incarnation := d.make("expired")
	d.announce("expired", protocol.Done{Incarnation: incarnation, Expires: past()})
	deleted, incarnation := d.make("deleted")
	d.announce("deleted", protocol.Done{Incarnation: incarnation, State: protocol.StateDeleted})
	gone, _ := d.make("gone")
	d.erase("gone")
	type instance = *Instance[int]
	all := map[string]func(context.Context, instance) error{
		"pause":     func(ctx context.Context, i instance) error { return i.Pause(ctx) },
		"resume":    func(ctx context.Context, i instance) error { return i.Resume(ctx) },
		"terminate": func(ctx context.Context, i instance) error { return i.Terminate(ctx) },
		"send":      func(ctx context.Context, i instance) error { return i.SendEvent(ctx, "e", 1) },
		"restart":   func(ctx context.Context, i instance) error { return i.Restart(ctx) },
		"delete":    func(ctx context.Context, i instance) error { return i.Delete(ctx) },
		"status":    func(ctx context.Context, i instance) error { _, err := i.Status(ctx); return err },
		"result":    func(ctx context.Context, i instance) error { _, err := i.Result(ctx); return err },
		"get":       func(ctx context.Context, i instance) error { _, err := d.bound().Get(ctx, i.ID()); return err },
	}
	from := func(kind StepKind, name string, count int) func(context.Context, instance) error {
		return func(ctx context.Context, i instance) error { return i.Restart(ctx, FromStep(kind, name, count)) }
	}
	before := d.stored()
	check := func(name string, i instance, call func(context.Context, instance) error, want error, says string) {
		t.Run(name+" "+i.ID(), func(t *testing.T) {
			t.Parallel()
			if err := call(t.Context(), i); !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
				t.Errorf("error is %v", err)
			}
			if d.stored() != before {
				t.Error("something is stored")
			}
		})
	}
	for name, call := range all {
		for _, i := range []instance{expired, deleted, gone} {
			if name == "status" && i != gone { // it is the log that tells it, and these have none
				continue
			}
			check(name, i, call, ErrNotFound, i.ID())
		}
	}
	for _, name := range []string{"pause", "resume", "terminate", "send"} {
		check(name, ended, all[name], ErrFinished, `instance "ended" of workflow "w": instance has ended: it is errored`)
	}
	check("from an unknown step", running, from(StepDo, "pay", 1), ErrUnknownStep, `"running" of workflow "w": the instance has no such step: do "pay", use 1`)
	check("from a bad kind", running, from("value", "pay", 1), ErrOption, "FromStep kind is value")
	check("from a bad count", running, from(StepDo, "pay", 0), ErrOption, "FromStep count is 0")
	check("from a bad name", running, from(StepDo, "a\nb", 1), protocol.ErrName, "control character")
}

// TestRestartAfterTheEnd: what has ended can begin again, and be deleted.
func TestRestartAfterTheEnd(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	ended, incarnation := d.make("ended")
	d.announce("ended", protocol.Done{Incarnation: incarnation})
	if err := ended.Restart(t.Context()); err != nil {
		t.Error(err)
	}
	if err := ended.Pause(t.Context()); err != nil {
		t.Errorf("pause of what was told to begin again: %v", err)
	}
	if err := ended.SendEvent(t.Context(), "e", 1); err != nil {
		t.Errorf("event to what was told to begin again: %v", err)
	}
	again, incarnation := d.make("again")
	d.announce("again", protocol.Done{Incarnation: incarnation})
	if err := again.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEventWithAnID(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	instance, _ := d.make("a")
	var first, second protocol.Event
	for _, into := range []*protocol.Event{&first, &second} {
		if err := instance.SendEvent(t.Context(), "paid", 7, EventID("payment 4")); err != nil {
			t.Fatal(err)
		}
		d.last(d.instance("w", "a").EventSubject(), into)
	}
	if first.Input != "payment 4" || second.Input != first.Input || first.Type != "paid" || string(first.Payload) != "7" {
		t.Errorf("events are %+v and %+v", first, second)
	}
	before := d.stored()
	for _, id := range []string{"", "#1", "=1", "a\xff", strings.Repeat("x", MaxEventID+1)} {
		if err := instance.SendEvent(t.Context(), "paid", 7, EventID(id)); !errors.Is(err, protocol.ErrName) || d.stored() != before {
			t.Errorf("id %.10q: error is %v", id, err)
		}
	}
}

// TestForeignInstanceWithoutARunner: of another project's instance the log is not read.
func TestForeignInstanceWithoutARunner(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	client := d.open("client", project.Workflow{Name: "w", ClassName: "W", ScriptName: "p"})
	bound := Bind[int, int]("w").In(client)
	instance, err := bound.Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := instance.Status(t.Context()); err != nil || s.State != Queued || s.Source.Project != "client" {
		t.Errorf("status of what nobody has begun: %+v, %v", s, err)
	}
	wake := protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: instance.incarnation}
	logged := func(id string, entries ...protocol.Entry) {
		d.put(d.instance("w", "a").LogSubject(), protocol.Append{
			V: 1, ID: id, Incarnation: instance.incarnation, Holder: wake, Runner: "r", Version: "v1", Time: time.Now(), Entries: entries,
		})
	}
	step := &protocol.Key{Op: protocol.OpDo, Name: "pay", Count: 1}
	logged("1", protocol.Entry{Kind: protocol.EntryStarted, Step: step, Attempt: 1})
	logged("2", protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpEvent, Name: "e", Count: 1}, Type: "e"}}})
	if s, err := instance.Status(t.Context()); err != nil || s.State != Waiting || s.Version != "v1" || s.Steps != nil || s.Runs != nil {
		t.Errorf("status of what waits: %+v, %v", s, err)
	}
	if err := instance.Restart(t.Context(), FromStep(StepDo, "pay", 1)); !errors.Is(err, ErrNoRunner) {
		t.Errorf("restart from a step that nobody can look for: %v", err)
	}
	logged("3", protocol.Entry{Kind: protocol.EntryClaimed, Wake: &wake})
	if s, err := instance.Status(t.Context()); err != nil || s.State != Running {
		t.Errorf("status of what runs: %+v, %v", s, err)
	}
	logged("4", protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "E", Message: "no"}, Expires: new(time.Now().Add(time.Hour))})
	if s, err := instance.Status(t.Context()); err != nil || s.State != Errored || s.Error == nil || s.Error.Name != "E" || s.Finished == nil {
		t.Errorf("status of what has ended: %+v, %v", s, err)
	}
	logged("5", protocol.Entry{Kind: protocol.EntryFailed, Expires: past()})
	if s, err := instance.Status(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("status of what has expired: %+v, %v", s, err)
	}
}

// TestEventsWaitForAPausedInstance: they are taken when it goes on, in their order, and not before.
func TestEventsWaitForAPausedInstance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.open("p", project.Workflow{Name: "w", ClassName: "W"})
	b.start(p, Define("W", func(ctx context.Context, _ Event[int]) (string, error) {
		first, err := WaitForEvent[string](ctx, "first", "e")
		second, err2 := WaitForEvent[string](ctx, "second", "e")
		return first.Payload + second.Payload, errors.Join(err, err2)
	}))
	instance, err := Bind[int, string]("w").In(p).Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	b.reaches("w", "a", "waits", func(s protocol.Status) bool { return s.State == Waiting })
	if err := instance.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.reaches("w", "a", "is paused", func(s protocol.Status) bool { return s.State == Paused })
	for _, payload := range []string{"1", "2"} {
		if err := instance.SendEvent(t.Context(), "e", payload); err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, natstest.Patience, "the events were looked at", func() bool {
		consumer, err := b.js.Consumer(t.Context(), protocol.WorkflowsStream("p", 0), protocol.ConsumerWakes(0))
		return err == nil && consumer.CachedInfo().NumAckPending == 0 && consumer.CachedInfo().NumPending == 0
	})
	if n := b.kinds("w", "a")[protocol.EntryReceived]; n != 0 {
		t.Errorf("%d events were taken by a paused instance", n)
	}
	if err := instance.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if output, err := instance.Result(t.Context()); err != nil || output != "12" {
		t.Errorf("the output is %q, %v", output, err)
	}
}
