package agent

import (
	"sync"
	"time"
)

// clock measures how long a turn has the agent: what it spends outside does not count.
type clock struct {
	warn  func()          // the turn is slow; called once
	over  func(times int) // the turn is over its limit; called again after each further grace
	grace time.Duration

	mu          sync.Mutex // guards what follows
	running     bool
	since       time.Time
	slow, limit time.Duration // left
	slowTimer   *time.Timer
	limitTimer  *time.Timer
	times       int
}

// start lets the clock run, first or again.
func (c *clock) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running, c.since = true, time.Now()
	c.limitTimer = time.AfterFunc(c.limit, c.onLimit)
	if c.slow > 0 {
		c.slowTimer = time.AfterFunc(c.slow, c.warn)
	}
}

func (c *clock) onLimit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running {
		return
	}
	c.times++
	c.over(c.times)
	c.limitTimer = time.AfterFunc(c.grace, c.onLimit)
}

// stop halts the clock.
func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running {
		return
	}
	spent := time.Since(c.since)
	c.running = false
	c.limitTimer.Stop()
	if c.slow > 0 {
		c.slowTimer.Stop()
	}
	c.limit, c.slow = c.limit-spent, c.slow-spent
}
