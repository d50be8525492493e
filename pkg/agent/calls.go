package agent

import (
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// calls makes one turn of a request that arrives twice: a caller that got no answer in time asks again on another way,
// and the first one may still be under way here.
type calls struct {
	crew        *crew
	rememberFor time.Duration

	mu    sync.Mutex // guards what follows
	known map[string]*call
	ended []endedCall // in the order in which they ended
	cause error       // why no answers leave in chunks any more
}

// endedCall is a call that is to be forgotten, without its answer: that may be large, and goes as soon as nobody can ask for it again.
type endedCall struct {
	id string
	at time.Time
}

type call struct {
	id    string
	done  chan struct{} // closed when reply is set
	left  chan struct{} // closed by leave
	reply protocol.Reply
	ended time.Time
	once  sync.Once
	// chunks is the answer, if it comes in parts.
	chunks *chunks
}

// leave says that the turn has gone outside.
func (c *call) leave() { c.once.Do(func() { close(c.left) }) }

func (c *call) hasLeft() bool {
	select {
	case <-c.left:
		return true
	default:
		return false
	}
}

// start runs fn, unless a request of this id has been started before. Its answer may come in chunks, if those are not nil.
func (c *calls) start(id string, chunks *chunks, fn func(leave func()) protocol.Reply) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetOld(time.Now())
	if id != "" && c.known[id] != nil {
		return c.known[id]
	}
	started := &call{id: id, done: make(chan struct{}), left: make(chan struct{}), chunks: chunks}
	if id != "" {
		c.known[id] = started
	}
	if chunks != nil && c.cause != nil {
		chunks.quit(c.cause)
	}
	c.crew.do(func() {
		reply := fn(started.leave)
		c.mu.Lock()
		defer c.mu.Unlock()
		started.reply, started.ended = reply, time.Now()
		if reply.Moved || reply.Error != nil {
			delete(c.known, id) // it was not started or nothing of it is stored, and may come back
		} else if id != "" {
			c.ended = append(c.ended, endedCall{id, started.ended})
		}
		close(started.done)
	})
	return started
}

// forget lets a request go that will not come again, if it has ended. One that was outside may: it was not waited for.
func (c *calls) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[id]; known != nil && !known.ended.IsZero() && !known.hasLeft() {
		delete(c.known, id)
	}
}

// chunksOf are those of the answer to a request; nil if there are none.
func (c *calls) chunksOf(id string) *chunks {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[id]; known != nil {
		return known.chunks
	}
	return nil
}

// endChunks breaks all answers off that leave in chunks, and those that come later.
func (c *calls) endChunks(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cause = cause
	for _, known := range c.known {
		if known.chunks != nil {
			known.chunks.quit(cause)
		}
	}
}

func (c *calls) forgetOld(now time.Time) {
	for len(c.ended) > 0 && now.Sub(c.ended[0].at) > c.rememberFor {
		if old := c.ended[0]; c.known[old.id] != nil && c.known[old.id].ended.Equal(old.at) { // else it has come again
			delete(c.known, old.id)
		}
		c.ended = c.ended[1:]
	}
}
