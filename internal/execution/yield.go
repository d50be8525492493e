package execution

import (
	"encoding/json"
	"errors"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Yield makes room for the control at a sequence. No body begins any more, and no retry; those that run may finish if
// patient, else they are told to stop. What they returned is recorded, the instance is given back to the log, and the
// events end with Yielded, or with what came first. It returns when that is said; an execution that is parked or ending
// has no room to make.
func (x *Execution) Yield(control uint64, patient bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.phase == parking || x.phase == reviving {
		x.changed.Wait()
	}
	yields := x.phase == releasing && x.control > 0
	if x.phase != running && !yields {
		return
	}
	x.control = max(x.control, control)
	if !patient {
		x.cancel(ErrYielded)
	}
	if !yields {
		x.giveBack(Event{Kind: Yielded}, ErrYielded)
	}
}

// Yields reports whether the execution makes room for a control already.
func (x *Execution) Yields(control uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.phase != over && x.control >= control
}

// Overtaken ends the execution if a control was obeyed without it, or its instance is gone: another goes by the
// incarnation then, or none, which is 0.
func (x *Execution) Overtaken(incarnation, control uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.History.Incarnation != incarnation || x.History.Mark < control {
		x.end(Event{Kind: Dropped, Err: ErrSuperseded}, ErrSuperseded)
	}
}

// compacted goes on over a snapshot that stands for exactly the log that the execution knows, if that is why an append
// was refused: nobody has taken the instance. x.mu is held.
func (x *Execution) compacted(err error) bool {
	conflict, ok := errors.AsType[*journal.ConflictError](err)
	if !ok || conflict.Tail == nil {
		return false
	}
	var a protocol.Append
	if json.Unmarshal(conflict.Tail.Data, &a) != nil {
		return false
	}
	if ok, err := x.History.GoOn(conflict.Expected, conflict.Tail.Sequence, &a); !ok || err != nil {
		return false
	}
	x.expected = conflict.Tail.Sequence
	return true
}
