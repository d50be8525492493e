package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Binding reaches a workflow by the name that skein.jsonc gives it: in the own project, or with script_name in
// another's. P is what it is started with, R its result. A Binding is immutable; keep it in a package variable.
type Binding[P, R any] struct{ name string }

// Bind makes a binding. Nothing is checked yet: see agent.Uses, and the errors of Create.
func Bind[P, R any](name string) Binding[P, R] { return Binding[P, R]{name: name} }

// BindingName is the name in skein.jsonc.
func (b Binding[P, R]) BindingName() string { return b.name }

// In uses the binding for a project that the program has opened.
func (b Binding[P, R]) In(p *project.Project) Bound[P, R] {
	return Bound[P, R]{name: b.name, project: p}
}

// Create starts an instance. In an agent's turn it is part of the turn's commit: it starts when the turn is stored,
// and not at all if it fails. Elsewhere (bodies of steps) it starts at once; see [Bound.Create] for the errors.
func (b Binding[P, R]) Create(ctx context.Context, params P, options ...CreateOption) (*Instance[R], error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.Create(ctx, params, options...)
}

// Get finds an instance. The error is a [*NotFoundError] if there is none.
func (b Binding[P, R]) Get(ctx context.Context, id string) (*Instance[R], error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.Get(ctx, id)
}

func (b Binding[P, R]) bound(ctx context.Context) (Bound[P, R], error) {
	if _, err := execution.From(ctx); err == nil {
		return Bound[P, R]{}, fmt.Errorf("binding %q: used between steps: use it in the body of a step, which is recorded", b.name)
	}
	p, ok := project.From(ctx)
	if !ok {
		return Bound[P, R]{}, fmt.Errorf("binding %q: %w", b.name, ErrNoProject)
	}
	return b.In(p), nil
}

// Bound is a binding as one project resolves it.
type Bound[P, R any] struct {
	name    string
	project *project.Project
}

// Create starts an instance with params, which travel as JSON of at most max_value_size. It returns when the start is
// durable.
//
// The errors, all before anything is stored: [*project.UnknownBindingError], [*NoTargetError] if the binding leads to
// what nobody registered, [*ClassError], protocol.ErrName for a bad id, [*EncodingError], [*SizeError], and
// [*ExistsError] if the id is taken.
func (b Bound[P, R]) Create(ctx context.Context, params P, options ...CreateOption) (*Instance[R], error) {
	o := createOptions{id: uuid.NewString()}
	for _, option := range options {
		if err := option.applyCreate(&o); err != nil {
			return nil, fmt.Errorf("binding %q: %w", b.name, err)
		}
	}
	raw, err := encode(params, fmt.Sprintf("params for binding %q", b.name), maxValue(b.project))
	if err != nil {
		return nil, err
	}
	instance, err := b.instance(ctx, o.id)
	if err != nil {
		return nil, err
	}
	create := protocol.Create{
		V: protocol.Version, Input: uuid.NewString(), Workflow: instance.at.Workflow, ID: o.id,
		Created: time.Now().UTC(), Source: protocol.Source{Kind: "program", Project: b.project.Config.Name},
	}
	if t, ok := turn.From(ctx); ok {
		err = b.createInTurn(ctx, t, instance.at, create, raw)
	} else {
		instance.created = true
		err = b.createNow(ctx, instance.at, create, raw)
	}
	if err != nil {
		return nil, err
	}
	return instance, nil
}

// createInTurn asks for the start with the commit of the turn. An id that is taken is told at once.
func (b Bound[P, R]) createInTurn(ctx context.Context, t turn.Turn, at protocol.Instance, create protocol.Create, params json.RawMessage) error {
	_, drafted := t.Drafted(at)
	if !drafted {
		_, err := b.project.Journal().Last(ctx, protocol.WorkflowsStream(at.Project), at.CreateSubject())
		switch {
		case err == nil:
			drafted = true
		case !errors.Is(err, journal.ErrNotFound):
			return fmt.Errorf("create instance %s: %w", at, err)
		}
	}
	if drafted {
		return &ExistsError{Workflow: at.Workflow, ID: at.ID}
	}
	create.Source = t.Source()
	var err error
	if create.Params, create.ParamsObject, err = fit(ctx, b.project, protocol.OwnerOf(at, create.Input), params); err != nil {
		return fmt.Errorf("create instance %s: %w", at, err)
	}
	return t.Create(at, create)
}

func (b Bound[P, R]) createNow(ctx context.Context, at protocol.Instance, create protocol.Create, params json.RawMessage) error {
	owner := protocol.OwnerOf(at, create.Input)
	var err error
	if create.Params, create.ParamsObject, err = fit(ctx, b.project, owner, params); err != nil {
		return fmt.Errorf("create instance %s: %w", at, err)
	}
	body, err := json.Marshal(create)
	if err != nil {
		return err
	}
	_, err = b.project.Journal().Append(ctx, protocol.WorkflowsStream(at.Project), at.CreateSubject(), 0, body)
	if errors.Is(err, journal.ErrConflict) {
		unfit(ctx, b.project, owner, create.ParamsObject)
		return &ExistsError{Workflow: at.Workflow, ID: at.ID}
	}
	if err != nil {
		return fmt.Errorf("create instance %s: %w", at, err)
	}
	return nil
}

// Get finds an instance. The error is a [*NotFoundError] if there is none.
func (b Bound[P, R]) Get(ctx context.Context, id string) (*Instance[R], error) {
	if err := protocol.CheckInstance(id); err != nil {
		return nil, fmt.Errorf("binding %q: %w", b.name, err)
	}
	instance, err := b.instance(ctx, id)
	if err != nil {
		return nil, err
	}
	if instance.drafted(ctx) {
		return instance, nil
	}
	_, err = b.project.Journal().Last(ctx, protocol.WorkflowsStream(instance.at.Project), instance.at.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return nil, &NotFoundError{Workflow: instance.at.Workflow, ID: id}
	}
	if err != nil {
		return nil, fmt.Errorf("get instance %s: %w", instance.at, err)
	}
	return instance, nil
}

// instance resolves the binding and checks that somebody has registered where it leads.
func (b Bound[P, R]) instance(ctx context.Context, id string) (*Instance[R], error) {
	target, err := b.project.Config.Binding(b.name)
	if err != nil {
		return nil, err
	}
	shards, err := registered(ctx, b.project, target)
	if err != nil {
		return nil, err
	}
	return &Instance[R]{
		at:      protocol.Instance{Project: target.Project, Shard: protocol.Shard(id, shards), Workflow: target.Workflow, ID: id},
		project: b.project,
		reader:  runner.Reader{Store: b.project.Journal(), Project: target.Project, Shards: shards},
	}, nil
}

// registered looks up the target of a binding. What was once found is remembered: registrations are never taken back,
// and the number of shards is fixed.
func registered(ctx context.Context, p *project.Project, target project.Target) (shards int, err error) {
	if shards, ok := p.Known(target); ok {
		return shards, nil
	}
	row, err := streams.LookUp(ctx, p.JS, target.Project)
	if errors.Is(err, streams.ErrUnknownProject) {
		return 0, unknownProject(ctx, p, target)
	}
	if err != nil {
		return 0, fmt.Errorf("binding %q: %w", target.Binding, err)
	}
	class, ok := row.Workflows[target.Workflow]
	if !ok {
		names := slices.Sorted(maps.Keys(row.Workflows))
		return 0, &NoTargetError{
			Binding: target.Binding, Project: target.Project, Workflow: target.Workflow, Workflows: append([]string{}, names...),
		}
	}
	if target.Class != "" && target.Class != class.Class {
		return 0, &ClassError{Binding: target.Binding, Workflow: target.Workflow, Want: target.Class, Have: class.Class}
	}
	p.Know(target, row.Shards)
	return row.Shards, nil
}

func unknownProject(ctx context.Context, p *project.Project, target project.Target) error {
	rows, err := streams.Projects(ctx, p.JS)
	if err != nil {
		return fmt.Errorf("binding %q: project %q: %w", target.Binding, target.Project, err)
	}
	names := []string{}
	for _, row := range rows {
		names = append(names, row.Name)
	}
	return &NoTargetError{Binding: target.Binding, Project: target.Project, Workflow: target.Workflow, Projects: names}
}

// CheckBinding reports whether the binding of a project leads to a registered workflow, with the errors of Create.
func CheckBinding(ctx context.Context, p *project.Project, binding string) error {
	target, err := p.Config.Binding(binding)
	if err != nil {
		return err
	}
	_, err = registered(ctx, p, target)
	return err
}
