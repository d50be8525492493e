package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

var (
	// ErrCallCycle is what a CallError is that refuses a call which would wait for itself.
	ErrCallCycle = errors.New("call cycle")
	// ErrNoClass is wrapped by NoClassError.
	ErrNoClass = errors.New("no such class of agents is registered")
)

// CallError is how a call ended that has no result: with an error of the method, whose turn is dropped, or without an
// answer.
type CallError struct {
	// Agent is the one that was called, as project/class/name.
	Agent  string
	Method string
	*protocol.Failure
}

func (e *CallError) Error() string {
	return fmt.Sprintf("call %s of agent %q: %s", e.Method, e.Agent, e.Message)
}

// Unwrap gives the failure.
func (e *CallError) Unwrap() error { return e.Failure }

// Terminal is true if another attempt would fail as well.
func (e *CallError) Terminal() bool { return e.Failure.Terminal }

// Is makes errors.Is(err, ErrCallCycle) true for a cycle, and errors.Is(err, context.DeadlineExceeded) for a call without
// an answer in time.
func (e *CallError) Is(target error) bool {
	return target == ErrCallCycle && e.Name == protocol.FailureCallCycle ||
		target == context.DeadlineExceeded && e.Name == protocol.FailureTimeout
}

// NoClassError says that nobody has ever served a class of agents.
type NoClassError struct {
	Project, Class string
	// Classes are those that the project has. It is nil if there is no such project.
	Classes []string
}

func (e *NoClassError) Error() string {
	if e.Classes == nil {
		return fmt.Sprintf("class %q of project %q: %v: no host of the project has ever started", e.Class, e.Project, ErrNoClass)
	}
	return fmt.Sprintf("class %q of project %q: %v; there are %q", e.Class, e.Project, ErrNoClass, strings.Join(e.Classes, ", "))
}

// Unwrap makes errors.Is(err, ErrNoClass) true.
func (e *NoClassError) Unwrap() error { return ErrNoClass }

// FailureName is how the error is called where it is stored or answered.
func (e *NoClassError) FailureName() string { return "NoClassError" }

// NoHostError says that no host of a class is there.
type NoHostError struct{ Project, Class string }

func (e *NoHostError) Error() string {
	return fmt.Sprintf("no host of class %q of project %q is there", e.Class, e.Project)
}

// FailureName is how the error is called where it is stored or answered.
func (e *NoHostError) FailureName() string { return "NoHostError" }
