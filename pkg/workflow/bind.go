package workflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
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

// Get finds an instance. The error is a [*NotFoundError] if there is none.
func (b Binding[P, R]) Get(ctx context.Context, id string) (*Instance[R], error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.Get(ctx, id)
}

func (b Binding[P, R]) bound(ctx context.Context) (Bound[P, R], error) {
	if err := betweenSteps(ctx); err != nil {
		return Bound[P, R]{}, fmt.Errorf("binding %q: %w", b.name, err)
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

// Get finds an instance. The error is a [*NotFoundError] if there is none, or none any more: it was deleted or has expired.
func (b Bound[P, R]) Get(ctx context.Context, id string) (*Instance[R], error) {
	if err := betweenSteps(ctx); err != nil {
		return nil, fmt.Errorf("binding %q: %w", b.name, err)
	}
	if err := protocol.CheckInstance(id); err != nil {
		return nil, fmt.Errorf("binding %q: %w", b.name, err)
	}
	instance, err := b.instance(ctx, id)
	if err != nil {
		return nil, err
	}
	if instance.draft(ctx).Create != nil {
		return instance, nil
	}
	p, err := instance.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("get instance %s: %w", instance.at, err)
	}
	instance.incarnation = p.Incarnation
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
		origin:  Found,
		at:      protocol.Instance{Project: target.Project, Shard: protocol.Shard(id, shards), Workflow: target.Workflow, ID: id},
		project: b.project,
		reader: runner.Reader{
			Store: b.project.Journal(), Project: target.Project, Shards: shards, Objects: b.project.Objects(),
		},
	}, nil
}

// registered looks up the target of a binding. What was once found is remembered: registrations are never taken back,
// and the number of shards is fixed.
func registered(ctx context.Context, p *project.Project, target project.Target) (shards int, err error) {
	if shards, ok := p.Known(target); ok {
		return shards, nil
	}
	classes, shards, err := p.WorkflowsOf(ctx, target.Project)
	if _, away := errors.AsType[*door.AwayError](err); away {
		return 0, unknownProject(ctx, p, target)
	}
	if err != nil {
		return 0, fmt.Errorf("binding %q: %w", target.Binding, err)
	}
	if err := checkTarget(target, classes); err != nil {
		return 0, err
	}
	p.Know(target, shards)
	return shards, nil
}

// checkTarget holds a binding against the workflows of a project, with their classes.
func checkTarget(target project.Target, classes map[string]string) error {
	class, ok := classes[target.Workflow]
	if !ok {
		names := slices.Sorted(maps.Keys(classes))
		return &NoTargetError{
			Binding: target.Binding, Project: target.Project, Workflow: target.Workflow, Workflows: append([]string{}, names...),
		}
	}
	if target.Class != "" && target.Class != class {
		return &ClassError{Binding: target.Binding, Workflow: target.Workflow, Want: target.Class, Have: class}
	}
	return nil
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
