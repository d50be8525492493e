package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// patience is how long it may take what must happen, and is no claim of a test.
const patience = natstest.Patience

// rig is one project on a server of its own.
type rig struct {
	t     *testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	store *journal.Store

	gates *gates
}

// gates are those of all instances, by id.
type gates struct {
	mu sync.Mutex // guards of
	of map[string]*gate
}

// gate is where the bodies of an instance wait for the test.
type gate struct {
	arrived chan *execution.Attempt
	open    chan struct{}
	stopped chan error // why the context of a body ended that waited here
}

func setup(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, nc: natstest.Start(t).Connect(t), gates: &gates{of: map[string]*gate{}}}
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureWorkflows(t.Context(), r.js, "p", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) on(t *testing.T) *rig {
	t.Helper()
	return &rig{t: t, nc: r.nc, js: r.js, store: r.store, gates: r.gates}
}

// runner makes a runner. All waits of its instances park, at once.
func (r *rig) runner(change ...func(*Config)) *Runner {
	r.t.Helper()
	c := Config{
		Settings: execution.Settings{ShortWait: time.Nanosecond},
		Reader:   Reader{Store: r.store, Project: "p", Shards: 1}, Slots: 64, Linger: 20 * time.Millisecond, JS: r.js,
		Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)), Code: r.code(), Grace: 2 * time.Second,
	}
	for _, f := range change {
		f(&c)
	}
	return New(c)
}

// listening makes a runner that is sure to hear whoever executes an instance, however slow the machine is.
func (r *rig) listening(change ...func(*Config)) *Runner {
	r.t.Helper()
	return r.runner(append(change, func(c *Config) { c.Hearing = patience })...)
}

// serve lets a runner run until the test ends, or the returned function is called.
func (r *rig) serve(runner *Runner) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("runner: %v", err)
			}
		case <-time.After(patience):
			r.t.Error("the runner does not stop")
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// gate of an instance.
func (r *rig) gate(id string) *gate {
	r.gates.mu.Lock()
	defer r.gates.mu.Unlock()
	if r.gates.of[id] == nil {
		r.gates.of[id] = &gate{arrived: make(chan *execution.Attempt, 10), open: make(chan struct{}), stopped: make(chan error, 10)}
	}
	return r.gates.of[id]
}

// await waits for the next body.
func (g *gate) await(t *testing.T) *execution.Attempt {
	t.Helper()
	select {
	case a := <-g.arrived:
		return a
	case <-time.After(patience):
		t.Fatal("no body comes")
		return nil
	}
}

// wasStopped waits until a body is told to stop.
func (g *gate) wasStopped(t *testing.T) {
	t.Helper()
	select {
	case <-g.stopped:
	case <-time.After(patience):
		t.Error("the body was not told to stop")
	}
}

// code is what the instances do, by the name of their workflow.
func (r *rig) code() map[string]Code {
	pass := func(context.Context) (json.RawMessage, error) { return json.RawMessage(`1`), nil }
	return map[string]Code{
		"quick": func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
			for _, name := range []string{"one", "two", "three"} {
				if err := do(ctx, name, pass); err != nil {
					return nil, err
				}
			}
			return json.RawMessage(`"done"`), nil
		},
		"fails": func(context.Context, protocol.Create) (json.RawMessage, error) { return nil, errors.New("boom") },
		"sleeps": func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
			s, err := execution.From(ctx)
			if err != nil {
				return nil, err
			}
			return nil, s.Sleep(ctx, "nap", func(now time.Time) time.Time { return now.Add(time.Hour) })
		},
		"waits": func(ctx context.Context, _ protocol.Create) (json.RawMessage, error) {
			if err := do(ctx, "before", pass); err != nil {
				return nil, err
			}
			s, err := execution.From(ctx)
			if err != nil {
				return nil, err
			}
			e, failure, err := s.WaitForEvent(ctx, "answer", "go", time.Hour)
			switch {
			case failure != nil:
				return nil, failure
			case err != nil:
				return nil, err
			}
			return e.Payload, nil
		},
		"branches": func(ctx context.Context, c protocol.Create) (json.RawMessage, error) {
			s, err := execution.From(ctx)
			if err != nil {
				return nil, err
			}
			g := s.Group(ctx)
			g.Go(func(ctx context.Context) error { return do(ctx, "work", r.gate(c.ID).body) })
			g.Go(func(ctx context.Context) error { return do(ctx, "short", r.gate(c.ID+" short").body) })
			g.Go(func(ctx context.Context) error {
				s, err := execution.From(ctx)
				if err == nil {
					_, _, err = s.WaitForEvent(ctx, "answer", "go", time.Hour)
				}
				if err != nil {
					return err
				}
				return do(ctx, "next", pass)
			})
			return nil, g.Wait()
		},
		"works": func(ctx context.Context, c protocol.Create) (json.RawMessage, error) {
			if err := do(ctx, "work", r.gate(c.ID).body); err != nil {
				return nil, err
			}
			return nil, do(ctx, "after", pass)
		},
	}
}

// body waits until the gate is open, or it is told to stop.
func (g *gate) body(ctx context.Context) (json.RawMessage, error) {
	g.arrived <- execution.AttemptFrom(ctx)
	select {
	case <-g.open:
		return json.RawMessage(`"worked"`), nil
	case <-ctx.Done():
		g.stopped <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	}
}

func do(ctx context.Context, name string, body execution.Body) error {
	s, err := execution.From(ctx)
	if err != nil {
		return err
	}
	step, err := s.Do(ctx, name, protocol.StepConfig{LostRuns: 1}, execution.Code{Body: body})
	if err == nil && step.Error != nil {
		return step.Error
	}
	return err
}

func at(workflow, id string) protocol.Instance {
	return protocol.Instance{Project: "p", Workflow: workflow, ID: id}
}

// create starts an instance.
func (r *rig) create(i protocol.Instance) protocol.Instance {
	r.t.Helper()
	return r.createWith(i, protocol.Create{})
}

func (r *rig) createWith(i protocol.Instance, c protocol.Create) protocol.Instance {
	r.t.Helper()
	c.V, c.Input, c.Workflow, c.ID, c.Created = 1, uuid.NewString(), i.Workflow, i.ID, time.Now()
	if _, err := r.store.Append(r.t.Context(), i.Stream(), i.CreateSubject(), 0, r.json(c)); err != nil {
		r.t.Fatal(err)
	}
	return i
}

// begun starts an instance and waits until it is in a state.
func (r *rig) begun(i protocol.Instance, state protocol.State) protocol.Instance {
	r.t.Helper()
	r.create(i)
	r.reaches(i, state)
	return i
}

// gone waits until nothing of an instance is left that holds its id.
func (r *rig) gone(i protocol.Instance) {
	r.t.Helper()
	natstest.Eventually(r.t, patience, "the create of "+i.String()+" is gone", func() bool {
		_, err := r.store.Last(r.t.Context(), i.Stream(), i.CreateSubject())
		return errors.Is(err, journal.ErrNotFound)
	})
}

// pauseWakes holds back all inputs until the returned function is called.
func (r *rig) pauseWakes() (goOn func()) { return r.pause(protocol.ConsumerWakes(0)) }

// pause holds back what a consumer would deliver until the returned function is called.
func (r *rig) pause(name string) (goOn func()) {
	r.t.Helper()
	stream := protocol.WorkflowsStream("p", 0)
	if _, err := r.js.PauseConsumer(r.t.Context(), stream, name, time.Now().Add(time.Hour)); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		r.t.Helper()
		if _, err := r.js.ResumeConsumer(r.t.Context(), stream, name); err != nil {
			r.t.Fatal(err)
		}
	}
}

// control sends a control.
func (r *rig) control(i protocol.Instance, c protocol.Control) (sequence uint64) {
	r.t.Helper()
	c.V, c.Sent = 1, time.Now()
	if c.Input == "" {
		c.Input = uuid.NewString()
	}
	return r.publish(i.ControlSubject(), c)
}

func (r *rig) send(i protocol.Instance, eventType string) {
	r.t.Helper()
	r.publish(i.EventSubject(), protocol.Event{V: 1, Input: uuid.NewString(), Type: eventType, Payload: json.RawMessage(`"yes"`), Sent: time.Now()})
}

func (r *rig) publish(subject string, v any) (sequence uint64) {
	r.t.Helper()
	sequence, err := r.store.Publish(r.t.Context(), subject, nil, r.json(v))
	if err != nil {
		r.t.Fatal(err)
	}
	return sequence
}

func (r *rig) json(v any) []byte {
	r.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return body
}

// append adds an entry to a log as whoever holds the instance would.
func (r *rig) append(i protocol.Instance, entries ...protocol.Entry) {
	r.t.Helper()
	last := r.tail(i)
	body := r.json(protocol.Append{
		V: 1, ID: uuid.NewString(), Incarnation: last.Incarnation, Holder: last.Holder, Runner: "test", Time: time.Now(),
		Entries: entries, Mark: last.Mark, Epoch: last.Epoch,
	})
	if _, err := r.store.Append(r.t.Context(), i.Stream(), i.LogSubject(), last.sequence, body); err != nil {
		r.t.Fatal(err)
	}
}

// beginLog begins a log as the runner does that has the create.
func (r *rig) beginLog(i protocol.Instance, e protocol.Entry) {
	r.t.Helper()
	m, err := r.store.Last(r.t.Context(), i.Stream(), i.CreateSubject())
	if err == nil {
		_, err = r.store.Append(r.t.Context(), i.Stream(), i.LogSubject(), 0, r.json(protocol.Append{
			V: 1, ID: uuid.NewString(), Incarnation: m.Sequence, Holder: protocol.Wake{Stream: protocol.WorkflowsStream("p", 0), Sequence: m.Sequence},
			Runner: "test", Time: time.Now(), Entries: []protocol.Entry{e},
		}))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// appendAs adds an entry that obeys a control.
func (r *rig) appendAs(i protocol.Instance, wake protocol.Wake, mark uint64, e protocol.Entry) (sequence uint64) {
	r.t.Helper()
	last := r.tail(i)
	sequence, err := r.store.Append(r.t.Context(), i.Stream(), i.LogSubject(), last.sequence, r.json(protocol.Append{
		V: 1, ID: uuid.NewString(), Incarnation: last.Incarnation, Holder: wake, Runner: "test", Time: time.Now(),
		Entries: []protocol.Entry{e}, Mark: mark, Epoch: last.Epoch,
	}))
	if err != nil {
		r.t.Fatal(err)
	}
	return sequence
}

// logged is one message of a log.
type logged struct {
	protocol.Append
	sequence uint64
}

// logPage is how many messages the test reads at a time.
const logPage = 100

// log is everything that the log of an instance holds.
func (r *rig) log(i protocol.Instance) []logged {
	r.t.Helper()
	var all []logged
	for from, more := uint64(1), true; more; {
		page, again, err := r.store.Page(r.t.Context(), i.Stream(), i.LogSubject(), from, logPage)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, m := range page {
			l := logged{sequence: m.Sequence}
			if err := json.Unmarshal(m.Data, &l.Append); err != nil {
				r.t.Fatal(err)
			}
			all, from = append(all, l), m.Sequence+1
		}
		more = again
	}
	return all
}

func (r *rig) tail(i protocol.Instance) logged {
	r.t.Helper()
	all := r.log(i)
	if len(all) == 0 {
		r.t.Fatalf("the log of %v is empty", i)
	}
	return all[len(all)-1]
}

func (r *rig) entries(i protocol.Instance) []protocol.Entry {
	r.t.Helper()
	var all []protocol.Entry
	for _, l := range r.log(i) {
		all = append(all, l.Entries...)
	}
	return all
}

// count is how many entries of a kind the log of an instance has.
func (r *rig) count(i protocol.Instance, kind protocol.EntryKind) int {
	r.t.Helper()
	return len(slices.DeleteFunc(r.entries(i), func(e protocol.Entry) bool { return e.Kind != kind }))
}

func (r *rig) status(i protocol.Instance) protocol.Status {
	r.t.Helper()
	s, err := Reader{Store: r.store, Project: "p", Shards: 1}.Status(r.t.Context(), i.Workflow, i.ID)
	if errors.Is(err, journal.ErrNotFound) {
		return protocol.Status{}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// reaches waits until an instance is in a state; the empty one is that of none.
func (r *rig) reaches(i protocol.Instance, want protocol.State) protocol.Status {
	r.t.Helper()
	return r.until(i, fmt.Sprintf("is %q", want), func(s protocol.Status) bool { return s.State == want })
}

func (r *rig) until(i protocol.Instance, what string, cond func(protocol.Status) bool) protocol.Status {
	r.t.Helper()
	var s protocol.Status
	natstest.Eventually(r.t, patience, i.String()+" "+what, func() bool {
		s = r.status(i)
		return cond(s)
	})
	return s
}

// done are the announcements of the end of an instance.
func (r *rig) done(i protocol.Instance) []protocol.Done {
	r.t.Helper()
	page, _, err := r.store.Page(r.t.Context(), i.Stream(), i.DoneSubject(), 1, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []protocol.Done
	for _, m := range page {
		var d protocol.Done
		if err := json.Unmarshal(m.Data, &d); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// announced waits for an announcement.
func (r *rig) announced(i protocol.Instance, what string, cond func(protocol.Done) bool) (found protocol.Done) {
	r.t.Helper()
	natstest.Eventually(r.t, patience, i.String()+" is announced "+what, func() bool {
		all := r.done(i)
		n := slices.IndexFunc(all, cond)
		if n >= 0 {
			found = all[n]
		}
		return n >= 0
	})
	return found
}

// quiesce waits until all wakes of a consumer are delivered, and all but some are acked.
func (r *rig) quiesce(consumer string, but int) {
	r.t.Helper()
	natstest.Eventually(r.t, patience, "all of "+consumer+" are acked", func() bool {
		c, err := r.js.Consumer(r.t.Context(), protocol.WorkflowsStream("p", 0), consumer)
		return err == nil && c.CachedInfo().NumAckPending == but && c.CachedInfo().NumPending == 0
	})
}

// take fetches the next n messages of a consumer for the test to deliver, in its own order.
func (r *rig) take(consumer string, n int) []*held {
	r.t.Helper()
	c, err := r.js.Consumer(r.t.Context(), protocol.WorkflowsStream("p", 0), consumer)
	if err != nil {
		r.t.Fatal(err)
	}
	p, err := newPull(r.nc, c, n)
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.leave(func(*nats.Msg) {})
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var all []*held
	for ctx.Err() == nil && len(all) < n {
		err = p.take(ctx, n-len(all), func(m *nats.Msg) {
			h, err := read(m)
			if err != nil {
				r.t.Fatal(err)
			}
			all = append(all, h)
		}) // as a runner does, ask again if the server was silent
	}
	if len(all) != n {
		r.t.Fatalf("%d messages were delivered, want %d: %v", len(all), n, err)
	}
	return all
}

// again is the same wake, delivered once more.
func again(h *held) *held {
	w := h.Wake
	w.Vain = false
	return &held{Wake: w, instance: h.instance, msg: h.msg, again: true, deliveries: 2, stored: h.stored, action: h.action}
}

// plain makes an id of the name of a test.
func plain(name string) string {
	return strings.Map(func(c rune) rune {
		if c == ' ' || c == ',' {
			return '-'
		}
		return c
	}, name)
}

// yields waits until the runner that executes an instance makes room for a control: that it is stored is not enough.
func (r *rig) yields(runner *Runner, i protocol.Instance, control uint64) {
	r.t.Helper()
	natstest.Eventually(r.t, patience, i.String()+" is to make room", func() bool {
		runner.mu.Lock()
		defer runner.mu.Unlock()
		return runner.active[i] != nil && runner.active[i].Yields(control)
	})
}

// deliver has a runner that does not run decide about a wake, and waits until it is done with it.
func (r *rig) deliver(runner *Runner, h *held) {
	r.t.Helper()
	runner.mu.Lock()
	runner.hold(h)
	runner.mu.Unlock()
	runner.decideFromLeader(r.t.Context(), h)
	runner.work.Wait()
}
