package execution

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// rig is one instance on a server of its own, without a runner.
type rig struct {
	t        *testing.T
	store    *journal.Store
	stream   string
	instance protocol.Instance
	created  uint64
	appends  atomic.Uint64
	nudges   atomic.Uint64
	// ended are the children that were told to end, strays those of them that nobody may know of.
	ended, strays chan engine.Call

	mu     sync.Mutex // a test sends while an execution reads
	inputs []engine.Input
}

func newRig(t *testing.T) *rig {
	t.Helper()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, stream: protocol.WorkflowsStream("p", 0), instance: protocol.Instance{Project: "p", Workflow: "w", ID: "a"},
		ended: make(chan engine.Call, 10), strays: make(chan engine.Call, 10),
	}
	var err error
	if r.store, err = journal.Open(nc); err != nil {
		t.Fatal(err)
	}
	if r.created, err = r.store.Append(t.Context(), r.stream, r.instance.CreateSubject(), 0, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs code over an empty log, without events.
func (r *rig) start(settings Settings, code func(ctx context.Context) (json.RawMessage, error)) *Execution {
	r.t.Helper()
	return r.over(settings, engine.NewHistory(r.stream, r.created, protocol.Create{}), code)
}

// sent is every event of the instance.
func (r *rig) sent() []engine.Input {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.inputs)
}

func (r *rig) nextID() string { return strconv.FormatUint(r.appends.Add(1), 10) }

// over runs code over a history.
func (r *rig) over(settings Settings, h *engine.History, code func(ctx context.Context) (json.RawMessage, error)) *Execution {
	r.t.Helper()
	x := Start(r.t.Context(), Config{
		Settings: settings, Store: r.store, Instance: r.instance, Runner: "r", Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)),
		History: h, Wake: h.Holder, NextID: r.nextID,
		Inputs: func(context.Context, uint64) ([]engine.Input, error) { return r.sent(), nil },
		Nudge: func(ctx context.Context, _ uint64) (protocol.Wake, error) {
			r.nudges.Add(1)
			sequence, err := r.store.Publish(ctx, r.instance.NudgeSubject(), nil, []byte("{}"))
			return protocol.Wake{Stream: r.stream, Sequence: sequence}, err
		},
		EndChild: func(_ context.Context, c engine.Call) error { r.ended <- c; return nil },
		EndStray: func(_ context.Context, c engine.Call) { r.strays <- c },
	}, code)
	r.t.Cleanup(func() { x.Drop(ErrSuperseded) })
	return x
}

// event waits for the next event of an execution.
func (r *rig) event(x *Execution, want EventKind) Event {
	r.t.Helper()
	select {
	case e := <-x.Events():
		if e.Kind != want {
			r.t.Fatalf("event %d: %v, want event %d", e.Kind, e.Err, want)
		}
		return e
	case <-time.After(natstest.Patience):
		r.t.Fatalf("no event, want event %d", want)
	}
	return Event{}
}

// reaches waits until the execution is in a phase.
func (r *rig) reaches(x *Execution, want phase) {
	r.t.Helper()
	natstest.Eventually(r.t, natstest.Patience, "phase "+strconv.Itoa(int(want)), func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.phase == want
	})
}

// entries is everything that the log records, oldest first.
func (r *rig) entries() []protocol.Entry {
	r.t.Helper()
	page, _, err := r.store.Page(r.t.Context(), r.stream, r.instance.LogSubject(), 1, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []protocol.Entry
	for _, m := range page {
		var a protocol.Append
		if err := json.Unmarshal(m.Data, &a); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, a.Entries...)
	}
	return all
}

func (r *rig) has(kind protocol.EntryKind, step string) bool {
	r.t.Helper()
	for _, e := range r.entries() {
		if e.Kind == kind && (step == "" || e.Step != nil && e.Step.Name == step) {
			return true
		}
	}
	return false
}

// do runs a step that may be tried once.
func do(ctx context.Context, name string, body Body) error {
	s, err := From(ctx)
	if err != nil {
		return err
	}
	step, err := s.Do(ctx, name, protocol.StepConfig{LostRuns: 1}, Code{Body: body})
	if err == nil && step.Error != nil {
		return step.Error
	}
	return err
}

func nothing(context.Context) (json.RawMessage, error) { return nil, nil }
