package engine

import "github.com/skein-run/skein/pkg/protocol"

// Status says what is known of the instance, as its users see it.
func (h *History) Status() protocol.Status {
	s := protocol.Status{
		Workflow: h.Create.Workflow, ID: h.Create.ID, State: h.State(), Created: h.Create.Created,
		Output: h.Output, Error: h.Failure,
	}
	if h.Phase == Finished {
		ended := h.Ended
		s.Finished = &ended
	}
	for _, k := range h.Order {
		if k.Op != protocol.OpValue {
			s.Steps = append(s.Steps, h.Steps[k].status())
		}
	}
	for _, r := range h.Runs {
		s.Runs = append(s.Runs, protocol.RunStatus{Runner: r.Runner, Time: r.Time, Wake: r.Wake.String(), Lost: r.Lost})
	}
	return s
}

// State is the state of the instance.
func (h *History) State() protocol.State {
	switch {
	case h.Phase == Finished && h.Failure != nil:
		return protocol.StateErrored
	case h.Phase == Finished:
		return protocol.StateComplete
	case h.Phase == Parked:
		return protocol.StateWaiting
	case len(h.Runs) == 0:
		return protocol.StateQueued
	}
	return protocol.StateRunning
}

// Done is the announcement of the end; ok is false if the instance has not ended.
func (h *History) Done() (done protocol.Done, ok bool) {
	if h.Phase != Finished {
		return protocol.Done{}, false
	}
	return protocol.Done{
		V: protocol.Version, Workflow: h.Create.Workflow, ID: h.Create.ID, Incarnation: h.Incarnation, Log: h.Tail,
		State: h.State(), Created: h.Create.Created, Finished: h.Ended, Output: h.Output, Error: h.Failure,
	}, true
}

func (s *Step) status() protocol.StepStatus {
	st := protocol.StepStatus{
		Key: s.Key, State: s.state(), Until: s.Until, Output: s.Result, Error: s.Error, LostRuns: s.LostRuns,
	}
	for _, a := range s.Attempts {
		st.Attempts = append(st.Attempts, protocol.AttemptStatus{
			Attempt: a.Number, Runner: a.Runner, Started: a.Started, Finished: a.Finished, Error: a.Error,
		})
	}
	return st
}

func (s *Step) state() string {
	switch {
	case s.Done && s.Error != nil:
		return "failed"
	case s.Done:
		return "completed"
	case s.Op != protocol.OpDo:
		return "waiting"
	case len(s.Attempts) > 0 && s.Attempts[len(s.Attempts)-1].Open:
		return "running"
	case s.Failed > 0:
		return "retrying"
	}
	return "running"
}
