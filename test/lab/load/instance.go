package load

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

type handle = workflow.Instance[[]string]

// instance is what a client does with one.
type instance struct {
	*Load
	kind     kind
	rng      *rand.Rand
	project  string
	workflow string
	id       string
	// script is what it was created with last, handle leads to it.
	script work.Script
	handle *handle
	// over is set if somebody was told how it has ended.
	over bool
}

// live creates the instance, does to it what its kind says, and waits for its end.
func (i *instance) live(ctx context.Context) error {
	if created, err := i.create(ctx, i.kind.ops(i.rng)); err != nil || !created {
		return err
	}
	if i.kind.during != nil {
		if err := i.kind.during(ctx, i); err != nil {
			return err
		}
	}
	outcome, err := i.ask(ctx, i.request("result", workflow.ErrNotFound), func(ctx context.Context) (any, error) {
		output, err := i.handle.Result(ctx)
		if ended, ok := errors.AsType[*workflow.InstanceError](err); ok {
			return work.End{Failure: ended.Name, Message: ended.Message}, nil
		}
		return work.End{Output: output}, err
	})
	i.over = outcome == notes.OK
	return err
}

func (i *instance) request(action string, refusals ...error) request {
	return request{Note: notes.Note{Action: action, Project: i.project, Workflow: i.workflow, ID: i.id}, refusals: refusals}
}

// create reports whether there is an instance that may be reached.
func (i *instance) create(ctx context.Context, ops []work.Op) (bool, error) {
	outcome, err := i.ask(ctx, i.request("create", workflow.ErrExists), func(ctx context.Context) (any, error) {
		script := work.Script{By: requestOf(ctx), Kind: i.kind.name, Ops: ops}
		created, err := i.bound(i.project, i.workflow).Create(ctx, script, workflow.ID(i.id))
		if err == nil {
			i.script, i.handle = script, created
		}
		return nil, err
	})
	return outcome == notes.OK, err
}

// send sends an event with an id. That the instance has ended is no reason to stop.
func (i *instance) send(ctx context.Context, to *handle, event, id, payload string) error {
	r := i.request("event", workflow.ErrFinished, workflow.ErrNotFound)
	r.Lane = id
	_, err := i.ask(ctx, r, func(ctx context.Context) (any, error) {
		return nil, to.SendEvent(ctx, event, payload, workflow.EventID(id))
	})
	return err
}

// steer asks for a control.
func (i *instance) steer(ctx context.Context, action string, do func(context.Context) error) error {
	_, err := i.ask(ctx, i.request(action, workflow.ErrFinished, workflow.ErrNotFound, workflow.ErrUnknownStep), func(ctx context.Context) (any, error) {
		return nil, do(ctx)
	})
	return err
}
