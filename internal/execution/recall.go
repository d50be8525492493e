package execution

import (
	"context"

	"github.com/skein-run/skein/pkg/protocol"
)

// recall is a mode in which code only goes over what is recorded: to learn how it undoes its steps, or whether it still
// does what the log holds. A call without a recorded outcome remains where it is.
type recall struct {
	on       bool
	checks   bool              // whether the code contradicts the log is what the mode is for
	returned bool              // the function has
	failure  *protocol.Failure // with it
	remain   int               // calls without an outcome
	at       protocol.Key      // the newest of them
}

// waits counts what the mode can end for.
func (r *recall) waits() int {
	if r.returned {
		return r.remain + 1
	}
	return r.remain
}

// hurried reports whether the mode may end as soon as all branches wait: nothing is missing that a goroutine of which
// nobody knows may still bring. x.mu is held.
func (x *Execution) hurried() bool { return x.recall.checks && x.m.Missing() == 0 }

// remain waits, in a call that has no outcome, until ctx ends. If the mode ends first, it ends its goroutine. x.mu is held before and after.
func (s *Scope) remain(ctx context.Context, key protocol.Key) {
	x := s.x
	x.recall.remain++
	x.recall.at = key
	s.lane.waiting++
	x.quiet()
	x.mu.Unlock()
	select {
	case <-x.gone:
	case <-ctx.Done():
	}
	x.mu.Lock()
	x.recall.remain--
	s.lane.waiting--
	x.activity++
	if s.out() {
		s.exit()
	}
}

// recalled ends the mode: nothing moves, or all is known. x.mu is held.
func (x *Execution) recalled() {
	switch {
	case x.phase != running || !x.recall.on:
	case x.recall.checks:
		x.checked()
	default:
		x.rollBack(nil)
	}
}
