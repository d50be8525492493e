package execution

import (
	"encoding/json"
	"errors"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// Yield makes room for the control at a sequence. No body begins any more, and no retry; those that run may finish if
// patient, else they are told to stop. What they returned is recorded, the instance is given back to the log, and the
// events end with Yielded, or with what came first. It returns when that is said; an execution that is parked or ending
// has no room to make.
func (x *Execution) Yield(control uint64, patient bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.awaitSettled()
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

// overtaker is a message of the log that came before an append, which was refused because of it. If it is a snapshot, it
// has its history.
type overtaker struct {
	*protocol.Append
	expected, sequence uint64
}

// overtaker finds out why an append was refused; nil if it was not, or nobody can tell. x.mu is not held.
func (x *Execution) overtaker(err error) *overtaker {
	conflict, ok := errors.AsType[*journal.ConflictError](err)
	if !ok || conflict.Tail == nil {
		return nil
	}
	var a protocol.Append
	if json.Unmarshal(conflict.Tail.Data, &a) != nil {
		return nil
	}
	if s := engine.SnapshotOf(&a); s != nil && s.Object != nil {
		history, err := x.Objects.Get(x.life, x.Instance.Project, *s.Object)
		if err != nil { // whoever gets the wake again tries that again
			x.Logger().WarnContext(x.life, "a snapshot cannot be read", logkey.Error, err)
			return nil
		}
		engine.PutIn(s, history)
	}
	return &overtaker{&a, conflict.Expected, conflict.Tail.Sequence}
}

// compacted goes on over a snapshot that stands for exactly the log that the execution knows, if that is why an append
// was refused: nobody has taken the instance. x.mu is held.
func (x *Execution) compacted(by *overtaker) bool {
	if ok, err := x.History.GoOn(by.expected, by.sequence, by.Append); !ok || err != nil {
		return false
	}
	x.expected = by.sequence
	return true
}
