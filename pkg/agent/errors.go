package agent

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

var (
	// ErrNoTurn is returned by calls that need a turn and got a context of none, of another agent's, or of one that
	// is over.
	ErrNoTurn = errors.New("not called from a turn of this agent: pass on the context that the handler got, and only until it returns")
	// ErrLostOwnership is the cause with which a turn's context ends if another host has taken the agent.
	ErrLostOwnership = errors.New("this host does not own the agent any more")
	// ErrTurnTooLong is the cause with which a turn's context ends at the limit. What the turn asked for is dropped.
	ErrTurnTooLong = errors.New("the turn took too long")
	// ErrOverlapped is the cause with which the context of a callback ends if its schedule, with OverlapCancelRunning, has fired
	// again. If the callback then fails, it is not tried again.
	ErrOverlapped = errors.New("the schedule has fired again, which cancels the firings before")
	// ErrInboxTurn is returned by Save in a turn for mail: that is stored once, with the mark that the mail is applied.
	ErrInboxTurn = errors.New("a turn for mail is stored once, at its end")
	// ErrDraftOpen is returned by Outside in a turn for mail that has asked for something already.
	ErrDraftOpen = errors.New("a turn for mail can go outside only before it asks for anything")
	// ErrShutdown is the cause with which a turn's context ends if the host stops and cannot wait any longer.
	ErrShutdown = errors.New("the host is shutting down")
)

// errMoved is returned to a caller whose request was not started, because the agent lives elsewhere or nowhere now.
var errMoved = errors.New("the agent has moved")

// Error is an error that an OnRequest answers with: its status, and its message to the caller. Any other error is
// answered with status 500.
type Error struct {
	// Status is the HTTP status; 0 is 500.
	Status int
	// Name says what kind of error it is, for programs; empty is "Error".
	Name string
	// Message says what happened, for people; empty is that of Err, or else the status text.
	Message string
	// RetryAfter says when to try again, in a header of the answer; 0 says nothing.
	RetryAfter time.Duration
	// Err is what the error stems from; it may be nil.
	Err error
}

func (e *Error) Error() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Err != nil:
		return e.Err.Error()
	}
	return strings.ToLower(http.StatusText(e.status()))
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// FailureName returns Name.
func (e *Error) FailureName() string { return e.Name }

func (e *Error) status() int {
	if e.Status < 400 || e.Status > 599 {
		return http.StatusInternalServerError
	}
	return e.Status
}

// ClassError says why a class cannot be served.
type ClassError struct {
	Class  string
	Reason string
}

func (e *ClassError) Error() string { return fmt.Sprintf("agent class %q: %s", e.Class, e.Reason) }

// CallbackError says why something cannot be the callback of a schedule.
type CallbackError struct {
	Class    string
	Callback string
	Reason   string
}

func (e *CallbackError) Error() string {
	return fmt.Sprintf("callback %q of agent class %q: %s", e.Callback, e.Class, e.Reason)
}

// FailureName is how the error is called where it is stored or answered.
func (e *CallbackError) FailureName() string { return "CallbackError" }

// Terminal is true: another attempt would find the same code.
func (e *CallbackError) Terminal() bool { return true }

// ScheduleError says which part of a schedule cannot be used.
type ScheduleError struct {
	// Field is "when", "payload" or "count", or names an option: "from", "until", "times", "jitter" or "catch_up".
	Field  string
	Value  string
	Reason string
}

func (e *ScheduleError) Error() string {
	return fmt.Sprintf("schedule: %s %s: %s", e.Field, e.Value, e.Reason)
}

// FailureName is how the error is called where it is stored or answered.
func (e *ScheduleError) FailureName() string { return "ScheduleError" }

// StateError says why a state cannot be stored or read.
type StateError struct {
	Agent  string
	Reason string
	// Size and Limit are set if the state is too large, in bytes as JSON.
	Size, Limit int64
	// Err is what the error stems from: that of ValidateStateChange, if it has refused the state. It may be nil.
	Err error
}

func (e *StateError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("state of agent %q: %s: %v", e.Agent, e.Reason, e.Err)
	}
	return fmt.Sprintf("state of agent %q: %s", e.Agent, e.Reason)
}

// Unwrap returns what the error stems from.
func (e *StateError) Unwrap() error { return e.Err }

// FailureName is how the error is called where it is stored or answered.
func (e *StateError) FailureName() string { return "StateError" }

// Terminal is true of a state that is too large: another attempt would make it again.
func (e *StateError) Terminal() bool { return e.Limit > 0 }

// RefusedError is handed to OnError if something that a committed turn asked for was refused for good, such as the
// start of an instance whose id another has taken since.
type RefusedError struct {
	// What says what was asked for.
	What string
	Err  error
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s was refused: %v", e.What, e.Err) }

// Unwrap returns why it was refused.
func (e *RefusedError) Unwrap() error { return e.Err }

// FailureName is how the error is called where it is stored or answered.
func (e *RefusedError) FailureName() string { return "RefusedError" }

// PanicError is what a panic in a handler becomes.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// FailureName is how the error is called where it is stored or answered.
func (e *PanicError) FailureName() string { return "PanicError" }
