package engine

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Recall lets the machine answer from what is recorded, and do nothing else: what has no outcome never gets one, but for
// values, and nothing is added to the log. So code can be gone through for what it would do, such as how it undoes its steps.
func (m *Machine) Recall() { m.recall = true }

// compensable reports whether a step that was begun is to be undone when the instance fails.
func (s *Step) compensable() bool {
	return s.Op == protocol.OpDo && s.Config != nil && s.Config.Rollback != nil && len(s.Attempts) > 0
}

// compensable lists the steps to undo, in the order in which that is done: the one that began last comes first. Within
// one message of the log the moments tell which that is; all in it come from one run, in which they only rise.
func (h *History) compensable() []*Step {
	var all []*Step
	for _, k := range slices.Backward(h.Order) {
		if s := h.Steps[k]; s.compensable() {
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b *Step) int {
		return cmp.Or(cmp.Compare(b.first(), a.first()), b.began().Compare(a.began()))
	})
	return all
}

// first is the sequence of the message that first named the step: of one yet to come, if it is not stored.
func (s *Step) first() uint64 {
	if s.First == 0 {
		return math.MaxUint64
	}
	return s.First
}

func (s *Step) began() time.Time {
	if t := s.Attempts[0].Started; t != nil {
		return *t
	}
	return time.Time{}
}

func undoKey(s *Step) protocol.Key {
	return protocol.Key{Op: protocol.OpRollback, Name: s.Name, Count: s.Count}
}

// ToUndo lists the steps that have still to be undone, the next one first.
func (m *Machine) ToUndo() []protocol.Key {
	var keys []protocol.Key
	for _, s := range m.h.compensable() {
		switch undo := m.h.Steps[undoKey(s)]; {
		case undo == nil || !undo.Done:
			keys = append(keys, s.Key)
		case undo.Error != nil:
			return nil
		}
	}
	return keys
}

// RollBack begins to undo the steps of an instance whose code has failed. Whatever it waits for counts no more.
func (m *Machine) RollBack(failure *protocol.Failure) {
	e := protocol.Entry{Kind: protocol.EntryRollingBack, Error: failure}
	m.h.Rolling = &e
	m.put(e)
}

// Undo begins, or goes on, to undo the next step: undo is the step of OpRollback that does so. If there is none, all are
// undone, or stopped is why the chain ended before.
func (m *Machine) Undo() (of, undo *Step, stopped *protocol.Failure) {
	if m.recall, m.pending = false, nil; m.undoing == nil {
		m.undoing = m.h.compensable()
	}
	for ; len(m.undoing) > 0; m.undoing = m.undoing[1:] {
		s := m.undoing[0]
		undo = m.h.step(undoKey(s))
		if undo.Done && undo.Error == nil {
			continue
		}
		m.names[nameKey{protocol.OpRollback, s.Name}] = &nameUse{}
		undo.configure(*s.Config.Rollback)
		if !undo.Done && undo.LostRuns > undo.Config.LostRuns {
			m.finishStep(undo, nil, lostRuns(undo), 0, time.Time{})
		}
		switch {
		case undo.Done:
			return nil, nil, gaveUpOn(s, undo.Error)
		case undo.Until != nil:
			m.pending = append(m.pending, undo)
		}
		return s, undo, nil
	}
	return nil, nil, nil
}

// LeaveAlone goes on with the step that is to be undone after the one that Undo gave: its divergence was accepted.
func (m *Machine) LeaveAlone() {
	m.undoing, m.pending = m.undoing[1:], nil
}

// Irreversible says which of the steps that are still to be undone have no compensation in the code, as known tells.
func (m *Machine) Irreversible(known func(protocol.Key) bool) protocol.Divergence {
	var d protocol.Divergence
	for _, k := range m.ToUndo() {
		if s := m.h.Steps[k]; !s.Accepted && !known(k) && len(d.Recorded) < protocol.MaxUnreached {
			d.Recorded = append(d.Recorded, undoKey(s))
		}
	}
	return d
}

// Uncompensated says the same of the steps that the code called in this run, whether they are to be undone or not.
func (m *Machine) Uncompensated(known func(protocol.Key) bool) protocol.Divergence {
	var d protocol.Divergence
	for _, s := range m.h.compensable() {
		use := m.names[nameKey{s.Op, s.Name}]
		called := use != nil && use.count >= s.Count
		if called && !s.Accepted && !known(s.Key) && len(d.Recorded) < protocol.MaxUnreached {
			d.Recorded = append(d.Recorded, undoKey(s))
		}
	}
	return d
}

func gaveUpOn(s *Step, f *protocol.Failure) *protocol.Failure {
	g := *f
	g.Message = fmt.Sprintf("the rollback stopped at step %q: %s", s.Name, f.Message)
	return &g
}

// RolledBack records what became of the rollback. The end of the instance comes next.
func (m *Machine) RolledBack(stopped *protocol.Failure) {
	e := protocol.Entry{Kind: protocol.EntryRolledBack, Error: stopped}
	m.h.rolledBack(&e)
	m.put(e)
}

// rolledBack notes what became of the rollback.
func (h *History) rolledBack(e *protocol.Entry) {
	h.Rollback = &protocol.Rollback{Outcome: "complete", Error: e.Error}
	if e.Error != nil {
		h.Rollback.Outcome = "failed"
	}
}
