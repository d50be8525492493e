package protocol

import (
	"encoding/json"
	"errors"
	"strings"
)

// Failure is an error in the form in which it is stored: it survives restarts, other runners and other projects.
type Failure struct {
	// Name says what kind of error it is, for programs: a type's name or a code. Never empty.
	Name string `json:"name"`
	// Message says what happened, for people.
	Message string `json:"message"`
	// Terminal is true if no retry can help.
	Terminal bool `json:"terminal,omitempty"`
	// Details is whatever the error wanted to hand on, as JSON.
	Details json.RawMessage `json:"details,omitempty"`
	// Causes is the chain of wrapped errors, the next one first. At most MaxCauses.
	Causes []Cause `json:"causes,omitempty"`
}

// Cause is one wrapped error of a Failure.
type Cause struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}

// Limits of a stored failure, in entries and bytes: it travels in logs, answers and announcements.
const (
	MaxCauses         = 8
	MaxFailureMessage = 4096
	MaxFailureDetails = 32 << 10
)

// Names of failures that Skein itself makes.
const (
	FailureError    = "Error"
	FailureTimeout  = "TimeoutError"
	FailurePanic    = "PanicError"
	FailureLostRuns = "LostRunsError"
	FailureEncoding = "EncodingError"
	FailureUsage    = "UsageError"
)

// Named is implemented by errors that say what they are called when stored.
type Named interface{ FailureName() string }

// Detailed is implemented by errors that have details to store; the value is encoded as JSON.
type Detailed interface {
	error
	FailureDetails() any
}

// TerminalError is implemented by errors that know whether a retry can help.
type TerminalError interface {
	error
	Terminal() bool
}

// NewFailure stores err: its name, message and details, the chain of what it wraps and whether it is terminal.
// Details that cannot be encoded or are over MaxFailureDetails are left out.
func NewFailure(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok && error(f) == err {
		return f
	}
	f := &Failure{Name: nameOf(err), Message: cut(err.Error())}
	if t, ok := errors.AsType[TerminalError](err); ok {
		f.Terminal = t.Terminal()
	}
	if d, ok := errors.AsType[Detailed](err); ok {
		if raw, encErr := json.Marshal(d.FailureDetails()); encErr == nil && len(raw) <= MaxFailureDetails {
			f.Details = raw
		}
	}
	for e := unwrap(err); e != nil && len(f.Causes) < MaxCauses; e = unwrap(e) {
		f.Causes = append(f.Causes, Cause{Name: nameOf(e), Message: cut(e.Error())})
	}
	return f
}

// Error returns the message.
func (f *Failure) Error() string { return f.Message }

// FailureName returns the stored name, so that a failure stored again keeps it.
func (f *Failure) FailureName() string { return f.Name }

// Is reports whether target is a Failure of the same name and message; so a stored error compares equal to itself
// after every replay.
func (f *Failure) Is(target error) bool {
	t, ok := target.(*Failure)
	return ok && t.Name == f.Name && t.Message == f.Message
}

func nameOf(err error) string {
	if n, ok := err.(Named); ok && n.FailureName() != "" {
		return n.FailureName()
	}
	return FailureError
}

// unwrap follows the first branch of joined errors: a chain is what people read.
func unwrap(err error) error {
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return x.Unwrap()
	case interface{ Unwrap() []error }:
		if all := x.Unwrap(); len(all) > 0 {
			return all[0]
		}
	}
	return nil
}

// cut keeps a message within its limit and valid UTF-8.
func cut(s string) string {
	if len(s) > MaxFailureMessage {
		s = s[:MaxFailureMessage] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
