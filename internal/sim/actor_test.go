package sim

import (
	"iter"
	"runtime/debug"
	"slices"
)

// actor does one thing after another, and waits in between until it is its turn.
type actor struct {
	*hand
	w      *world
	name   string
	runner *runner // whose process it is in, nil for others
	do     func()
	at     point
	killed bool
	slow   bool       // everybody else does much meanwhile
	stalls int        // it does nothing before this step
	x      *execution // what it executes
}

// point says what an actor does when it goes on.
type point int

const (
	asking    point = iota // send a request
	pausing                // try again, after a while
	computing              // go on with a body, or with code
	done                   // nothing more
)

// stopped ends what an actor does that is killed.
type stopped struct{}

// crew lends goroutines to actors. New ones are dear, above all where data races are looked for. It remembers what it
// saw in all games.
type crew struct {
	idle []*hand
	saw  map[string]int
}

func newCrew() *crew { return &crew{saw: map[string]int{}} }

// hand is a goroutine that does what one actor after another does.
type hand struct {
	actor *actor
	next  func() (point, bool)
	stop  func()
	yield func(point) bool
}

func (c *crew) take() *hand {
	if n := len(c.idle); n > 0 {
		h := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return h
	}
	h := &hand{}
	h.next, h.stop = iter.Pull(func(yield func(point) bool) {
		h.yield = yield
		for more := true; more; more = yield(done) {
			h.play()
		}
	})
	return h
}

// play lets the actor do what it does, unless it is killed.
func (h *hand) play() {
	defer func() {
		if p := recover(); p != nil && p != (stopped{}) {
			h.actor.w.checker.fail("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if !h.actor.killed {
		h.actor.do()
	}
}

func (c *crew) dismiss() {
	for _, h := range c.idle {
		h.stop()
	}
}

// spawn adds an actor.
func (w *world) spawn(name string, r *runner, do func()) {
	a := &actor{hand: w.crew.take(), w: w, name: name, runner: r, do: do, slow: w.chance(4)}
	a.actor = a
	w.actors = append(w.actors, a)
}

// pause lets others come first.
func (w *world) pause(p point) {
	a := w.running
	a.yield(p)
	if a.killed {
		panic(stopped{})
	}
}

// resume lets an actor go on until it pauses.
func (w *world) resume(a *actor) {
	w.running = a
	a.at, _ = a.next()
	w.running = nil
	if a.at == done {
		w.actors = slices.DeleteFunc(w.actors, func(o *actor) bool { return o == a })
		w.crew.idle = append(w.crew.idle, a.hand)
	}
}

// kill stops the actors of a process.
func (w *world) kill(r *runner) {
	for _, a := range slices.Clone(w.actors) {
		if a.runner == r {
			w.end(a)
		}
	}
}

// end stops an actor. What it has begun to clean up, it does.
func (w *world) end(a *actor) {
	a.killed = true
	w.resume(a)
}
