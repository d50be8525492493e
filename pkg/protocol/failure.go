package protocol

import (
	"encoding/json"
	"errors"
	"reflect"
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
	FailureError   = "Error"
	FailureTimeout = "TimeoutError"
	// FailureAnswerTooLarge is the failure of a call whose answer does not fit into a message.
	FailureAnswerTooLarge = "AnswerTooLarge"
	FailurePanic          = "PanicError"
	FailureLostRuns       = "LostRunsError"
	FailureEncoding       = "EncodingError"
	FailureUsage          = "UsageError"
	// FailureTerminated ends an instance that was told to stop, FailureDivergence holds one whose code contradicts its
	// log.
	FailureTerminated = "TerminatedError"
	FailureDivergence = "DivergenceError"
	// FailureInterrupted is what a compensation is told of a step that had begun and has no outcome.
	FailureInterrupted = "InterruptedError"
	// FailureHeartbeat ends an attempt that gave no sign of life, FailureStepLimit an instance with too many steps,
	// FailureStateLimit one with too large a state.
	FailureHeartbeat  = "HeartbeatError"
	FailureStepLimit  = "StepLimitError"
	FailureStateLimit = "StateLimitError"
	// FailureRetryPolicy ends a step whose functions could not say whether or when it is tried again.
	FailureRetryPolicy = "RetryPolicyError"
	// FailureDeleted tells of the end of an instance that was deleted.
	FailureDeleted = "DeletedError"
	// FailureCanceled ends a call whose caller gave it up, FailureExists one whose instance belongs to somebody else.
	FailureCanceled = "CanceledError"
	FailureExists   = "ExistsError"
	// FailureRace ends a race in which no function succeeded.
	FailureRace = "RaceError"
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
// Details that are nil, cannot be encoded or are over MaxFailureDetails are left out. An error that wraps a stored failure is
// stored as if it wrapped the original: a replay comes to the same failure as the first run.
func NewFailure(err error) *Failure {
	stored, ok := errors.AsType[*Failure](err)
	if ok && error(stored) == err {
		return stored.storable()
	}
	f := &Failure{Name: nameOf(err), Message: cut(err.Error())}
	if stored != nil {
		f.Terminal, f.Details = stored.Terminal, stored.storable().Details
	}
	if t, ok := errors.AsType[TerminalError](err); ok {
		f.Terminal = t.Terminal()
	}
	if d, ok := errors.AsType[Detailed](err); ok {
		f.Details = detailsOf(d)
	}
	for e := unwrap(err); e != nil; e = unwrap(e) {
		f.Causes = append(f.Causes, Cause{Name: nameOf(e), Message: cut(e.Error())})
		if s, ok := e.(*Failure); ok {
			f.Causes = append(f.Causes, s.storable().Causes...)
		}
		if len(f.Causes) >= MaxCauses {
			f.Causes = f.Causes[:MaxCauses]
			break
		}
	}
	return f
}

// storable is the failure within what a log can hold: programs make failures, too.
func (f *Failure) storable() *Failure {
	if f == nil {
		return &Failure{Name: FailureError, Message: "an error of type *Failure that is nil"}
	}
	s := *f
	if s.Name == "" {
		s.Name = FailureError
	}
	s.Name, s.Message = cut(s.Name), cut(s.Message)
	if len(s.Details) > MaxFailureDetails || !json.Valid(s.Details) {
		s.Details = nil
	}
	s.Causes = nil
	for _, c := range f.Causes[:min(len(f.Causes), MaxCauses)] {
		s.Causes = append(s.Causes, Cause{Name: cut(c.Name), Message: cut(c.Message)})
	}
	if reflect.DeepEqual(s, *f) {
		return f
	}
	return &s
}

// detailsOf returns nil for an error that has nothing to hand on, or nothing that can be stored.
func detailsOf(err Detailed) json.RawMessage {
	raw, encErr := json.Marshal(err.FailureDetails())
	if encErr != nil || len(raw) > MaxFailureDetails || string(raw) == "null" {
		return nil
	}
	return raw
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
		return cut(n.FailureName())
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

// cut keeps a text within MaxFailureMessage and valid UTF-8: JSON would replace other bytes, and what is read back
// would not be what was stored.
func cut(s string) string {
	const mark = "…"
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= MaxFailureMessage {
		return s
	}
	return strings.ToValidUTF8(s[:MaxFailureMessage-len(mark)], "") + mark
}
