package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
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

func TestMain(m *testing.M) {
	natstest.Parallel(6)
	os.Exit(m.Run())
}

// patience is how long it may take what must happen, and is no claim of a test.
const patience = natstest.Patience

// rig is one project on a server of its own.
type rig struct {
	*testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	store *journal.Store
	// shards are those of the project.
	shards int
	gate   chan struct{} // bodies of "works" wait until it is closed
}

func setup(t *testing.T) *rig { return setupShards(t, 1) }

func setupShards(t *testing.T, shards int) *rig {
	t.Helper()
	r := &rig{T: t, nc: natstest.Start(t).Connect(t), shards: shards, gate: make(chan struct{})}
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		streams.EnsureProjects(t.Context(), r.js, streams.Options{}),
		streams.EnsureWorkflows(t.Context(), r.js, "p", shards, streams.Options{}),
		streams.EnsureAgents(t.Context(), r.js, "p", streams.Options{}),
		streams.RegisterWorkflows(t.Context(), r.js, "p", shards, map[string]string{"works": "Works", "one": "One"}),
		streams.RegisterAgents(t.Context(), r.js, "p", []string{"Desk"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// serve lets a runner run until the test ends, or the returned function is called.
func (r *rig) serve() (stop func()) {
	r.Helper()
	run := runner.New(runner.Config{
		Settings: execution.Settings{ShortWait: time.Nanosecond}, Reader: runner.Reader{Store: r.store, Project: "p", Shards: r.shards},
		Slots: 64, Linger: time.Millisecond, JS: r.js, Log: slog.New(slog.NewTextHandler(r.Output(), nil)), Code: r.code(),
		Concurrency: map[string]int{"one": 1}, Grace: 2 * time.Second,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("runner: %v", err)
		}
	})
	r.Cleanup(stop)
	return stop
}

// code is what the instances do, by the name of their workflow.
func (r *rig) code() map[string]runner.Code {
	works := func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
		s, err := execution.From(ctx)
		if err != nil {
			return nil, err
		}
		_, err = s.Do(ctx, "work", protocol.StepConfig{}, execution.Code{Body: func(ctx context.Context) (json.RawMessage, error) {
			select {
			case <-r.gate:
				return json.RawMessage(`1`), nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}})
		return nil, err
	}
	return map[string]runner.Code{
		"works": works,
		"calls": func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
			s, err := execution.From(ctx)
			if err != nil {
				return nil, err
			}
			_, err = s.Call(ctx, "child", execution.Call{
				Resolve: func(context.Context, protocol.Parent) (protocol.Callee, error) {
					return protocol.Callee{Project: "p", Workflow: "works", ID: "a"}, nil
				},
				Create: func(_ context.Context, parent protocol.Parent, _ protocol.Callee) (uint64, error) {
					return r.createWith(at("works", "a"), protocol.Create{Parent: &parent}), nil
				},
			})
			return nil, err
		},
		"one": works,
		"sleeps": func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
			s, err := execution.From(ctx)
			if err != nil {
				return nil, err
			}
			return nil, s.Sleep(ctx, "nap", func(now time.Time) time.Time { return now.Add(time.Hour) })
		},
		"waits": func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
			s, err := execution.From(ctx)
			if err != nil {
				return nil, err
			}
			e, failure, err := s.WaitForEvent(ctx, "answer", "go", time.Hour)
			if failure != nil {
				return nil, failure
			}
			if err != nil {
				return nil, err
			}
			return e.Payload, nil
		},
	}
}

func at(workflow, id string) protocol.Instance {
	return protocol.Instance{Project: "p", Workflow: workflow, ID: id}
}

const stream = "WORKFLOWS_p"

// create starts an instance and returns the sequence of its create.
func (r *rig) create(i protocol.Instance) uint64 {
	r.Helper()
	return r.createWith(i, protocol.Create{})
}

func (r *rig) createWith(i protocol.Instance, c protocol.Create) uint64 {
	r.Helper()
	c.V, c.Input, c.Workflow, c.ID, c.Created = 1, uuid.NewString(), i.Workflow, i.ID, time.Now()
	sequence, err := r.store.Append(r.Context(), i.Stream(), i.CreateSubject(), 0, r.json(c))
	if err != nil {
		r.Fatal(err)
	}
	return sequence
}

// log appends to the log of an instance as whoever holds it would.
func (r *rig) log(i protocol.Instance, a protocol.Append) uint64 {
	r.Helper()
	tail := uint64(0)
	if m, err := r.store.Last(r.Context(), i.Stream(), i.LogSubject()); err == nil {
		tail = m.Sequence
	}
	a.V, a.ID, a.Runner, a.Time = 1, uuid.NewString(), "test", time.Now()
	sequence, err := r.store.Append(r.Context(), i.Stream(), i.LogSubject(), tail, r.json(a))
	if err != nil {
		r.Fatal(err)
	}
	return sequence
}

func (r *rig) publish(subject string, v any) uint64 {
	r.Helper()
	sequence, err := r.store.Publish(r.Context(), subject, nil, r.json(v))
	if err != nil {
		r.Fatal(err)
	}
	return sequence
}

// control sends a control.
func (r *rig) control(i protocol.Instance, action protocol.Action, source string) uint64 {
	r.Helper()
	return r.publish(i.ControlSubject(), protocol.Control{
		V: 1, Input: uuid.NewString(), Action: action, Sent: time.Now(), Source: protocol.Source{Kind: source},
	})
}

func (r *rig) json(v any) []byte {
	r.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		r.Fatal(err)
	}
	return body
}

// ackByHand takes what a consumer has for whoever asks, and acknowledges it as if all that follows from it were done.
func (r *rig) ackByHand(stream, consumer string) {
	r.Helper()
	c, err := r.js.Consumer(r.Context(), stream, consumer)
	if err != nil {
		r.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(patience))
	if err == nil {
		err = m.DoubleAck(r.Context())
	}
	if err != nil {
		r.Fatal(err)
	}
}

// removes removes everything that a stream holds of a subject.
func (r *rig) remove(stream, subject string) {
	r.Helper()
	m, err := r.store.Last(r.Context(), stream, subject)
	if err == nil {
		err = r.store.Purge(r.Context(), stream, subject, m.Sequence+1)
	}
	if err != nil {
		r.Fatalf("%s: %v", subject, err)
	}
}

// has reports whether a stream holds something of a subject.
func (r *rig) has(stream, subject string) bool {
	r.Helper()
	m, err := r.store.Last(r.Context(), stream, subject)
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		r.Fatal(err)
	}
	return err == nil && len(m.Data) > 0
}

// reaches waits until an instance is in a state, and what it was brought there by is acknowledged.
func (r *rig) reaches(i protocol.Instance, want protocol.State) {
	r.Helper()
	natstest.Eventually(r, patience, i.String()+" is "+string(want), func() bool {
		s, err := runner.Reader{Store: r.store, Project: "p", Shards: r.shards}.Status(r.Context(), i.Workflow, i.ID)
		return err == nil && s.State == want
	})
}

// quiesce waits until all wakes are acknowledged.
func (r *rig) quiesce() {
	r.Helper()
	for shard := range r.shards {
		for _, consumer := range []string{protocol.ConsumerWakes(shard), protocol.ConsumerControls(shard)} {
			natstest.Eventually(r, patience, "all of "+consumer+" is acknowledged", func() bool {
				c, err := r.js.Consumer(r.Context(), protocol.WorkflowsStream("p", shard), consumer)
				return err == nil && c.CachedInfo().NumAckPending == 0 && c.CachedInfo().NumPending == 0
			})
		}
	}
}

// examine runs a doctor.
func (r *rig) examine(change ...func(*Options)) ([]Finding, Report) {
	r.Helper()
	row, err := streams.LookUp(r.Context(), r.js, "p")
	if err != nil {
		r.Fatal(err)
	}
	var mu sync.Mutex // guards found
	var found []Finding
	o := Options{
		Store: r.store, Project: *row, Patience: 200 * time.Millisecond, Rate: 1_000_000, ObjectAge: 1,
		Found: func(f Finding) error {
			mu.Lock()
			defer mu.Unlock()
			found = append(found, f)
			return nil
		},
	}
	for _, f := range change {
		f(&o)
	}
	report, err := New(o).Examine(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return found, report
}

func repair(o *Options) { o.Repair = true }

func kinds(found []Finding) []Kind {
	all := make([]Kind, len(found))
	for n, f := range found {
		all[n] = f.Kind
	}
	slices.Sort(all)
	return all
}
