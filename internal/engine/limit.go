package engine

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/skein-run/skein/pkg/protocol"
)

// Limits bound what one instance may come to. 0 stands for the default.
type Limits struct {
	// Steps is how many steps the code may call. Each call of a step counts once per run, whether its outcome is recorded
	// or not; sleeps, waits and values do not count.
	Steps int
	// State is how many bytes the results of steps, the events that were taken and recorded values may have together, as
	// JSON, until a step or wait begins that is not recorded.
	State int64
}

// StepLimitError says that an instance has called more steps than it may.
type StepLimitError struct {
	// Limit is how many it may call, Steps how many it did.
	Limit, Steps int
}

func (e *StepLimitError) Error() string {
	return fmt.Sprintf("the workflow has called %d steps, at most %d are allowed (limits.steps)", e.Steps, e.Limit)
}

// FailureName names the error when it is stored.
func (e *StepLimitError) FailureName() string { return protocol.FailureStepLimit }

// FailureDetails are the two numbers.
func (e *StepLimitError) FailureDetails() any {
	return map[string]int{"limit": e.Limit, "steps": e.Steps}
}

// Terminal is true: the next run would call as many.
func (e *StepLimitError) Terminal() bool { return true }

// StateLimitError says that an instance has collected more than it may.
type StateLimitError struct {
	// Limit is how many bytes of JSON it may collect, Size how many it has.
	Limit, Size int64
}

func (e *StateLimitError) Error() string {
	return fmt.Sprintf("the workflow has collected %d bytes of results and events, at most %d are allowed (limits.state)", e.Size, e.Limit)
}

// FailureName names the error when it is stored.
func (e *StateLimitError) FailureName() string { return protocol.FailureStateLimit }

// FailureDetails are the two numbers.
func (e *StateLimitError) FailureDetails() any {
	return map[string]int64{"limit": e.Limit, "size": e.Size}
}

// Terminal is true: the next run would collect as much.
func (e *StateLimitError) Terminal() bool { return true }

// OverLimit reports whether an error ends the instance because it has come to a limit.
func OverLimit(err error) bool {
	_, steps := errors.AsType[*StepLimitError](err)
	_, state := errors.AsType[*StateLimitError](err)
	return steps || state
}

// Limit sets the limits of the run. What is recorded is replayed whatever they have become meanwhile.
func (m *Machine) Limit(l Limits) { m.limits = l }

// Size is how many calls of code the history holds, and how many bytes they have given to it in this run.
func (m *Machine) Size() (calls int, bytes int64) { return len(m.h.Steps), m.state }

// count counts the call of a step, which is refused with err (nil: it is not), and refuses it if it is one too many.
func (m *Machine) count(s *Step, err error) error {
	m.steps++
	limit := cmp.Or(m.limits.Steps, protocol.DefaultStepLimit)
	if m.steps > limit && s.First == 0 && !m.recall {
		return &StepLimitError{Limit: limit, Steps: m.steps}
	}
	if err != nil {
		return err
	}
	return m.room(s)
}

// room refuses what is not recorded once the code was given too much.
func (m *Machine) room(s *Step) error {
	limit := cmp.Or(m.limits.State, protocol.DefaultStateLimit)
	if m.state <= limit || s.First != 0 || m.recall {
		return nil
	}
	return &StateLimitError{Limit: limit, Size: m.state}
}

// keep counts what the code was given by a step that is done.
func (m *Machine) keep(s *Step) {
	if s.Object != nil {
		m.state += s.Object.Size
	} else {
		m.state += int64(len(s.Result))
	}
}
