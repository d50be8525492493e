package agent

import "sync"

// crew is the goroutines of a host. Callbacks of subscriptions can come until after the end; a crew that is waited for
// takes no more work.
type crew struct {
	mu      sync.Mutex // guards closed, and Add against Wait
	closed  bool
	running sync.WaitGroup
}

// do runs fn in a goroutine, unless the crew is waited for.
func (c *crew) do(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.running.Go(fn)
	}
}

// wait takes no more work and returns when all is done.
func (c *crew) wait() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.running.Wait()
}
