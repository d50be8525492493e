package workflow

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// Race runs functions of workflow code side by side, as a [Group] does, and returns the result of the one that returns
// first, with its index. Which one that is, is recorded with what it returned: it is the same in every run, whatever
// comes later or faster then. The name identifies the race as that of a step does.
//
//	winner, answer, err := workflow.Race(ctx, "an answer, or a day",
//		func(ctx context.Context) (Answer, error) { return ask(ctx) },
//		func(ctx context.Context) (Answer, error) { return Answer{}, workflow.Sleep(ctx, "a day", 24*time.Hour) })
//
// First is who was given the outcome of its last step or wait first; the code between them counts as taking no time. The
// contexts of the others end with the cause [ErrLost], and what they wait for is given up: an event that has not been
// given to them goes to another wait, children that they called are terminated, bodies of steps see their contexts end,
// and what those return then is dropped. Race returns when all functions have returned.
//
// A function that returns an error has returned, too: if it is first, Race returns its index and a [*RaceError]. See
// [FirstSuccess] for another rule. If ctx ends, Race returns −1 and the cause, and records nothing.
func Race[T any](ctx context.Context, name string, functions ...func(ctx context.Context) (T, error)) (winner int, result T, err error) {
	return race(ctx, name, false, functions)
}

// FirstSuccess is a [Race] for the first function that returns without an error. If all fail, it returns −1 and a
// [*RaceError] that wraps what they returned.
func FirstSuccess[T any](ctx context.Context, name string, functions ...func(ctx context.Context) (T, error)) (winner int, result T, err error) {
	return race(ctx, name, true, functions)
}

func race[T any](ctx context.Context, name string, firstSuccess bool, functions []func(ctx context.Context) (T, error)) (int, T, error) {
	var zero T
	scope, err := execution.From(ctx)
	switch {
	case err != nil:
		return -1, zero, fmt.Errorf("race %q: %w", name, err)
	case len(functions) == 0:
		return -1, zero, fmt.Errorf("race %q: %w", name, &OptionError{Option: "functions", Value: 0, Allowed: "at least one"})
	}
	if err := protocol.CheckStep(name); err != nil {
		return -1, zero, err
	}
	what := fmt.Sprintf("result of race %q", name)
	if _, err := json.Marshal(zero); isUnsupported(err) {
		return -1, zero, &EncodingError{What: what, Err: err}
	}
	bodies := make([]execution.Body, len(functions))
	for i, f := range functions {
		bodies[i] = func(ctx context.Context) (json.RawMessage, error) {
			result, err := f(ctx)
			if err != nil {
				return nil, err
			}
			return encode(result, what, scope.MaxValue())
		}
	}
	ended, err := scope.Race(ctx, name, firstSuccess, bodies)
	switch {
	case err != nil:
		return -1, zero, fmt.Errorf("race %q: %w", name, err)
	case ended.Failure != nil:
		return ended.Winner, zero, &RaceError{Race: name, Winner: ended.Winner, Failure: ended.Failure, errs: ended.Errs}
	}
	result, err := decode[T](ended.Result, what)
	return ended.Winner, result, err
}

// RaceError is the outcome of a race in which the first function failed, or all did. It wraps what they returned, and the
// stored failure.
type RaceError struct {
	Race string
	// Winner is the index of the function that was first, −1 if that was to be one without an error.
	Winner int
	*Failure
	errs []error
}

func (e *RaceError) Error() string { return fmt.Sprintf("race %q: %s", e.Race, e.Message) }

// Unwrap gives what the functions returned, and the stored failure.
func (e *RaceError) Unwrap() []error { return append(e.errs[:len(e.errs):len(e.errs)], e.Failure) }

// Is makes errors.Is(err, context.DeadlineExceeded) true for a timeout.
func (e *RaceError) Is(target error) bool { return isTimeout(e.Failure, target) }
