package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Call names the call of another workflow, and the instance that it began: its child.
type Call struct {
	// Type is the type of the event by which the child tells of its end. No other call has it.
	Type   string          `json:"type"`
	Callee protocol.Callee `json:"callee"`
}

// CallOf names the call that a step of OpCall is; ok is false if it began no child.
func (h *History) CallOf(s *Step) (c Call, ok bool) {
	if s.Op != protocol.OpCall || s.Callee == nil {
		return c, false
	}
	return Call{Type: h.callType(s), Callee: *s.Callee}, true
}

func (h *History) callType(s *Step) string {
	return protocol.CallType(h.Incarnation, s.Epoch, s.Name, s.Count)
}

// OpenCalls are the calls without an outcome whose child may be there.
func (h *History) OpenCalls() []Call {
	var open []Call
	for _, k := range h.Order {
		if s := h.Steps[k]; !s.Done {
			if c, ok := h.CallOf(s); ok {
				open = append(open, c)
			}
		}
	}
	return open
}

// Orphans are the calls whose children must end when the instance has: those that are open, and those that ended
// without their child, which may not have been told.
func (h *History) Orphans() []Call {
	all := slices.Clone(h.Untold)
	for _, c := range h.OpenCalls() {
		if !slices.ContainsFunc(all, func(o Call) bool { return o.Type == c.Type }) {
			all = append(all, c)
		}
	}
	return all
}

// gaveUp reports whether a failure ended a call whose child goes on.
func gaveUp(f *protocol.Failure) bool {
	return f != nil && (f.Name == protocol.FailureCanceled || f.Name == protocol.FailureTimeout)
}

// GivenUp reports whether a call ended because its context did.
func (s *Step) GivenUp() bool {
	return s.Op == protocol.OpCall && s.Done && s.Error != nil && s.Error.Name == protocol.FailureCanceled
}

// outlived notes that a call ended without its child.
func (h *History) outlived(s *Step) {
	if c, ok := h.CallOf(s); ok {
		h.Untold = append(slices.Clip(h.Untold), c)
	}
}

// Answer is the end of the child, as the event told it that ended the call; nil if something else did.
func (s *Step) Answer() *protocol.Done {
	if s.Op != protocol.OpCall || s.Received == nil {
		return nil
	}
	var done protocol.Done
	if err := json.Unmarshal(s.Result, &done); err != nil {
		done = protocol.Done{State: protocol.StateErrored, Error: &protocol.Failure{
			Name: protocol.FailureEncoding, Message: fmt.Sprintf("the end of the child cannot be read: %v", err), Terminal: true,
		}}
	}
	if done.State != protocol.StateComplete && done.Error == nil {
		done.Error = &protocol.Failure{Name: protocol.FailureError, Message: fmt.Sprintf("the instance is %s", done.State)}
	}
	return &done
}

// Call is called for a call of another workflow. If the step that it returns is not done and has no type, its child
// has still to be made: Calling comes next if it has no callee, then Called.
func (m *Machine) Call(b *Branch, name string) (*Step, error) {
	s, err := m.call(b, protocol.OpCall, name)
	if s != nil {
		err = m.count(s, err)
	}
	if err == nil && !s.Done && s.Type != "" && !m.recall {
		m.pending = append(m.pending, s)
		m.match()
	}
	return s, err
}

// Parent is what the child of a call will know of it.
func (m *Machine) Parent(s *Step, caller protocol.Instance) protocol.Parent {
	return protocol.Parent{
		Project: caller.Project, Shard: caller.Shard, Workflow: caller.Workflow, ID: caller.ID,
		Incarnation: m.h.Incarnation, Call: m.h.callType(s),
	}
}

// Calling records that the child of a call is about to be made, and when the call ends without it (nil: never). It must
// be durable before that: whoever ends the instance finds here who else must end.
func (m *Machine) Calling(s *Step, callee protocol.Callee, until *time.Time) {
	s.Callee, s.Until = &callee, until
	m.soft(protocol.Entry{Kind: protocol.EntryStarted, Step: &s.Key, Callee: &callee, Until: until})
}

// Called records that the child is there and goes by incarnation (0 if it is not known). From now on the call waits.
func (m *Machine) Called(s *Step, incarnation uint64) {
	callee := *s.Callee
	callee.Incarnation = incarnation
	s.Callee, s.Type = &callee, m.h.callType(s)
	m.soft(protocol.Entry{Kind: protocol.EntryWaiting, Step: &s.Key, Type: s.Type, Until: s.Until, Callee: &callee})
	m.pending = append(m.pending, s)
	m.match()
}

// Answered reports whether the event is there by which the child of a call tells of its end.
func (m *Machine) Answered(s *Step) bool {
	t := m.h.callType(s)
	return slices.ContainsFunc(m.inputs, func(in Input) bool { return in.Type == t })
}

// FailCall records the failure of a call that began no child of its own.
func (m *Machine) FailCall(s *Step, failure *protocol.Failure) {
	m.endCall(s, protocol.EntryStepFailed, failure)
}

// GiveUpCall records that a call ended without its child, which must be told.
func (m *Machine) GiveUpCall(s *Step, failure *protocol.Failure) {
	m.pending = slices.DeleteFunc(m.pending, func(p *Step) bool { return p == s })
	m.h.outlived(s)
	m.endCall(s, protocol.EntryStepFailed, failure)
}

func (m *Machine) endCall(s *Step, kind protocol.EntryKind, failure *protocol.Failure) {
	m.end(protocol.Entry{Kind: kind, Step: &s.Key, Type: s.Type, Error: failure})
	s.finish(nil, failure)
}

func timedOutCall(s *Step) *protocol.Failure {
	return &protocol.Failure{
		Name:    protocol.FailureTimeout,
		Message: fmt.Sprintf("instance %q of workflow %q did not end in time", s.Callee.ID, s.Callee.Workflow),
	}
}

// Untold is the call of a step if it ended without its child and the child has not been told.
func (m *Machine) Untold(s *Step) (c Call, ok bool) {
	if c, ok = m.h.CallOf(s); !ok {
		return c, false
	}
	return c, slices.ContainsFunc(m.h.Untold, func(o Call) bool { return o.Type == c.Type })
}

// AnyUntold reports whether there is such a call. The instance must not be parked meanwhile: a park says that all
// children were told.
func (m *Machine) AnyUntold() bool { return len(m.h.Untold) > 0 }

// Told notes that the child of a call knows that nobody waits for it.
func (m *Machine) Told(c Call) {
	m.h.Untold = slices.DeleteFunc(m.h.Untold, func(o Call) bool { return o.Type == c.Type })
}

// Orphans are those of the history.
func (m *Machine) Orphans() []Call { return m.h.Orphans() }

// Awaits reports whether the instance still waits for the child of a call that its incarnation made.
func (h *History) Awaits(incarnation uint64, c Call) bool {
	return h.Incarnation == incarnation && h.Phase != Finished &&
		slices.ContainsFunc(h.OpenCalls(), func(o Call) bool { return o.Type == c.Type })
}
