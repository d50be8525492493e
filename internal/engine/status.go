package engine

import (
	"encoding/json"

	"github.com/skein-run/skein/pkg/protocol"
)

// Status says what is known of the instance, as its users see it.
func (h *History) Status() protocol.Status {
	s := protocol.Status{
		Workflow: h.Create.Workflow, ID: h.Create.ID, State: h.State(), Created: h.Create.Created,
		Output: h.Output, OutputObject: h.OutputObject, Error: h.Failure, Source: h.Create.Source, Params: h.Create.Params,
		ParamsObject: h.Create.ParamsObject, Incarnation: h.Incarnation, Log: h.Tail, Mark: h.Mark, Epoch: h.Epoch,
		Parent: h.Create.Parent, Rollback: h.Rollback, Expires: h.Expires,
		Version: h.Version(),
	}
	if h.Held != nil {
		s.Divergence, s.Error = h.Held.Divergence, h.Held.Error
	}
	if h.Rolling != nil && s.Error == nil {
		s.Error = h.Rolling.Error
	}
	if h.Phase == Finished {
		ended := h.Ended
		s.Finished = &ended
	}
	for _, k := range h.Order {
		if !unnamed(k.Op) {
			s.Steps = append(s.Steps, h.Steps[k].status())
		}
	}
	for _, r := range h.Runs {
		s.Runs = append(s.Runs, protocol.RunStatus{Runner: r.Runner, Time: r.Time, Wake: r.Wake.String(), Lost: r.Lost, Version: r.Version})
	}
	return s
}

// Glance says what create and tail of a log tell of the instance: how it began and what it is doing. Its steps and runs,
// and how often it was restarted, the rest of the log knows. The tail is nil if the log is empty.
func Glance(stream string, incarnation uint64, create protocol.Create, tailSequence uint64, tail *protocol.Append) (protocol.Status, error) {
	h := NewHistory(stream, incarnation, create)
	if tail != nil {
		if err := h.Apply(tailSequence, glimpse(tail)); err != nil {
			return protocol.Status{}, err
		}
	}
	if h.Begun && len(h.Runs) == 0 && !h.WaitsForSlot() {
		h.Runs = []Run{{}} // the log says that it has begun, in what was not read
	}
	s := h.Status()
	s.Steps, s.Runs = nil, nil
	if tail != nil && tail.Version != "" {
		s.Version = tail.Version
	}
	return s, nil
}

// State is the state of the instance.
func (h *History) State() protocol.State {
	switch {
	case h.Phase == Finished:
		return endState(h.End)
	case h.Phase == Paused && h.Held != nil:
		return protocol.StateHeld
	case h.Phase == Paused:
		return protocol.StatePaused
	case h.WaitsForSlot(), len(h.Runs) == 0:
		return protocol.StateQueued
	case h.Rolling != nil:
		return protocol.StateRollingBack
	case h.Phase == Parked:
		return protocol.StateWaiting
	}
	return protocol.StateRunning
}

func endState(kind protocol.EntryKind) protocol.State {
	switch kind {
	case protocol.EntryFailed:
		return protocol.StateErrored
	case protocol.EntryTerminated:
		return protocol.StateTerminated
	case protocol.EntryDeleted:
		return protocol.StateDeleted
	}
	return protocol.StateComplete
}

// Done is the announcement of the end; ok is false if the instance has not ended. Its Log is the message that says so,
// also when a snapshot stands for it: the end stays the same one, however often it is announced.
func (h *History) Done() (done protocol.Done, ok bool) {
	if h.Phase != Finished {
		return protocol.Done{}, false
	}
	return protocol.Done{
		V: protocol.Version, Workflow: h.Create.Workflow, ID: h.Create.ID, Incarnation: h.Incarnation, Log: h.EndedAt,
		State: h.State(), Created: h.Create.Created, Finished: h.Ended, Output: h.Output, Error: h.Failure,
		OutputObject: h.OutputObject, Mark: h.Mark, Epoch: h.Epoch, Rollback: h.Rollback, Expires: h.Expires,
	}, true
}

func (s *Step) status() protocol.StepStatus {
	st := protocol.StepStatus{
		Key: s.Key, State: s.state(), Until: s.Until, Output: s.Result, OutputObject: s.Object, Error: s.Error, LostRuns: s.LostRuns,
		Config: s.Config, Heartbeat: s.Heartbeat, Type: s.Type, Callee: s.Callee, Branch: s.Branch,
		Winner: s.Winner, Within: s.Within,
	}
	if s.Config != nil && s.Config.Sensitive {
		s.redact(&st)
	}
	if (s.Lost || s.GaveUp != nil) && !s.Done {
		st.Until = nil
	}
	if s.Op == protocol.OpRace { // it has none that says how it is tried
		st.Config = nil
	}
	if done := s.Answer(); done != nil {
		st.Output, st.OutputObject, st.Error = done.Output, done.OutputObject, done.Error
		if done.Error != nil {
			st.State = "failed"
		}
	}
	for _, a := range s.Attempts {
		st.Attempts = append(st.Attempts, protocol.AttemptStatus{
			Attempt: a.Number, Runner: a.Runner, Started: a.Started, Finished: a.Finished, Error: a.Error,
		})
	}
	return st
}

// redact hides the result, and what the body said on the way to it.
func (s *Step) redact(st *protocol.StepStatus) {
	if s.Result != nil || s.Object != nil {
		st.Output, st.OutputObject = json.RawMessage(protocol.Redacted), nil
	}
	if s.Heartbeat != nil {
		st.Heartbeat = json.RawMessage(protocol.Redacted)
	}
}

func (s *Step) state() string {
	switch {
	case s.Done && s.Error != nil:
		return "failed"
	case s.Done:
		return "completed"
	case s.Lost, s.GaveUp != nil:
		return "canceled"
	case s.Op != protocol.OpDo && s.Op != protocol.OpRollback:
		return "waiting"
	case s.isOpen():
		return "running"
	case s.Failed > 0:
		return "retrying"
	}
	return "running"
}
