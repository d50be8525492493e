package engine

import (
	"fmt"

	"github.com/skein-run/skein/pkg/protocol"
)

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

// LimitSteps sets how many steps the code may call, 0 for the default. Each call of a step counts once per run, whether
// its outcome is recorded or not; sleeps, waits and values do not count. What is recorded is replayed whatever the limit
// has become meanwhile.
func (m *Machine) LimitSteps(limit int) { m.limit = limit }

// count counts the call of a step, and refuses it if it is one too many.
func (m *Machine) count(s *Step) error {
	m.steps++
	limit := m.limit
	if limit == 0 {
		limit = protocol.DefaultStepLimit
	}
	if m.steps <= limit || s.First != 0 || m.recall {
		return nil
	}
	return &StepLimitError{Limit: limit, Steps: m.steps}
}
