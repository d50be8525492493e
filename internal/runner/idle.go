package runner

import (
	"sync"
	"time"
)

// keepIdle is how long something is kept that nobody goes on with.
const keepIdle = time.Minute

// idle keeps what an answer has prepared for whoever asks on. The zero value works.
type idle[K comparable, V any] struct {
	mu   sync.Mutex
	kept map[K]since[V]
}

type since[V any] struct {
	value V
	at    time.Time
}

// take gives away what is kept by a key.
func (i *idle[K, V]) take(by K) (v V, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	kept, ok := i.kept[by]
	delete(i.kept, by)
	return kept.value, ok
}

// put keeps a value, in place of the oldest one if there would be more than so many.
func (i *idle[K, V]) put(by K, v V, most int) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.kept == nil {
		i.kept = map[K]since[V]{}
	}
	var oldest K
	at := now
	for key, kept := range i.kept {
		switch {
		case now.Sub(kept.at) > keepIdle:
			delete(i.kept, key)
		case kept.at.Before(at):
			oldest, at = key, kept.at
		}
	}
	if len(i.kept) >= most {
		delete(i.kept, oldest)
	}
	i.kept[by] = since[V]{v, now}
}
