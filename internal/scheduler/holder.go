package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// holder keeps the messages that are being handled: a bounded number, each with marks to the server that it is still
// worked on, and none left behind.
type holder struct {
	handlers sync.WaitGroup
	places   chan struct{}

	marker sync.WaitGroup
	quit   chan struct{}

	mu sync.Mutex // guards seen
	// seen has every message that is held, and whether a tick has passed since it came.
	seen map[jetstream.Msg]bool
}

// newHolder makes a holder that marks what it holds for longer than every.
func newHolder(every time.Duration) *holder {
	h := &holder{places: make(chan struct{}, held), quit: make(chan struct{}), seen: map[jetstream.Msg]bool{}}
	h.marker.Go(func() { h.mark(max(every, leastMark)) })
	return h
}

const leastMark = 50 * time.Millisecond

// take runs handle beside others, once there is a place for it. If ctx is done first, or was before, it takes nothing and says so:
// those that have the places may need all the time there is, and others can have the message meanwhile.
func (h *holder) take(ctx context.Context, m jetstream.Msg, handle func()) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case h.places <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	h.mu.Lock()
	h.seen[m] = false
	h.mu.Unlock()
	h.handlers.Go(func() {
		defer func() {
			h.mu.Lock()
			delete(h.seen, m)
			h.mu.Unlock()
			<-h.places
		}()
		handle()
	})
	return true
}

// close waits for what is being handled.
func (h *holder) close() {
	h.handlers.Wait()
	close(h.quit)
	h.marker.Wait()
}

func (h *holder) mark(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-h.quit:
			return
		}
		for _, m := range h.old() {
			// A mark that is lost costs at most a second delivery.
			_ = m.InProgress()
		}
	}
}

// old returns what was here at the tick before.
func (h *holder) old() (old []jetstream.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for m, seen := range h.seen {
		if seen {
			old = append(old, m)
		}
		h.seen[m] = true
	}
	return old
}
