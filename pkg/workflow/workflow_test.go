package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// bench is one project on a server of its own.
type bench struct {
	t     testing.TB
	nc    *nats.Conn
	js    jetstream.JetStream
	store *journal.Store
}

func setup(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, nc: natstest.Start(t).Connect(t)}
	var err error
	if b.js, err = jetstream.New(b.nc); err != nil {
		t.Fatal(err)
	}
	if b.store, err = journal.Open(b.nc); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureWorkflows(t.Context(), b.js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// serve runs a runner until the returned function is called or the test ends.
func (b *bench) serve(settings execution.Settings, definitions ...Definition) (stop func()) {
	b.t.Helper()
	code := map[string]runner.Code{}
	for _, d := range definitions {
		code[d.class] = d.code
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r := runner.New(runner.Config{
		Settings: settings, Reader: b.reader(), Code: code, Slots: 128, Grace: time.Second, Linger: 50 * time.Millisecond,
		JS: b.js, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)),
	})
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("runner: %v", err)
			}
		case <-time.After(20 * time.Second):
			b.t.Error("the runner does not stop")
		}
	}
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) reader() runner.Reader { return runner.Reader{Store: b.store, Project: "p", Shards: 1} }

func (b *bench) instance(class, id string) protocol.Instance {
	return protocol.Instance{Project: "p", Workflow: class, ID: id}
}

func (b *bench) create(class, id string, params any) {
	b.t.Helper()
	raw, _ := json.Marshal(params)
	body, _ := json.Marshal(protocol.Create{V: 1, Input: uuid.NewString(), Workflow: class, ID: id, Params: raw, Created: time.Now()})
	if _, err := b.store.Append(b.t.Context(), protocol.WorkflowsStream("p"), b.instance(class, id).CreateSubject(), 0, body); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) send(class, id, eventType string, payload any) {
	b.t.Helper()
	raw, _ := json.Marshal(payload)
	body, _ := json.Marshal(protocol.Event{V: 1, Input: uuid.NewString(), Type: eventType, Payload: raw, Sent: time.Now()})
	if _, err := b.store.Publish(b.t.Context(), b.instance(class, id).EventSubject(), nil, body); err != nil {
		b.t.Fatal(err)
	}
}

// finished waits for the end of an instance.
func (b *bench) finished(class, id string) protocol.Status {
	b.t.Helper()
	return b.reaches(class, id, "has ended", func(s protocol.Status) bool { return s.State.Finished() })
}

func (b *bench) reaches(class, id, what string, cond func(protocol.Status) bool) protocol.Status {
	b.t.Helper()
	var last protocol.Status
	natstest.Eventually(b.t, 15*time.Second, class+"/"+id+" "+what, func() bool {
		s, err := b.reader().Status(b.t.Context(), class, id)
		if errors.Is(err, journal.ErrNotFound) {
			return false
		}
		if err != nil {
			b.t.Fatal(err)
		}
		last = s
		return cond(s)
	})
	return last
}

func (b *bench) complete(class, id string) protocol.Status {
	b.t.Helper()
	s := b.finished(class, id)
	if s.State != protocol.StateComplete {
		b.t.Fatalf("%s/%s is %s: %v", class, id, s.State, s.Error)
	}
	return s
}

func five(ctx context.Context, e Event[int]) (int, error) {
	n := e.Payload
	for i := range 5 {
		var err error
		if n, err = Do(ctx, fmt.Sprintf("step %d", i), func(context.Context) (int, error) { return n + 1, nil }); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func TestStepsRunInOrderAndAreRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(execution.Settings{}, Define("five", five))
	b.create("five", "a", 10)
	s := b.complete("five", "a")
	if string(s.Output) != "15" || len(s.Steps) != 5 {
		t.Errorf("output %s after %d steps, want 15 after 5", s.Output, len(s.Steps))
	}
}

func TestSleepParksAndGoesOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	runs := make(chan struct{}, 10)
	b.serve(execution.Settings{ShortWait: time.Millisecond}, Define("nap", func(ctx context.Context, _ Event[int]) (string, error) {
		runs <- struct{}{}
		if err := Sleep(ctx, "nap", 500*time.Millisecond); err != nil {
			return "", err
		}
		return "rested", nil
	}))
	b.create("nap", "a", 1)
	s := b.complete("nap", "a")
	if len(runs) != 2 || len(s.Runs) != 2 {
		t.Errorf("the function ran %d times, the log shows %d runs; want 2: it parks and goes on", len(runs), len(s.Runs))
	}
	if took := s.Finished.Sub(s.Created); took < 500*time.Millisecond {
		t.Errorf("ended after %v, before the sleep was over", took)
	}
}

func TestEventEndsWait(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		t.Run("sent "+when+" it parks", func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			wait := Define("wait", func(ctx context.Context, _ Event[int]) (string, error) {
				got, err := WaitForEvent[string](ctx, "answer", "answer")
				return got.Payload, err
			})
			b.create("wait", "a", 1)
			if when == "before" {
				b.send("wait", "a", "answer", "yes")
			}
			b.serve(execution.Settings{}, wait)
			if when == "after" {
				b.reaches("wait", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
				b.send("wait", "a", "answer", "yes")
			}
			if s := b.complete("wait", "a"); string(s.Output) != `"yes"` {
				t.Errorf("output %s, want yes", s.Output)
			}
		})
	}
}
