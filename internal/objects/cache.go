package objects

import (
	"container/list"
	"encoding/json"
	"sync"
)

// cacheSize is how many bytes of values a Store keeps, those used last: code that runs again asks again.
const cacheSize = 64 << 20

// cache keeps values by name. What is stored under a name never changes.
type cache struct {
	limit int

	mu      sync.Mutex // guards what follows
	size    int
	entries map[string]*list.Element
	order   list.List // newest first
}

type cached struct {
	key   string
	value json.RawMessage
}

func (c *cache) get(project, name string) (json.RawMessage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[project+"/"+name]
	if e == nil {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cached).value, true
}

func (c *cache) add(project, name string, value json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := project + "/" + name
	if c.entries[key] != nil || len(value) > c.limit {
		return
	}
	if c.entries == nil {
		c.entries = map[string]*list.Element{}
	}
	c.entries[key] = c.order.PushFront(cached{key, value})
	c.size += len(value)
	for c.size > c.limit {
		c.drop(c.order.Back())
	}
}

func (c *cache) remove(project, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[project+"/"+name]; e != nil {
		c.drop(e)
	}
}

func (c *cache) drop(e *list.Element) {
	old := c.order.Remove(e).(cached)
	delete(c.entries, old.key)
	c.size -= len(old.value)
}
