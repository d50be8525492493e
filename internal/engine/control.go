package engine

import (
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Control is a control as the stream holds it.
type Control struct {
	Sequence uint64
	protocol.Control
}

// Obey gives the entries by which wake applies all controls up to it, in the order of the stream. It returns nothing if
// they change nothing. The append must follow the tail that h ends with and carry wake as its Holder, its sequence as
// its Mark and the epoch that Obey returns. A compact that comes last and alone asks for a snapshot: compact is true.
//
// What a control changes depends on what the stream holds before it and on nothing that comes later. So a control in
// vain stays in vain, however late it is looked at again.
func (h *History) Obey(wake protocol.Wake, controls []Control, now time.Time) (entries []protocol.Entry, epoch int, compact bool) {
	o := obedience{h: h, wake: wake, now: now, phase: h.Phase, end: h.End, rolling: h.Rolling != nil, stopped: h.Stopped, epoch: h.Epoch}
	seen := map[string]bool{}
	for _, c := range controls {
		void := c.Sequence <= h.Mark || c.Sequence > wake.Sequence || c.Sequence < h.Incarnation ||
			c.Incarnation != 0 && c.Incarnation != h.Incarnation || h.Obeyed[c.Input] || seen[c.Input]
		if void || o.end == protocol.EntryDeleted {
			continue
		}
		seen[c.Input] = true
		if c.Action == protocol.ActionCompact {
			compact = true
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
	h       *History
	wake    protocol.Wake
	now     time.Time
	phase   Phase
	end     protocol.EntryKind
	rolling bool
	stopped time.Time
	epoch   int
}

func (o *obedience) obey(c Control) (e protocol.Entry, ok bool) {
	switch c.Action {
	case protocol.ActionPause:
		if o.phase == Finished || o.phase == Paused {
			return e, false
		}
		o.phase, o.stopped = Paused, o.now
		return protocol.Entry{Kind: protocol.EntryPaused}, true
	case protocol.ActionResume:
		// Who resumes before the code held the instance did not mean that.
		if o.phase != Paused || c.Sequence < o.h.StoppedAt {
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
		s := o.h.Steps[*c.From]
		// Only what was recorded before the control was sent can be meant.
		if s == nil || s.First > c.Sequence || o.epoch != o.h.Epoch {
			return e, false
		}
	}
	o.phase, o.end, o.rolling = Running, "", false
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
		h.Stopped, h.StoppedAt, h.Held = a.Time, sequence, nil
		if e.Kind == protocol.EntryHeld {
			h.Held = e
		}
	case protocol.EntryResumed:
		h.resume(e)
	case protocol.EntryRestarted:
		h.restart(sequence, a, e)
	case protocol.EntryRollingBack:
		h.Rolling, h.Held = e, nil
		if e.Input == 0 { // the run that failed goes on
			return
		}
	case protocol.EntryRolledBack:
		h.Rollback = &protocol.Rollback{Outcome: "complete", Error: e.Error}
		if e.Error != nil {
			h.Rollback.Outcome = "failed"
		}
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

// restart forgets what was recorded from a step on, or everything. Events that a wait took stay taken; those that none
// took are void after a restart of everything.
func (h *History) restart(sequence uint64, a *protocol.Append, e *protocol.Entry) {
	from := 0
	if e.From != nil {
		from = slices.Index(h.Order, *e.From)
	}
	if from < 0 {
		return
	}
	for _, k := range h.Order[from:] {
		delete(h.Steps, k)
	}
	h.Order = h.Order[:from]
	if e.From == nil {
		h.EventsFrom = sequence
	}
	h.End, h.Output, h.OutputObject, h.Failure, h.Ended, h.Expires = "", nil, nil, nil, time.Time{}, nil
	h.Held, h.Rolling, h.Rollback, h.Stopped = nil, nil, nil, time.Time{}
	h.Epoch = a.Epoch
}

// end folds an entry that ends the instance.
func (h *History) end(a *protocol.Append, e *protocol.Entry) {
	if e.InputID != "" {
		h.Obeyed[e.InputID] = true
	}
	h.closeAttempts()
	h.Held = nil
	h.End, h.Output, h.OutputObject, h.Failure, h.Ended, h.Expires = e.Kind, e.Result, e.Object, e.Error, a.Time, e.Expires
}
