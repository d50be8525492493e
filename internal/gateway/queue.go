package gateway

import (
	"context"
	"sync"
)

// queue is what waits to be handled one after the other. There is a goroutine only while something waits.
type queue[T any] struct {
	handle func(T)
	start  func(first T, run func())
	most   int // items and bytes of them that may wait
	bytes  int

	mu      sync.Mutex // guards what follows
	items   []queued[T]
	count   int // items and bytes, with what is handled now
	size    int
	running bool
	ended   bool
	room    chan struct{} // closed when there is room again
}

type queued[T any] struct {
	item T
	size int
}

func newQueue[T any](most, bytes int, start func(first T, run func()), handle func(T)) *queue[T] {
	return &queue[T]{most: most, bytes: bytes, start: start, handle: handle}
}

// isIdle reports whether nothing waits or is handled.
func (q *queue[T]) isIdle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.running
}

// isFull reports whether nothing more may wait. The queue is locked.
func (q *queue[T]) isFull() bool { return q.count >= q.most || q.size >= q.bytes }

// wait puts an item in when there is room.
func (q *queue[T]) wait(ctx context.Context, item T, size int) error {
	for {
		q.mu.Lock()
		if !q.isFull() || q.ended {
			q.put(item, size)
			q.mu.Unlock()
			return nil
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add puts an item in. It returns false if there is no room. What replaces says is taken out first.
func (q *queue[T]) add(item T, size int, replaces func(T) bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if replaces != nil {
		rest := q.items[:0]
		for _, waiting := range q.items {
			if replaces(waiting.item) {
				q.count--
				q.size -= waiting.size
				continue
			}
			rest = append(rest, waiting)
		}
		q.items = rest
	}
	if q.isFull() && !q.ended {
		return false
	}
	q.put(item, size)
	return true
}

// end takes nothing more.
func (q *queue[T]) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
}

// last puts an item in after which nothing comes, whether there is room or not.
func (q *queue[T]) last(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.put(item, 0)
	q.ended = true
}

// put is called with the queue locked.
func (q *queue[T]) put(item T, size int) {
	if q.ended {
		return
	}
	q.items = append(q.items, queued[T]{item, size})
	q.count++
	q.size += size
	if !q.running {
		q.running = true
		q.start(item, q.run)
	}
}

func (q *queue[T]) run() {
	for {
		q.mu.Lock()
		if len(q.items) == 0 {
			q.running, q.items = false, nil
			q.mu.Unlock()
			return
		}
		next := q.items[0]
		q.items = q.items[1:]
		q.mu.Unlock()
		q.handle(next.item)
		q.mu.Lock()
		q.count--
		q.size -= next.size
		if q.room != nil && !q.isFull() {
			close(q.room)
			q.room = nil
		}
		q.mu.Unlock()
	}
}
