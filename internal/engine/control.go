package engine

import (
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Control is a control as the stream holds it. Stored is when the server stored it.
type Control struct {
	Sequence uint64
	Stored   time.Time
	protocol.Control
}

// Obey gives the entries by which wake applies all controls up to it, in the order of the stream. It returns nothing if
// they change nothing. The controls are all that the stream holds of this incarnation, settled ones too: a repetition is
// void although what it repeats was in vain. The append must follow the tail that h ends with and carry wake as its
// Holder, its sequence as its Mark and the epoch that Obey returns. If wake is a compact and nothing else changes
// anything, it asks for a snapshot, unless nothing is recorded: compact is true.
//
// What a control changes depends on what the stream holds before it and on nothing that comes later. So a control in
// vain stays in vain, however late it is looked at again. That is also why an instance that has expired stays as it is
// by the moment at which the control was stored, and not by a clock: what can be cleaned away is never revived.
func (h *History) Obey(wake protocol.Wake, controls []Control, now time.Time) (entries []protocol.Entry, epoch int, compact bool) {
	o := obedience{
		h: h, wake: wake, now: now, phase: h.Phase, end: h.End, expires: h.Expires, rolling: h.Rolling != nil,
		stopped: h.Stopped, stoppedAt: h.StoppedAt, kept: len(h.Order), epoch: h.Epoch,
	}
	seen := map[string]bool{}
	for _, c := range controls {
		if c.Sequence < h.Incarnation || c.Incarnation != 0 && c.Incarnation != h.Incarnation {
			continue
		}
		repeated := c.Input != "" && (h.Obeyed[c.Input] || seen[c.Input])
		seen[c.Input] = true
		if repeated || c.Sequence <= h.Mark || c.Sequence > wake.Sequence {
			continue
		}
		if c.Action == protocol.ActionCompact { // also of what has expired: it revives nothing
			compact = c.Sequence == wake.Sequence && h.Begun && o.end != protocol.EntryDeleted
			continue
		}
		if o.gone(c) {
			continue
		}
		if e, ok := o.obey(c); ok {
			e.Input, e.InputID = c.Sequence, c.Input
			entries = append(entries, e)
		}
	}
	return entries, o.epoch, compact && len(entries) == 0
}

// obedience follows what controls make of an instance.
type obedience struct {
	h         *History
	wake      protocol.Wake
	now       time.Time
	phase     Phase
	end       protocol.EntryKind
	expires   *time.Time
	rolling   bool
	stopped   time.Time
	stoppedAt uint64
	kept      int // how many of the recorded steps no restart made void
	epoch     int
}

// gone reports whether nothing was left to steer when the control was stored: an instance that has expired can only be
// deleted. A control that is to delete one that has expired is in vain for any other.
func (o *obedience) gone(c Control) bool {
	expired := o.phase == Finished && o.expires != nil && !c.Stored.Before(*o.expires)
	if c.Action == protocol.ActionDelete && expired {
		return o.end == protocol.EntryDeleted
	}
	return expired || c.Expired || o.end == protocol.EntryDeleted
}

func (o *obedience) obey(c Control) (e protocol.Entry, ok bool) {
	switch c.Action {
	case protocol.ActionPause:
		if o.phase == Finished || o.phase == Paused {
			return e, false
		}
		o.phase, o.stopped, o.stoppedAt = Paused, o.now, c.Sequence
		return protocol.Entry{Kind: protocol.EntryPaused}, true
	case protocol.ActionResume:
		// Who resumes before the code held the instance did not mean that.
		if o.phase != Paused || c.Sequence < o.stoppedAt {
			return e, false
		}
		o.phase = Running
		e = protocol.Entry{Kind: protocol.EntryResumed, Wake: &o.wake, Accept: c.Accept}
		e.Shift = protocol.Duration(max(0, o.now.Sub(o.stopped)))
		return e, true
	case protocol.ActionTerminate:
		return o.terminate(c)
	case protocol.ActionRestart:
		return o.restart(c)
	case protocol.ActionDelete:
		o.phase, o.end = Finished, protocol.EntryDeleted
		return protocol.Entry{Kind: protocol.EntryDeleted, Error: &protocol.Failure{
			Name: protocol.FailureDeleted, Message: "the instance was deleted", Terminal: true,
		}}, true
	}
	return e, false
}

func (o *obedience) terminate(c Control) (e protocol.Entry, ok bool) {
	failure := &protocol.Failure{Name: protocol.FailureTerminated, Message: "the instance was terminated", Terminal: true}
	switch {
	case o.phase == Finished, c.Rollback && o.rolling:
		return e, false
	case c.Rollback:
		o.phase, o.rolling = Running, true
		return protocol.Entry{Kind: protocol.EntryRollingBack, Wake: &o.wake, Terminate: true, Error: failure}, true
	}
	o.phase, o.end = Finished, protocol.EntryTerminated
	return protocol.Entry{Kind: protocol.EntryTerminated, Error: failure}, true
}

func (o *obedience) restart(c Control) (e protocol.Entry, ok bool) {
	if c.From != nil {
		at := slices.Index(o.h.Order, *c.From)
		// Only what was recorded before the control was sent can be meant.
		if at < 0 || at >= o.kept || o.h.Steps[*c.From].First == 0 || o.h.Steps[*c.From].First > c.Sequence {
			return e, false
		}
	}
	o.phase, o.end, o.expires, o.rolling, o.kept = Running, "", nil, false, o.h.voidFrom(c.From)
	o.epoch++
	return protocol.Entry{Kind: protocol.EntryRestarted, Wake: &o.wake, From: c.From}, true
}

// steer folds an entry that obeys a control, or by which the code holds the instance or begins to undo its steps.
func (h *History) steer(sequence uint64, a *protocol.Append, e *protocol.Entry) {
	if e.InputID != "" {
		h.Obeyed[e.InputID] = true
	}
	switch e.Kind {
	case protocol.EntryPaused, protocol.EntryHeld:
		h.Stopped, h.StoppedAt, h.Held = a.Time, e.Input, nil
		if e.Kind == protocol.EntryHeld {
			h.StoppedAt, h.Held = sequence, e
		}
	case protocol.EntryResumed:
		h.resume(e)
	case protocol.EntryRestarted:
		h.restart(a, e)
	case protocol.EntryRollingBack:
		h.Rolling, h.Held = e, nil
		h.Untold = h.Orphans() // what is undone must not go on
		if e.Input == 0 {      // the run that failed goes on, but none of its bodies
			h.closeAttempts()
			return
		}
	case protocol.EntryRolledBack:
		h.rolledBack(e)
		return
	}
	// Whoever was executing was told to stop: what comes next follows no lost run.
	h.released, h.hard, h.unblamed = true, false, false
	h.closeAttempts()
}

// resume lets every wait end later by the time that the instance stood still.
func (h *History) resume(e *protocol.Entry) {
	for _, s := range h.Steps {
		if !s.Done && s.Until != nil {
			until := s.Until.Add(time.Duration(e.Shift))
			s.Until = &until
		}
		s.Accepted = s.Accepted || e.Accept
	}
	h.Held, h.Stopped = nil, time.Time{}
}

// restart forgets what was recorded from a step on, or everything. Events that a wait took stay taken, and those that none
// took are void after a restart of everything, if they were sent before the control. Later ones are for the new run,
// however late the control is obeyed: also those that a wait took meanwhile which is void now.
func (h *History) restart(a *protocol.Append, e *protocol.Entry) {
	from := h.voidFrom(e.From)
	if from < 0 {
		return
	}
	for _, k := range h.Order[from:] {
		s := h.Steps[k]
		if !s.Done {
			h.outlived(s)
		}
		if r := s.Received; r != nil && r.Input > e.Input {
			delete(h.Consumed, r.Input)
			delete(h.ConsumedIDs, r.ID)
		}
		delete(h.Steps, k)
	}
	h.Order = h.Order[:from]
	h.regain()
	if e.From == nil {
		h.EventsFrom = e.Input
	}
	h.End, h.Output, h.OutputObject, h.Failure = "", nil, nil, nil
	h.Ended, h.EndedAt, h.Expires = time.Time{}, 0, nil
	h.Held, h.Rolling, h.Rollback, h.Stopped = nil, nil, nil, time.Time{}
	h.Epoch = a.Epoch
}

// end folds an entry that ends the instance.
func (h *History) end(sequence uint64, a *protocol.Append, e *protocol.Entry) {
	if e.InputID != "" {
		h.Obeyed[e.InputID] = true
	}
	h.closeAttempts()
	h.Held = nil
	h.End, h.Output, h.OutputObject, h.Failure = e.Kind, e.Result, e.Object, e.Error
	h.Ended, h.EndedAt, h.Expires = a.Time, sequence, e.Expires
}
