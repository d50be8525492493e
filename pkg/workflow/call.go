package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// CallOption is an option of [Call].
type CallOption interface{ applyCall(*callOptions) error }

type callOptions struct {
	// id is empty if it is to be derived.
	id        string
	timeout   time.Duration
	retention *protocol.Retention
}

// Call starts an instance of the workflow that a binding leads to and waits for its result, as a step: the child is
// started once, whatever crashes, and while it runs the caller is parked and holds no slot. The name identifies the step
// as in [Do].
//
// A child that does not complete makes Call return a [*CallError], which wraps an [*InstanceError]: it failed, was
// terminated or deleted. So does a call that cannot be made (an unknown binding, params that are too large, an id that is
// taken); nothing is started then. With [Timeout], the error is a [*TimeoutError] when the time is over; without, the
// child may take as long as it will.
//
// The child ends with its call: when the time is over, when ctx ends (in a [Group] whose other function failed), and
// when the caller ends without waiting for it, it is terminated. See [Start] for a child that outlives its parent.
func Call[P, R any](ctx context.Context, name string, binding Binding[P, R], params P, options ...CallOption) (R, error) {
	var zero R
	var o callOptions
	for _, option := range options {
		if err := option.applyCall(&o); err != nil {
			return zero, fmt.Errorf("call %q: %w", name, err)
		}
	}
	scope, p, err := caller(ctx, name)
	if err != nil {
		return zero, fmt.Errorf("call %q: %w", name, err)
	}
	c := child{project: p, binding: binding.name, options: o, params: params}
	a, err := scope.Call(ctx, name, execution.Call{Timeout: o.timeout, Resolve: c.resolve, Create: c.make})
	if err != nil {
		return zero, fmt.Errorf("call %q: %w", name, err)
	}
	return answer[R](name, a)
}

// caller returns what a call or a start belongs to.
func caller(ctx context.Context, name string) (*execution.Scope, *project.Project, error) {
	scope, err := execution.From(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, ok := project.From(ctx)
	if !ok {
		return nil, nil, ErrNoProject
	}
	return scope, p, protocol.CheckStep(name)
}

// answer turns the outcome of a call into what it returns.
func answer[R any](name string, a execution.Answer) (R, error) {
	var zero R
	failed := &CallError{Step: name, Project: a.Callee.Project, Workflow: a.Callee.Workflow, ID: a.Callee.ID, Failure: a.Failure}
	switch {
	case a.Done == nil && a.Failure.Name == protocol.FailureTimeout:
		return zero, &TimeoutError{Step: name, Failure: a.Failure}
	case a.Done == nil:
		return zero, failed
	case a.Done.Error != nil:
		failed.Failure, failed.ended = a.Done.Error, a.Done.Incarnation != 0 // else its project refused to make it
		return zero, failed
	}
	return decode[R](a.Done.Output, fmt.Sprintf("result of workflow %q", a.Callee.Workflow))
}

// child is what a call needs to make its instance.
type child struct {
	project *project.Project
	binding string
	options callOptions
	params  any

	raw     json.RawMessage  // the params, encoded
	create  *protocol.Create // the same for every try
	missing int              // how often there was no stream for it
}

// resolve finds the instance to make and encodes the params: whatever is wrong with them is found before anything is
// stored.
func (c *child) resolve(ctx context.Context, parent protocol.Parent) (protocol.Callee, error) {
	if err := c.encode(); err != nil {
		return protocol.Callee{}, refuse(err)
	}
	target, err := c.project.Config.Binding(c.binding)
	if err != nil {
		return protocol.Callee{}, refuse(err)
	}
	shards, err := registered(ctx, c.project, target)
	if err != nil {
		return protocol.Callee{}, refuse(err)
	}
	id := c.options.id
	if id == "" {
		id = parent.ChildID()
	}
	return protocol.Callee{Project: target.Project, Shard: protocol.Shard(id, shards), Workflow: target.Workflow, ID: id}, nil
}

func (c *child) encode() (err error) {
	if c.raw == nil {
		c.raw, err = encode(c.params, fmt.Sprintf("params for binding %q", c.binding), maxValue(c.project))
	}
	return err
}

// make stores the create of the instance. One that is there with the same input is this one.
func (c *child) make(ctx context.Context, parent protocol.Parent, callee protocol.Callee) (incarnation uint64, err error) {
	at := callee.Instance()
	if err := c.fit(ctx, parent, at); err != nil {
		return 0, err
	}
	instances := c.project.Instances()
	instances.Doors = instances.Doors.Hasty()
	_, incarnation, err = instances.Create(ctx, at, *c.create, protocol.ExistingFail)
	_, away := errors.AsType[*door.AwayError](err)
	switch {
	case away || door.Is(err, protocol.FailureBusy):
		return 0, c.post(ctx, at)
	case door.Is(err, protocol.FailureRefused), door.Is(err, protocol.FailureNoValue):
		return 0, refuse(err)
	case errors.Is(err, client.ErrExists):
		unfit(ctx, c.project, protocol.OwnerOf(at, c.create.Input), c.create.ParamsObject)
		return 0, refuse(&ExistsError{Workflow: at.Workflow, ID: at.ID})
	case err != nil:
		return 0, c.gone(ctx, at, err)
	}
	return incarnation, nil
}

// post lets the create wait until the project of the instance answers at its door: the call waits without holding anything up.
// Whoever says it tells the call if it is refused.
func (c *child) post(ctx context.Context, at protocol.Instance) error {
	err := c.project.Post().Add(ctx, c.project.Doors().To(at.Project), at.ID, protocol.Post{
		Kind: protocol.DoorWorkflow, Name: at.Workflow, Op: protocol.DoorOpCreate, Request: protocol.DoorRequest{ID: at.ID, Create: c.create},
	})
	if err != nil {
		return fmt.Errorf("create instance %s: %w", at, err)
	}
	return nil
}

// fit writes the create, with large params in the object store.
func (c *child) fit(ctx context.Context, parent protocol.Parent, at protocol.Instance) error {
	if c.create != nil {
		return nil
	}
	if err := c.encode(); err != nil {
		return refuse(err)
	}
	create := protocol.Create{
		V: protocol.Version, Input: parent.CreateInput(), Workflow: at.Workflow, ID: at.ID, Created: time.Now().UTC(), Parent: &parent,
		Source:    protocol.Source{Kind: "call", Project: parent.Project, Class: parent.Workflow, Name: parent.ID},
		Retention: c.options.retention,
	}
	var err error
	if create.Params, create.ParamsObject, err = fitToKeep(ctx, c.project, protocol.OwnerOf(at, create.Input), c.raw); err != nil {
		return c.gone(ctx, at, err)
	}
	c.create = &create
	return nil
}

// maxMissing is how often in a row the stream of a project must be missing until it counts as gone.
const maxMissing = 3

// gone turns err into a refusal if the stream of the project that is called does not exist any more.
func (c *child) gone(ctx context.Context, at protocol.Instance, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	if through, wayErr := c.project.Doors().Through(ctx, at.Project); through || wayErr != nil {
		return fmt.Errorf("create instance %s: %w", at, errors.Join(err, wayErr))
	}
	if _, lookErr := c.project.Journal().Last(ctx, at.Stream(), at.CreateSubject()); !errors.Is(lookErr, journal.ErrNoStream) {
		c.missing = 0
		return fmt.Errorf("create instance %s: %w", at, err)
	}
	if c.missing++; c.missing < maxMissing {
		return fmt.Errorf("create instance %s: %w", at, err)
	}
	return refuse(&NoTargetError{Binding: c.binding, Project: at.Project, Workflow: at.Workflow})
}

// refusal is an error of a create that no repetition mends.
type refusal struct {
	error
	name    string
	details any
}

// refuse marks err as a refusal, unless a repetition may mend it.
func refuse(err error) error {
	name := ""
	switch {
	case isA[*project.UnknownBindingError](err):
		name = "UnknownBindingError"
	case isA[*NoTargetError](err):
		name = "NoTargetError"
	case isA[*ClassError](err):
		name = "ClassError"
	case isA[*ExistsError](err):
		name = protocol.FailureExists
	case door.Is(err, protocol.FailureRefused):
		name = protocol.FailureRefused
	case door.Is(err, protocol.FailureNoValue):
		name = protocol.FailureNoValue
	case isA[*SizeError](err), isA[*EncodingError](err), errors.Is(err, protocol.ErrName):
		name = protocol.FailureEncoding
	default:
		return err
	}
	return &refusal{error: err, name: name}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func (r *refusal) Terminal() bool      { return true }
func (r *refusal) FailureName() string { return r.name }

// FailureDetails tells which instance it is about.
func (r *refusal) FailureDetails() any { return r.details }

// CallError is the outcome of a call whose child did not complete, or of a call or start that made no instance. It is
// the same in every run.
type CallError struct {
	Step string
	// Project, Workflow and ID name the instance; they are empty if the binding leads nowhere.
	Project, Workflow, ID string
	*Failure
	ended bool // the child ended like this
}

func (e *CallError) Error() string {
	if e.ended {
		return fmt.Sprintf("call %q: instance %q of workflow %q failed: %s", e.Step, e.ID, e.Workflow, e.Message)
	}
	return fmt.Sprintf("call %q: %s", e.Step, e.Message)
}

// Unwrap gives an [*InstanceError] if the child ended with an error, an [*ExistsError] if its id is another's, and the
// stored failure.
func (e *CallError) Unwrap() []error {
	switch {
	case e.ended:
		return []error{&InstanceError{Workflow: e.Workflow, ID: e.ID, Failure: e.Failure}, e.Failure}
	case e.Name == protocol.FailureExists:
		return []error{&ExistsError{Workflow: e.Workflow, ID: e.ID}, e.Failure}
	}
	return []error{e.Failure}
}

// Is makes errors.Is(err, context.Canceled) true for a call that its caller gave up, and errors.Is(err,
// context.DeadlineExceeded) if that was for a deadline.
func (e *CallError) Is(target error) bool {
	if e.ended || e.Name != protocol.FailureCanceled {
		return false
	}
	late := len(e.Causes) > 0 && e.Causes[0].Name == protocol.FailureTimeout
	return target == context.Canceled && !late || target == context.DeadlineExceeded && late
}
