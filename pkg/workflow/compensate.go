package workflow

import (
	"context"
	"fmt"
	"reflect"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// Compensate undoes what a step did, if its instance fails or is terminated with a rollback. T is the result of the step;
// for [Exec] it is struct{}.
//
// When the workflow function returns an error (or panics), the compensations of all steps that have begun run one at a
// time: that of the step that began last comes first. Then the instance ends as errored (terminated), and its status
// says what became of the rollback. The function gets the recorded result, and as cause the failure of the instance, a
// [*Failure]. A step that failed itself, or was interrupted, may have had an effect, too: for it, result is the zero
// value and cause its own [*StepError], named InterruptedError if it has no outcome.
//
// A compensation is a step of its own: the options that follow say how it is tried, with the defaults of [Do], and it has
// an idempotency key of its own (see [Step]). It may run more than once, and its success is recorded once. It cannot call
// steps. The first one that gives up stops the chain: those left do not run.
//
// The function is not stored. After a crash in the middle of a rollback the workflow function is gone over, as far as it is
// recorded, to find the compensations again; a step that no longer has one holds the instance until code is deployed that
// has, and it is resumed, or until that is accepted. What decides whether a step has one is the code that first ran it.
func Compensate[T any](undo func(ctx context.Context, result T, cause error) error, options ...StepOption) StepOption {
	return compensate[T]{undo, options}
}

type compensate[T any] struct {
	undo    func(ctx context.Context, result T, cause error) error
	options []StepOption
}

func (c compensate[T]) applyStep(o *stepOptions) error {
	if c.undo == nil {
		return &OptionError{Option: "Compensate", Value: "nil", Allowed: "a function"}
	}
	if o.undo != nil {
		return &OptionError{Option: "Compensate", Value: "given twice", Allowed: "one per step"}
	}
	how := stepOptions{name: o.name, config: protocol.DefaultStep()}
	if err := how.apply(c.options); err != nil {
		return fmt.Errorf("its compensation: %w", err)
	}
	if how.undo != nil {
		return &OptionError{Option: "Compensate", Value: "given for a compensation", Allowed: "one per step"}
	}
	o.undo, o.config.Rollback = c, &how.config
	o.code.Undo = &execution.Undo{
		RetryIf: how.code.RetryIf, Delay: how.code.Delay,
		Body: func(ctx context.Context, of execution.Undone) error { return c.run(ctx, o.name, of) },
	}
	return nil
}

func (c compensate[T]) run(ctx context.Context, name string, of execution.Undone) error {
	var zero T
	if of.Failure != nil {
		return c.undo(ctx, zero, &StepError{Step: name, Failure: of.Failure})
	}
	result, err := decode[T](of.Result, fmt.Sprintf("result of step %q", name))
	if err != nil {
		return hide(err, of.Sensitive)
	}
	return c.undo(ctx, result, of.Cause)
}

// result is the type that the compensation wants.
func (c compensate[T]) result() reflect.Type { return reflect.TypeFor[T]() }

// compensation is what a step was given to undo it.
type compensation interface{ result() reflect.Type }

// checkUndo refuses a compensation for a result of another type than the step's.
func checkUndo[T any](o stepOptions) error {
	if o.undo == nil || o.undo.result() == reflect.TypeFor[T]() {
		return nil
	}
	return fmt.Errorf("step %q: %w", o.name, &OptionError{
		Option: "Compensate", Value: fmt.Sprintf("for a result of type %v", o.undo.result()),
		Allowed: fmt.Sprintf("the type of the step's result, %v", reflect.TypeFor[T]()),
	})
}

// Rollback is what became of undoing the steps of an instance.
type Rollback = protocol.Rollback
