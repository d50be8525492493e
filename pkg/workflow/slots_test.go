package workflow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
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
// in the end.
func TestConcurrencyLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const limit, instances = 3, 12
	b.concurrency = map[string]int{"w": limit}
	g := &gauge{}
	full := make(chan struct{})
	code := Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		return Do(ctx, "work", func(ctx context.Context) (string, error) {
			if g.enter(e.InstanceID) == limit {
				close(full)
			}
			defer g.leave()
			select {
			case <-full: // the first ones wait for each other
			case <-ctx.Done():
			}
			return "", ctx.Err()
		})
	})
	b.serve(execution.Settings{}, code)
	b.serve(execution.Settings{}, code)
	for i := range instances {
		b.create("w", fmt.Sprint(i), "")
	}
	for i := range instances {
		b.complete("w", fmt.Sprint(i))
	}
	if g.most != limit || len(g.began) != instances {
		t.Errorf("%d instances began, %d side by side, want %d and %d", len(g.began), g.most, instances, limit)
	}
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
