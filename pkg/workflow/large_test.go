package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestManyLargeInstances: what a runner reads of many instances at once does not fit into one answer of the server.
func TestManyLargeInstances(t *testing.T) {
	t.Parallel()
	const instances = 14
	b := setup(t)
	code := func(ctx context.Context, e Event[string]) (int, error) {
		_, err := WaitForEvent[int](ctx, "go on", "go")
		return len(e.Payload), err
	}
	stop := b.serve(execution.Settings{}, Define("w", code))
	params := strings.Repeat("x", 500<<10)
	for n := range instances {
		b.create("w", fmt.Sprint(n), params)
	}
	for n := range instances {
		b.reaches("w", fmt.Sprint(n), "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	}
	stop()
	for n := range instances {
		b.send("w", fmt.Sprint(n), "go", n)
	}
	b.serve(execution.Settings{}, Define("w", code))
	for n := range instances {
		if got := string(b.complete("w", fmt.Sprint(n)).Output); got != fmt.Sprint(len(params)) {
			t.Errorf("instance %d returned %s", n, got)
		}
	}
}

// large is a value that no message takes.
func large(name string) string { return name + strings.Repeat("x", 300<<10) }

// objectsStream is what the object store of project p holds.
func (b *bench) objectsStream() jetstream.Stream {
	b.t.Helper()
	s, err := b.js.Stream(b.t.Context(), protocol.ObjectsStream("p"))
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// TestLargeValues: params, a result, an event and the output, between two projects and over several runs.
func TestLargeValues(t *testing.T) {
	t.Parallel()
	b := setup(t)
	code := Define("W", func(ctx context.Context, e Event[string]) (string, error) {
		a, err := Do(ctx, "a", func(context.Context) (string, error) { return large("a"), nil })
		if err != nil {
			return "", err
		}
		sent, err := WaitForEvent[string](ctx, "wait", "e")
		if err != nil || e.Payload != large("params") || a != large("a") || sent.Payload != large("event") {
			return "", fmt.Errorf("got other values: %w", err)
		}
		return large("output"), nil
	})
	p := b.open("p", project.Workflow{Name: "w", ClassName: "W"})
	stop := b.start(p, code)
	client := b.open("client", project.Workflow{Name: "w", ClassName: "W", ScriptName: "p"})
	binding := Bind[string, string]("w").In(client)
	instance, err := binding.Create(t.Context(), large("params"), ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := binding.Create(t.Context(), large("others"), ID("a")); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	b.reaches("w", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	stop()
	if err := instance.SendEvent(t.Context(), "e", large("event")); err != nil {
		t.Fatal(err)
	}
	b.start(b.open("p", project.Workflow{Name: "w", ClassName: "W"}), code)
	if output, err := instance.Result(t.Context()); err != nil || output != large("output") {
		t.Fatalf("result of %d bytes, %v", len(output), err)
	}
	b.small("w", "a")
	if n := b.objectsStream().CachedInfo().State.NumSubjects; n != 8 { // what is known of each, and its content
		t.Errorf("the object store has %d subjects, want 8: what a refused create left goes with it", n)
	}
	if err := b.objectsStream().Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := instance.Status(t.Context())
	if err != nil || s.State != Complete || s.OutputObject == nil || s.OutputObject.Size != int64(len(large("output"))+2) ||
		s.Output != nil || s.ParamsObject == nil || s.Steps[0].OutputObject == nil || s.Steps[1].OutputObject == nil {
		t.Errorf("status without its objects: %+v, %v", s, err)
	}
}

// small checks that no message of an instance is large.
func (b *bench) small(class, id string) {
	b.t.Helper()
	i := b.instance(class, id)
	for _, subject := range []string{i.CreateSubject(), i.EventSubject(), i.LogSubject(), i.DoneSubject()} {
		page, _, err := b.store.Page(b.t.Context(), protocol.WorkflowsStream("p", 0), subject, 1, 100)
		if err != nil || len(page) == 0 {
			b.t.Errorf("%s has %d messages, %v", subject, len(page), err)
		}
		for _, m := range page {
			if len(m.Data) > 2<<10 {
				b.t.Errorf("%s has a message of %d bytes: %.200s", subject, len(m.Data), m.Data)
			}
		}
	}
}

// TestRunsShareWhatTheyFetched: a workflow that wakes often does not fetch its large values each time, and its log is
// read without any of them.
func TestRunsShareWhatTheyFetched(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const steps = 10
	b.serve(parks(), Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		size := 0
		for n := range steps {
			s, err := Do(ctx, fmt.Sprint(n), func(context.Context) (string, error) { return large(fmt.Sprint(n)), nil })
			if err != nil {
				return 0, err
			}
			size += len(s)
		}
		_, err := WaitForEvent[int](ctx, "wait", "e")
		return size, err
	}))
	b.create("w", "a", 1)
	b.reaches("w", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	if err := b.objectsStream().Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.send("w", "a", "e", 1)
	if output := string(b.complete("w", "a").Output); output != fmt.Sprint(steps*len(large("0"))) {
		t.Errorf("output %s", output)
	}
}

// TestValuesOfOldLogs: what was written before values had a store of their own is read as it is.
func TestValuesOfOldLogs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.create("w", "a", large("params"))
	b.send("w", "a", "e", large("event"))
	created, err := b.store.Last(t.Context(), b.instance("w", "a").Stream(), b.instance("w", "a").CreateSubject())
	if err != nil {
		t.Fatal(err)
	}
	result, _ := json.Marshal(large("a"))
	body, _ := json.Marshal(protocol.Append{
		V: 1, ID: "old", Incarnation: created.Sequence, Holder: protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: created.Sequence},
		Entries: []protocol.Entry{
			{Kind: protocol.EntryStepCompleted, Step: &protocol.Key{Op: protocol.OpDo, Name: "a", Count: 1}, Attempt: 1, Result: result},
			{Kind: protocol.EntryReleased},
		},
	})
	if _, err := b.store.Append(t.Context(), b.instance("w", "a").Stream(), b.instance("w", "a").LogSubject(), 0, body); err != nil {
		t.Fatal(err)
	}
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, e Event[string]) (bool, error) {
		a, err := Do(ctx, "a", func(context.Context) (string, error) { return "", errors.New("it ran again") })
		if err != nil {
			return false, err
		}
		sent, err := WaitForEvent[string](ctx, "wait", "e")
		return e.Payload == large("params") && a == large("a") && sent.Payload == large("event"), err
	}))
	if output := string(b.complete("w", "a").Output); output != "true" {
		t.Errorf("other values came back: %s", output)
	}
}
