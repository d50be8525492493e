package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// CallOption is an option of [Call].
type CallOption interface{ applyCall(*callOptions) error }

// StartOption is an option of [Start].
type StartOption interface{ applyStart(*callOptions) error }

type callOptions struct {
	// id is empty if it is to be derived.
	id      string
	timeout time.Duration
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
	c := child{project: p, binding: binding.name, id: o.id, params: params}
	a, err := scope.Call(ctx, name, execution.Call{Timeout: o.timeout, Resolve: c.resolve, Create: c.call})
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
		failed.Failure, failed.ended = a.Done.Error, true
		return zero, failed
	}
	return decode[R](a.Done.Output, fmt.Sprintf("result of workflow %q", a.Callee.Workflow))
}

// startTimeout bounds one attempt to start an instance; a failed one is tried again until it succeeds.
const startTimeout = time.Minute

// Start starts an instance of the workflow that a binding leads to, as a step, and does not wait for it: exactly one,
// whatever crashes. It outlives its parent. The handle is for the bodies of steps: what it returns is not recorded.
//
// A start that cannot be made (an unknown binding, params that are too large, an id that is taken) makes Start return a
// [*CallError].
func Start[P, R any](ctx context.Context, name string, binding Binding[P, R], params P, options ...StartOption) (*Instance[R], error) {
	var o callOptions
	for _, option := range options {
		if err := option.applyStart(&o); err != nil {
			return nil, fmt.Errorf("start %q: %w", name, err)
		}
	}
	scope, p, err := caller(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	c := child{project: p, binding: binding.name, id: o.id, params: params}
	config := protocol.StepConfig{
		Retries: -1, Delay: protocol.Duration(time.Second), Backoff: engine.BackoffExponential,
		MaxDelay: protocol.Duration(time.Minute), Timeout: protocol.Duration(startTimeout), LostRuns: math.MaxInt32,
	}
	step, err := scope.Do(ctx, name, config, execution.Code{Body: c.start})
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	var s started
	if f := step.Error; f != nil {
		_ = json.Unmarshal(f.Details, &s) // without it, nobody knows where it should have been
		return nil, &CallError{Step: name, Project: s.Project, Workflow: s.Workflow, ID: s.ID, Failure: f}
	}
	if err := json.Unmarshal(step.Result, &s); err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	return &Instance[R]{
		at: s.instance(), project: p, created: true,
		reader: runner.Reader{Store: p.Journal(), Project: s.Project, Shards: s.Shards},
	}, nil
}

// started is what a step of [Start] records.
type started struct {
	Project  string `json:"project"`
	Shards   int    `json:"shards"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
}

func (s started) instance() protocol.Instance {
	return protocol.Instance{Project: s.Project, Shard: protocol.Shard(s.ID, s.Shards), Workflow: s.Workflow, ID: s.ID}
}

// child is what one call or start needs to make an instance.
type child struct {
	project *project.Project
	binding string
	id      string
	params  any

	raw     json.RawMessage // the params, encoded
	body    []byte          // of the create, the same for every try
	missing int             // how often there was no stream for it
}

// find resolves the binding and encodes the params: whatever is wrong with them is found before anything is stored.
func (c *child) find(ctx context.Context, id string) (started, error) {
	if err := c.encode(); err != nil {
		return started{}, refuse(err)
	}
	target, err := c.project.Config.Binding(c.binding)
	if err != nil {
		return started{}, refuse(err)
	}
	shards, err := registered(ctx, c.project, target)
	if err != nil {
		return started{}, refuse(err)
	}
	return started{Project: target.Project, Shards: shards, Workflow: target.Workflow, ID: id}, nil
}

func (c *child) encode() (err error) {
	if c.raw == nil {
		c.raw, err = encode(c.params, fmt.Sprintf("params for binding %q", c.binding), maxValue(c.project))
	}
	return err
}

func (c *child) resolve(ctx context.Context, parent protocol.Parent) (protocol.Callee, error) {
	id := c.id
	if id == "" {
		id = parent.ChildID()
	}
	s, err := c.find(ctx, id)
	at := s.instance()
	return protocol.Callee{Project: at.Project, Shard: at.Shard, Workflow: at.Workflow, ID: at.ID}, err
}

// call creates the instance of a call.
func (c *child) call(ctx context.Context, parent protocol.Parent, callee protocol.Callee) (incarnation uint64, err error) {
	return c.create(ctx, callee.Instance(), protocol.Create{
		Input: parent.CreateInput(), Parent: &parent,
		Source: protocol.Source{Kind: "call", Project: parent.Project, Class: parent.Workflow, Name: parent.ID},
	})
}

// start is the body of the step of [Start].
func (c *child) start(ctx context.Context) (json.RawMessage, error) {
	by, key := Info(ctx), Step(ctx).IdempotencyKey
	id := c.id
	if id == "" {
		id = protocol.DerivedID(by.ID, key)
	}
	s, err := c.find(ctx, id)
	if err != nil {
		return nil, err
	}
	_, err = c.create(ctx, s.instance(), protocol.Create{
		Input:  "start/" + key,
		Source: protocol.Source{Kind: "step", Project: by.Project, Class: by.Workflow, Name: by.ID},
	})
	if r, ok := errors.AsType[*refusal](err); ok {
		r.details = s
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// create stores the create of the instance at. One that is there with the same input is this one.
func (c *child) create(ctx context.Context, at protocol.Instance, create protocol.Create) (incarnation uint64, err error) {
	owner := protocol.OwnerOf(at, create.Input)
	if c.body == nil {
		if err := c.encode(); err != nil {
			return 0, refuse(err)
		}
		create.V, create.Workflow, create.ID, create.Created = protocol.Version, at.Workflow, at.ID, time.Now().UTC()
		if create.Params, create.ParamsObject, err = fit(ctx, c.project, owner, c.raw); err != nil {
			return 0, c.gone(ctx, at, err)
		}
		if c.body, err = json.Marshal(create); err != nil {
			return 0, refuse(&EncodingError{What: "create", Err: err})
		}
	}
	incarnation, err = c.project.Journal().Append(ctx, protocol.WorkflowsStream(at.Project), at.CreateSubject(), 0, c.body)
	conflict, ok := errors.AsType[*journal.ConflictError](err)
	switch {
	case err == nil:
		return incarnation, nil
	case !ok:
		return 0, c.gone(ctx, at, err)
	case conflict.Tail == nil: // deleted since
		return 0, fmt.Errorf("create instance %s: %w", at, err)
	}
	var there protocol.Create
	if json.Unmarshal(conflict.Tail.Data, &there) == nil && there.Input == create.Input {
		return there.Incarnation(conflict.Tail.Sequence), nil
	}
	if len(c.raw) > protocol.InlinePayload {
		_ = c.project.Objects().DeleteInstance(ctx, owner) // else it goes when that project's log is cleaned
	}
	return 0, refuse(&ExistsError{Workflow: at.Workflow, ID: at.ID})
}

// maxMissing is how often in a row the stream of a project must be missing until it counts as gone.
const maxMissing = 3

// gone turns err into a refusal if the stream of the project that is called does not exist any more.
func (c *child) gone(ctx context.Context, at protocol.Instance, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	if _, lookErr := c.project.Journal().Last(ctx, protocol.WorkflowsStream(at.Project), at.CreateSubject()); !errors.Is(lookErr, journal.ErrNoStream) {
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
