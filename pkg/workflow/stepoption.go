package workflow

import (
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// StepOption is an option of [Do] and [Exec].
//
// What a step's options say is recorded when it first runs, and stays: code with other options that takes over an
// instance goes by them for the steps that it begins. The functions of [RetryIf] and [DelayFunc] are code, of course:
// those at hand are asked.
type StepOption interface {
	applyStep(*stepOptions) error
}

type stepOptions struct {
	name   string
	config protocol.StepConfig
	code   execution.Code
	undo   compensation
}

func newStepOptions(name string, options []StepOption) (stepOptions, error) {
	o := stepOptions{name: name, config: protocol.DefaultStep()}
	if err := protocol.CheckStep(name); err != nil {
		return o, err
	}
	if err := o.apply(options); err != nil {
		return o, fmt.Errorf("step %q: %w", name, err)
	}
	return o, nil
}

func (o *stepOptions) apply(options []StepOption) error {
	for _, option := range options {
		if err := option.applyStep(o); err != nil {
			return err
		}
	}
	if o.config.Dynamic && (o.config.Jitter != 0 || o.config.MaxDelay != 0) {
		return &OptionError{
			Option: "DelayFunc", Value: "given with Jitter or MaxDelay", Allowed: "without: what it returns is what is waited",
		}
	}
	return nil
}

// Sensitive keeps the result of a step from being shown: the status, subscriptions and logs say [REDACTED] in its place,
// and an error about decoding it does not quote it. The workflow, and whoever may read the project's stream, sees it.
// Errors of the body are shown.
func Sensitive() StepOption { return sensitive{} }

type sensitive struct{}

func (sensitive) applyStep(o *stepOptions) error {
	o.config.Sensitive = true
	return nil
}

// errHidden stands for an error that may quote a sensitive value.
var errHidden = errors.New("its JSON does not fit the type, and what is sensitive is not shown")

// hide takes a sensitive value out of an error about its encoding.
func hide(err error, sensitive bool) error {
	if e, ok := errors.AsType[*EncodingError](err); ok && sensitive {
		return &EncodingError{What: e.What, Err: errHidden}
	}
	return err
}
