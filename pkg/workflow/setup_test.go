package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// bench is one project on a server of its own.
type bench struct {
	t      testing.TB
	server *natstest.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	store  *journal.Store
	// slots, grace, linger, hearing and log are for the runners that serve starts.
	slots   int
	grace   time.Duration
	linger  time.Duration
	hearing time.Duration
	log     slog.Handler
	// concurrency limits workflows, as skein.jsonc would.
	concurrency map[string]int
	// limits are those of every workflow.
	limits engine.Limits
	// maxValue is the setting max_value_size; 0 is its default.
	maxValue int64
}

func setup(t testing.TB) *bench {
	t.Helper()
	server := natstest.Start(t)
	b := &bench{
		t: t, server: server, nc: server.Connect(t), slots: 128, grace: time.Second, linger: 50 * time.Millisecond, log: slog.NewTextHandler(t.Output(), nil),
	}
	b.js = natstest.JetStream(t, b.nc)
	var err error
	if b.store, err = journal.Open(b.nc); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureWorkflows(t.Context(), b.js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// serve runs a runner until the returned function is called or the test ends. It returns when that takes work.
func (b *bench) serve(settings execution.Settings, definitions ...Definition) (stop func()) {
	b.t.Helper()
	code, limits := map[string]runner.Code{}, map[string]engine.Limits{}
	for _, d := range definitions {
		code[d.class], limits[d.class] = d.code, b.limits
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan struct{})
	settings.Replays = true // many tests look at what a replay does
	r := runner.New(runner.Config{
		Settings: settings, Reader: b.reader(), Code: code, Slots: b.slots, Grace: b.grace, Linger: b.linger, Hearing: b.hearing,
		Ready: func() { close(ready) }, Concurrency: b.concurrency, Limits: limits, MaxValueSize: b.maxValue, JS: b.js, Log: slog.New(b.log),
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
		case <-time.After(natstest.Patience):
			b.t.Error("the runner does not stop")
		}
	}
	b.t.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(natstest.Patience):
		b.t.Fatal("the runner does not take work")
	}
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
	if _, err := b.store.Append(b.t.Context(), b.instance(class, id).Stream(), b.instance(class, id).CreateSubject(), 0, body); err != nil {
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

// stored is how many messages the project's stream has taken so far.
func (b *bench) stored() uint64 {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), protocol.WorkflowsStream("p", 0))
	if err != nil {
		b.t.Fatal(err)
	}
	return stream.CachedInfo().State.LastSeq
}

// entries is everything that the log of an instance records, oldest first.
func (b *bench) entries(class, id string) []protocol.Entry {
	b.t.Helper()
	var all []protocol.Entry
	for from, more := uint64(1), true; more; {
		page, again, err := b.store.Page(b.t.Context(), b.instance(class, id).Stream(), b.instance(class, id).LogSubject(), from, 100)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, m := range page {
			var a protocol.Append
			if err := json.Unmarshal(m.Data, &a); err != nil {
				b.t.Fatal(err)
			}
			all = append(all, a.Entries...)
			from = m.Sequence + 1
		}
		more = again
	}
	return all
}

// kinds is how often the log of an instance has each kind of entry.
func (b *bench) kinds(class, id string) map[protocol.EntryKind]int {
	n := map[protocol.EntryKind]int{}
	for _, e := range b.entries(class, id) {
		n[e.Kind]++
	}
	return n
}

// finished waits until the end of an instance is announced.
func (b *bench) finished(class, id string) protocol.Status {
	b.t.Helper()
	natstest.Eventually(b.t, natstest.Patience, class+"/"+id+" has ended", func() bool {
		_, err := b.store.Last(b.t.Context(), b.instance(class, id).Stream(), b.instance(class, id).DoneSubject())
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			b.t.Fatal(err)
		}
		return err == nil
	})
	return b.reaches(class, id, "has ended", func(s protocol.Status) bool { return s.State.Finished() })
}

func (b *bench) reaches(class, id, what string, cond func(protocol.Status) bool) protocol.Status {
	b.t.Helper()
	var last protocol.Status
	natstest.Eventually(b.t, natstest.Patience, class+"/"+id+" "+what, func() bool {
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

// errored waits for an end with an error.
func (b *bench) errored(class, id string) *protocol.Failure {
	b.t.Helper()
	s := b.finished(class, id)
	if s.State != protocol.StateErrored || s.Error == nil {
		b.t.Fatalf("%s/%s is %s with output %s, want an error", class, id, s.State, s.Output)
	}
	return s.Error
}

// run serves one workflow, runs one instance of it and returns its output.
func (b *bench) run(settings execution.Settings, code func(context.Context, Event[int]) (any, error)) string {
	b.t.Helper()
	b.serve(settings, Define("w", code))
	b.create("w", "a", 1)
	return string(b.complete("w", "a").Output)
}

// parks makes every wait park, also one that is almost over.
func parks() execution.Settings { return execution.Settings{ShortWait: -time.Hour} }
