package workflow

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Errors of calls that come from the wrong place or at the wrong time. Nothing is stored for them.
var (
	// ErrNoWorkflow is returned by a step whose context is not one of workflow code.
	ErrNoWorkflow = execution.ErrNoWorkflow
	// ErrNested is returned by a step that is called from the body of another.
	ErrNested = execution.ErrNested
	// ErrUndoing is returned by a step that is called from a compensation.
	ErrUndoing = execution.ErrUndoing
	// ErrNoBody is returned by a heartbeat that does not come from the body of a step.
	ErrNoBody = execution.ErrNoBody
	// ErrInFlight is returned by a step if another of the same name has not finished.
	ErrInFlight = engine.ErrInFlight
	// ErrAmbiguous is returned by a step whose name another branch of the same group uses as well: which came first
	// would decide whose result is whose.
	ErrAmbiguous = engine.ErrAmbiguous
	// ErrLost is the cause with which the contexts of the functions of a [Race] end that were not first, and the error of what
	// they still call.
	ErrLost = execution.ErrLost
	// ErrNoProject is returned by a binding outside of an agent's turn and a workflow: use its In method.
	ErrNoProject = errors.New("no project in this context: use In with an open project")
	// ErrBetweenSteps is returned by bindings and instances that workflow code uses between steps: it would do so again in
	// every run. Use them in the body of a step, which is recorded.
	ErrBetweenSteps = errors.New("used between steps: use it in the body of a step, which is recorded")
	// ErrWouldBlock is returned by Result in an agent's turn: the turn would hold up the agent.
	ErrWouldBlock = errors.New("waiting for a result would block the agent's turn")
	// ErrExists is wrapped by [ExistsError].
	ErrExists = errors.New("instance exists")
	// ErrNotFound is wrapped by [NotFoundError].
	ErrNotFound = errors.New("instance not found")
	// ErrUnreadable is wrapped by [UnreadableError].
	ErrUnreadable = errors.New("cannot be read by this version of Skein")
	// ErrFinished is wrapped by [FinishedError].
	ErrFinished = errors.New("instance has ended")
	// ErrUnknownStep is wrapped by [UnknownStepError].
	ErrUnknownStep = errors.New("the instance has no such step")
	// ErrDivergence is wrapped by [DivergenceError].
	ErrDivergence = errors.New("the code contradicts the history")
	// ErrNotOwner is wrapped by [NotOwnerError].
	ErrNotOwner = errors.New("not an instance of this project")
	// ErrNoRunner is returned for a question that only a runner of the project can answer, if none is there.
	ErrNoRunner = errors.New("no runner of the project answers")
	// ErrRestarted ends a list of steps that a restart has made void.
	ErrRestarted = errors.New("the instance was restarted meanwhile")
	// ErrNoTarget is wrapped by [NoTargetError].
	ErrNoTarget = errors.New("no such workflow is registered")
	// ErrOption is wrapped by [OptionError].
	ErrOption = errors.New("invalid option")
	// ErrStepLimit is what the error of an instance is that called more steps than it may: the limit is limits.steps of its
	// workflow in skein.jsonc.
	ErrStepLimit = errors.New("too many steps")
	// ErrStateLimit is what the error of an instance is that was given more results and events than it may keep: the limit
	// is limits.state of its workflow in skein.jsonc.
	ErrStateLimit = errors.New("too large a state")
	// ErrBatchSize is wrapped by [BatchSizeError].
	ErrBatchSize = errors.New("a batch of this size is not allowed")
	// ErrNoSpace is what a create, an event or a control comes to for which NATS has had no room for some seconds. Nothing was
	// stored, unless the error says that this is not known. There may be room later: see docs/operations.md.
	ErrNoSpace = journal.ErrNoSpace
	// ErrTooLarge is wrapped by [SizeError].
	ErrTooLarge = errors.New("value is too large")
)

// Failure is an error in the form in which it is stored: name, message, causes, details.
type Failure = protocol.Failure

// StepError is the outcome of a step that failed for good. It is the same in every run.
type StepError struct {
	Step string
	*Failure
}

func (e *StepError) Error() string { return fmt.Sprintf("step %q: %s", e.Step, e.Message) }

// Unwrap gives the stored failure.
func (e *StepError) Unwrap() error { return e.Failure }

// Is makes errors.Is(err, context.DeadlineExceeded) true for a timeout.
func (e *StepError) Is(target error) bool { return isTimeout(e.Failure, target) }

// TimeoutError is the outcome of a wait whose time ran out; errors.Is(err, context.DeadlineExceeded) holds.
type TimeoutError struct {
	Step string
	*Failure
}

func (e *TimeoutError) Error() string { return fmt.Sprintf("wait %q: %s", e.Step, e.Message) }

// Unwrap gives the stored failure.
func (e *TimeoutError) Unwrap() error { return e.Failure }

// Is makes errors.Is(err, context.DeadlineExceeded) true.
func (e *TimeoutError) Is(target error) bool { return isTimeout(e.Failure, target) }

// InstanceError is how an instance ended that did not complete.
type InstanceError struct {
	Workflow string
	ID       string
	*Failure
}

func (e *InstanceError) Error() string {
	return fmt.Sprintf("instance %q of workflow %q failed: %s", e.ID, e.Workflow, e.Message)
}

// Unwrap gives the stored failure.
func (e *InstanceError) Unwrap() error { return e.Failure }

// Is makes errors.Is(err, context.DeadlineExceeded) true for a timeout, and errors.Is(err, ErrStepLimit) or
// errors.Is(err, ErrStateLimit) for an instance that came to one of its limits, errors.Is(err, ErrRejected) for one that was
// refused its approval.
func (e *InstanceError) Is(target error) bool {
	return isTimeout(e.Failure, target) || target == ErrStepLimit && e.Name == protocol.FailureStepLimit ||
		target == ErrStateLimit && e.Name == protocol.FailureStateLimit || target == ErrRejected && e.Name == protocol.FailureRejected
}

func isTimeout(f *Failure, target error) bool {
	return target == context.DeadlineExceeded && f.Name == protocol.FailureTimeout
}

// ExistsError refuses a create: an instance of this id exists.
type ExistsError struct{ Workflow, ID string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("create instance %q of workflow %q: %v; choose another id, or get the one that is there", e.ID, e.Workflow, ErrExists)
}

// Unwrap makes errors.Is(err, ErrExists) true.
func (e *ExistsError) Unwrap() error { return ErrExists }

// DuplicateError refuses an instance of a [Bound.CreateBatch] whose id an earlier one of the batch has. It is an ErrExists,
// too.
type DuplicateError struct {
	Workflow, ID string
	// First is the place in the batch of the one that has the id, from 0.
	First int
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("create instance %q of workflow %q: %v: it is number %d of the batch", e.ID, e.Workflow, ErrExists, e.First)
}

// Unwrap makes errors.Is(err, ErrExists) true.
func (e *DuplicateError) Unwrap() error { return ErrExists }

// BatchSizeError refuses a batch that is empty or has more than MaxBatch instances.
type BatchSizeError struct {
	// Call is the method that was called.
	Call        string
	Size, Limit int
}

func (e *BatchSizeError) Error() string {
	return fmt.Sprintf("%s: %v: it has %d instances, allowed are 1 to %d", e.Call, ErrBatchSize, e.Size, e.Limit)
}

// Unwrap makes errors.Is(err, ErrBatchSize) true.
func (e *BatchSizeError) Unwrap() error { return ErrBatchSize }

// NotFoundError says that there is no such instance.
type NotFoundError struct{ Workflow, ID string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("instance %q of workflow %q: %v", e.ID, e.Workflow, ErrNotFound)
}

// Unwrap makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// UnreadableError says that an instance cannot be told of: what is stored of it was written by a newer version of Skein, or
// is damaged. Err says what and where.
type UnreadableError struct {
	Workflow, ID string
	Err          error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("instance %q of workflow %q: %v: %v", e.ID, e.Workflow, ErrUnreadable, e.Err)
}

// Unwrap makes errors.Is(err, ErrUnreadable) true.
func (e *UnreadableError) Unwrap() []error { return []error{ErrUnreadable, e.Err} }

// FinishedError refuses what can be done only with an instance that has not ended.
type FinishedError struct {
	Workflow, ID string
	// State is how it has ended.
	State State
}

func (e *FinishedError) Error() string {
	return fmt.Sprintf("instance %q of workflow %q: %v: it is %s", e.ID, e.Workflow, ErrFinished, e.State)
}

// Unwrap makes errors.Is(err, ErrFinished) true.
func (e *FinishedError) Unwrap() error { return ErrFinished }

// UnknownStepError refuses a restart from a step that is not in the log of the instance.
type UnknownStepError struct {
	Workflow, ID string
	Kind         StepKind
	Step         string
	Count        int
}

func (e *UnknownStepError) Error() string {
	return fmt.Sprintf("instance %q of workflow %q: %v: %s %q, use %d", e.ID, e.Workflow, ErrUnknownStep, e.Kind, e.Step, e.Count)
}

// Unwrap makes errors.Is(err, ErrUnknownStep) true.
func (e *UnknownStepError) Unwrap() error { return ErrUnknownStep }

// NoTargetError says that a binding leads to a project or workflow that nobody has registered.
type NoTargetError struct {
	Binding, Project, Workflow string
	// Projects are the registered projects if Project is not among them, else Workflows those of the project.
	Projects, Workflows []string
}

func (e *NoTargetError) Error() string {
	if e.Workflows == nil && e.Projects != nil {
		return fmt.Sprintf("binding %q: no project %q is registered, there %s; has one of its runners ever started, and, if it has an account of its own, has it granted this one access?",
			e.Binding, e.Project, listed("is", "are", e.Projects))
	}
	return fmt.Sprintf("binding %q: project %q has no workflow %q, there %s",
		e.Binding, e.Project, e.Workflow, listed("is", "are", e.Workflows))
}

func listed(one, many string, names []string) string {
	switch len(names) {
	case 0:
		return one + " none"
	case 1:
		return fmt.Sprintf("%s %q", one, names[0])
	}
	return many + ` "` + strings.Join(names, `", "`) + `"`
}

// Unwrap makes errors.Is(err, ErrNoTarget) true.
func (e *NoTargetError) Unwrap() error { return ErrNoTarget }

// ClassError says that skein.jsonc binds a workflow to another class than its project has registered for it.
type ClassError struct{ Binding, Workflow, Want, Have string }

func (e *ClassError) Error() string {
	return fmt.Sprintf("binding %q: class_name is %q, but workflow %q is of class %q", e.Binding, e.Want, e.Workflow, e.Have)
}

// OptionError refuses the value of an option.
type OptionError struct {
	Option  string
	Value   any
	Allowed string
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("%v: %s is %v, allowed is %s", ErrOption, e.Option, e.Value, e.Allowed)
}

// Unwrap makes errors.Is(err, ErrOption) true.
func (e *OptionError) Unwrap() error { return ErrOption }

// SizeError says that a value is over a limit. Store larger values elsewhere and pass on where.
type SizeError struct {
	// What names the value.
	What string
	// Size and Limit are in bytes, as JSON.
	Size, Limit int64
	// Setting is what the operator can set to change the limit, empty if nobody can.
	Setting string
}

func (e *SizeError) Error() string {
	text := fmt.Sprintf("%s: %v: %d bytes as JSON, at most %d are allowed", e.What, ErrTooLarge, e.Size, e.Limit)
	if e.Setting != "" {
		text += " (" + e.Setting + ")"
	}
	return text
}

// Unwrap makes errors.Is(err, ErrTooLarge) true.
func (e *SizeError) Unwrap() error { return ErrTooLarge }

// Terminal is true: the same value would be too large again.
func (e *SizeError) Terminal() bool { return true }

// FailureName names the error when it is stored.
func (e *SizeError) FailureName() string { return protocol.FailureEncoding }

// EncodingError says that a value cannot travel as JSON.
type EncodingError struct {
	What string
	Err  error
}

func (e *EncodingError) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Err) }

// Unwrap gives the error of encoding/json.
func (e *EncodingError) Unwrap() error { return e.Err }

// Terminal is true: the same value would fail again.
func (e *EncodingError) Terminal() bool { return true }

// FailureName names the error when it is stored.
func (e *EncodingError) FailureName() string { return protocol.FailureEncoding }

// NonRetryable marks an error of a step's body: the step fails at once, without further attempts.
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return &nonRetryable{err}
}

type nonRetryable struct{ error }

func (e *nonRetryable) Unwrap() error  { return e.error }
func (e *nonRetryable) Terminal() bool { return true }
func (e *nonRetryable) FailureName() string {
	if n, ok := errors.AsType[interface {
		error
		protocol.Named
	}](e.error); ok {
		return n.FailureName()
	}
	return "NonRetryableError"
}
