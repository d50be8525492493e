package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// gauge follows how many bodies run side by side, and in which order instances began.
type gauge struct {
	mu        sync.Mutex
	now, most int
	began     []string
}

// enter returns how many have entered for the first time.
func (g *gauge) enter(id string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now++
	g.most = max(g.most, g.now)
	if !slices.Contains(g.began, id) {
		g.began = append(g.began, id)
	}
	return len(g.began)
}

func (g *gauge) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now--
}

// measured is a workflow with one step that the gauge sees.
func measured(g *gauge, body time.Duration) Definition {
	return Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		return Do(ctx, "work", func(ctx context.Context) (string, error) {
			g.enter(e.InstanceID)
			defer g.leave()
			select {
			case <-time.After(body):
			case <-ctx.Done():
			}
			return e.InstanceID, ctx.Err()
		})
	})
}

// TestConcurrencyLimit: two runners together execute as many instances as the limit says, never more, and all of them
// in the end. The first ones work until all others are seen to be queued: one too many would be seen.
func TestConcurrencyLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const limit, instances = 3, 12
	b.concurrency = map[string]int{"w": limit}
	ids := make([]string, instances)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	h := b.held(ids...)
	b.serve(execution.Settings{}, h.definition())
	b.serve(execution.Settings{}, h.definition())
	for _, id := range ids {
		b.create("w", id, "")
	}
	for _, id := range ids {
		b.reaches("w", id, "has begun, or is queued", func(s protocol.Status) bool {
			return slices.Contains(h.sofar(), id) || s.State == protocol.StateQueued && s.Log > 0
		})
	}
	if n := len(h.sofar()); n != limit {
		t.Errorf("%d began before any had ended, want %d", n, limit)
	}
	for _, id := range ids {
		h.letGo(id)
	}
	for _, id := range ids {
		b.complete("w", id)
	}
	if h.most != limit || len(h.began) != instances {
		t.Errorf("%d instances began, %d side by side, want %d and %d", len(h.began), h.most, instances, limit)
	}
}

// TestBurstInOrder: three runners queue what was created in one burst, side by side and so in any order. It begins in the
// order of creation, as the logs tell.
func TestBurstInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.concurrency = map[string]int{"w": 1}
	const instances = 300
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	for range 3 {
		b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[string]) (string, error) {
			return Do(ctx, "work", func(context.Context) (string, error) { <-gate; return "", nil })
		}))
	}
	t.Cleanup(open)
	b.create("w", "first", "")
	b.reaches("w", "first", "has begun", func(s protocol.Status) bool { return s.State == protocol.StateRunning && s.Log > 0 })
	var creates sync.WaitGroup
	for i := range instances {
		creates.Go(func() { b.create("w", fmt.Sprint(i), "") })
	}
	creates.Wait()
	waiting := protocol.KVSubject(protocol.SlotsBucket("p"), protocol.SlotWaitKeys("w"))
	natstest.Eventually(t, natstest.Patience, "all are queued", func() bool {
		queue, err := b.store.Subjects(t.Context(), protocol.KVStream(protocol.SlotsBucket("p")), waiting, 0)
		return err == nil && len(queue.Subjects) == instances
	})
	open()
	for i := range instances {
		b.complete("w", fmt.Sprint(i))
	}
	if began := b.claims(); len(began) != instances || !slices.IsSorted(began) {
		t.Errorf("%d began, in the order of their creates %d", len(began), began)
	}
}

// claims are the creates of instances that were claimed, in the order in which they first were.
func (b *bench) claims() []uint64 {
	b.t.Helper()
	var claimed []uint64
	for from, more := uint64(1), true; more; {
		page, again, err := b.store.Page(b.t.Context(), protocol.WorkflowsStream("p", 0), "wf.p.0.log.>", from, 100)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, m := range page {
			var a protocol.Append
			if err := json.Unmarshal(m.Data, &a); err != nil {
				b.t.Fatal(err)
			}
			if slices.ContainsFunc(a.Entries, func(e protocol.Entry) bool { return e.Kind == protocol.EntryClaimed }) &&
				!slices.Contains(claimed, a.Incarnation) {
				claimed = append(claimed, a.Incarnation)
			}
			from = m.Sequence + 1
		}
		more = again
	}
	return claimed
}

// TestQueuedInOrder: who waits for a slot is queued, and begins in the order of creation.
func TestQueuedInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.concurrency = map[string]int{"w": 1}
	g := &gauge{}
	open := make(chan struct{})
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		return Do(ctx, "work", func(ctx context.Context) (string, error) {
			g.enter(e.InstanceID)
			defer g.leave()
			select {
			case <-open:
			case <-ctx.Done():
			}
			return "", ctx.Err()
		})
	}))
	var want []string
	for i := range 10 {
		id := fmt.Sprint(i)
		want = append(want, id)
		b.create("w", id, "")
		b.reaches("w", id, "is queued, or the first", func(s protocol.Status) bool {
			return s.State == protocol.StateRunning && i == 0 || s.State == protocol.StateQueued && s.Log > 0
		})
	}
	close(open)
	for _, id := range want {
		b.complete("w", id)
	}
	if !slices.Equal(g.began, want) {
		t.Errorf("began in the order %v, want %v", g.began, want)
	}
}

// TestWaitingHoldsNoSlot: an instance that waits for an event gives its slot to the next, and queues for one again.
func TestWaitingHoldsNoSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.concurrency = map[string]int{"w": 1}
	blocked, open := make(chan struct{}), make(chan struct{})
	b.serve(execution.Settings{}, Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		if e.InstanceID == "waits" {
			got, err := WaitForEvent[string](ctx, "answer", "answer")
			return got.Payload, err
		}
		return Do(ctx, "work", func(ctx context.Context) (string, error) {
			close(blocked)
			<-open
			return "worked", nil
		})
	}))
	b.create("w", "waits", "")
	b.reaches("w", "waits", "is there", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	b.create("w", "works", "")
	<-blocked
	b.send("w", "waits", "answer", "yes")
	b.reaches("w", "waits", "is queued", func(s protocol.Status) bool { return s.State == protocol.StateQueued })
	close(open)
	if got := string(b.complete("w", "waits").Output); got != `"yes"` {
		t.Errorf("the output is %s", got)
	}
	b.complete("w", "works")
}

// TestLimitTakenAway: instances that waited for a slot begin when a runner comes that knows of no limit.
func TestLimitTakenAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.concurrency = map[string]int{"w": 1}
	g := &gauge{}
	stop := b.serve(execution.Settings{}, measured(g, time.Hour))
	b.create("w", "0", "")
	b.reaches("w", "0", "is there", func(s protocol.Status) bool { return s.State == protocol.StateRunning })
	for i := 1; i < 4; i++ {
		b.create("w", fmt.Sprint(i), "")
		b.reaches("w", fmt.Sprint(i), "is queued", func(s protocol.Status) bool { return s.State == protocol.StateQueued && s.Log > 0 })
	}
	stop()
	b.concurrency = nil
	b.serve(execution.Settings{}, measured(g, time.Millisecond))
	for i := range 4 {
		b.complete("w", fmt.Sprint(i))
	}
}

// held is a workflow whose bodies wait, each for its own instance, until they are let go or told to stop.
type held struct {
	gauge
	b    *bench
	open map[string]chan struct{}
}

func (b *bench) held(ids ...string) *held {
	h := &held{b: b, open: map[string]chan struct{}{}}
	for _, id := range ids {
		h.open[id] = make(chan struct{})
	}
	return h
}

func (h *held) definition() Definition {
	return Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		return Do(ctx, "work", func(ctx context.Context) (string, error) {
			h.enter(e.InstanceID)
			defer h.leave()
			select {
			case <-h.open[e.InstanceID]:
				return e.InstanceID, nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		})
	})
}

func (h *held) letGo(id string) { close(h.open[id]) }

// begins waits until the body of an instance runs.
func (h *held) begins(id string) {
	h.b.t.Helper()
	natstest.Eventually(h.b.t, natstest.Patience, id+" begins", func() bool { return slices.Contains(h.sofar(), id) })
}

// sofar are the instances that have begun, in their order.
func (h *held) sofar() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.began)
}

// make creates an instance and waits until it is begun, or queued.
func (h *held) make(id string, queued bool) {
	h.b.t.Helper()
	h.b.create("w", id, "")
	if !queued {
		h.begins(id)
		return
	}
	h.b.reaches("w", id, "is queued", func(s protocol.Status) bool { return s.State == protocol.StateQueued && s.Log > 0 })
}

func (h *held) control(id string, action protocol.Action) {
	h.b.t.Helper()
	h.b.put(h.b.instance("w", id).ControlSubject(), protocol.Control{V: protocol.Version, Input: string(action), Action: action, Sent: time.Now()})
}

// TestSlotComesBack: whatever stops the instance that has the slot, the next one gets it. One that is stopped in the
// queue holds up nobody behind it.
func TestSlotComesBack(t *testing.T) {
	t.Parallel()
	for action, state := range map[protocol.Action]protocol.State{
		protocol.ActionPause: protocol.StatePaused, protocol.ActionTerminate: protocol.StateTerminated, protocol.ActionDelete: "",
	} {
		t.Run(string(action), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.concurrency, b.hearing = map[string]int{"w": 1}, natstest.Patience // whoever is not heard is overruled, and its body runs on
			h := b.held("a", "b", "c")
			b.serve(execution.Settings{}, h.definition())
			h.make("a", false)
			h.make("b", true)
			h.make("c", true)
			for _, id := range []string{"b", "a"} { // the one in the queue, then the one before it
				h.control(id, action)
				if action == protocol.ActionPause && id == "a" {
					h.letGo(id) // a pause waits for the body
				}
				if state != "" && id == "b" {
					b.reaches("w", id, "is "+string(state), func(s protocol.Status) bool { return s.State == state })
				}
			}
			h.begins("c")
			if action == protocol.ActionPause {
				h.control("b", protocol.ActionResume)
				b.reaches("w", "b", "is queued again", func(s protocol.Status) bool { return s.State == protocol.StateQueued })
			}
			h.letGo("c")
			b.complete("w", "c")
			if action == protocol.ActionPause {
				h.begins("b")
			}
			if h.most != 1 {
				t.Errorf("%d ran side by side", h.most)
			}
		})
	}
}

// TestLimitIsChanged: a runner that comes with another limit goes by it. Those that execute when it is lowered go on.
func TestLimitIsChanged(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, begin string
		from, to    int
	}{{"raised", "a", 1, 3}, {"lowered", "abc", 3, 1}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.concurrency = map[string]int{"w": row.from}
			h := b.held("a", "b", "c", "d", "e")
			stop := b.serve(execution.Settings{}, h.definition())
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				h.make(id, !strings.Contains(row.begin, id))
			}
			stop()
			b.concurrency = map[string]int{"w": row.to}
			h.most = 0
			b.serve(execution.Settings{}, h.definition())
			if row.to > row.from {
				h.begins("b")
				h.begins("c")
			}
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				h.begins(id)
				if id == "d" && row.to == 1 && len(h.sofar()) != 4 {
					t.Errorf("%q have begun before d has ended", h.sofar())
				}
				h.letGo(id)
				b.complete("w", id)
			}
			if want := max(row.from, row.to); h.most > want || !slices.Equal(h.began, []string{"a", "b", "c", "d", "e"}) {
				t.Errorf("%d ran side by side, in the order %q", h.most, h.began)
			}
		})
	}
}

// TestNothingIsPolled: while instances wait, for a slot or an event, their runner asks the servers for nothing but wakes,
// which is one request that stays open. What it executes it says to be in progress.
func TestNothingIsPolled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.concurrency = map[string]int{"w": 1}
	h := b.held("a", "b", "c", "d")
	b.serve(parks(), h.definition(), Define("waits", func(ctx context.Context, _ Event[string]) (string, error) {
		got, err := WaitForEvent[string](ctx, "answer", "answer")
		return got.Payload, err
	}))
	h.make("a", false)
	for _, id := range []string{"b", "c", "d"} {
		h.make(id, true)
		b.create("waits", id, "")
		b.reaches("waits", id, "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	}
	asked := make(chan *nats.Msg, 1000)
	sub, err := b.nc.ChanSubscribe(">", asked)
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "what was under way is done", func() bool {
		before := len(asked)
		<-time.After(time.Second)
		return len(asked)-before <= 2
	})
	for len(asked) > 0 {
		<-asked
	}
	<-time.After(4 * time.Second)
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	progress := 0
	for len(asked) > 0 {
		switch m := <-asked; {
		case strings.HasPrefix(m.Subject, "$JS.ACK."):
			progress++
		case strings.Contains(m.Subject, ".CONSUMER.MSG.NEXT."), strings.HasPrefix(m.Subject, "_INBOX."): // and its answer
		default:
			t.Errorf("%s: %.200s", m.Subject, m.Data)
		}
	}
	if progress == 0 {
		t.Error("the body in progress was not heard: nothing was looked at")
	}
	h.letGo("a")
	h.begins("b")
}
