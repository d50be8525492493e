package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Bound reaches the agents of a class. A is the type of the class, or an interface with some of its methods: then the code
// of the class need not be at hand. A Bound is immutable; keep it in a package variable.
type Bound[A any] struct {
	binding string
	project *project.Project
}

// Bind makes a Bound of a name in the array agents of skein.jsonc, or of the name of a class of the project itself.
// Nothing is checked yet: see the errors of Call.
func Bind[A any](binding string) Bound[A] { return Bound[A]{binding: binding} }

// In uses the binding for a project that a program has opened. Agents and workflows have a project in their context.
func (b Bound[A]) In(p *project.Project) Bound[A] {
	b.project = p
	return b
}

// Agent refers to the agent of a name. It need not exist: who is called or told something comes into being.
func (b Bound[A]) Agent(name string) Ref[A] { return Ref[A]{bound: b, name: name} }

// Ref refers to one agent.
type Ref[A any] struct {
	bound Bound[A]
	name  string
	agent protocol.Agent // if it is known without a binding
}

// ErrNotStarted is returned by Starter for a workflow that no agent tracks.
var ErrNotStarted = errors.New("no agent has started this workflow with RunWorkflow")

// StartedBy refers, in workflow code and in bodies of steps, to the agent that has started the workflow with RunWorkflow: it can
// be called, as a step, and told something. No binding is needed; what agents of other projects allow, their classes list
// with Callable.
func StartedBy[A any](ctx context.Context) (Ref[A], error) {
	by := workflow.Info(ctx).Agent
	if by == (workflow.AgentInfo{}) {
		return Ref[A]{}, ErrNotStarted
	}
	return Ref[A]{name: by.Name, agent: protocol.Agent{Project: by.Project, Class: by.Class, Name: by.Name}}, nil
}

// resolve says which agent is meant, and for which project the caller acts.
func (r Ref[A]) resolve(ctx context.Context) (protocol.Agent, *project.Project, error) {
	p := r.bound.project
	if p == nil {
		var ok bool
		if p, ok = project.From(ctx); !ok {
			return protocol.Agent{}, nil, fmt.Errorf("binding %q: %w", r.bound.binding, workflow.ErrNoProject)
		}
	}
	if r.agent != (protocol.Agent{}) {
		return r.agent, p, nil
	}
	target, err := p.Config.AgentBinding(r.bound.binding)
	if err != nil {
		return protocol.Agent{}, nil, err
	}
	if err := protocol.CheckAgent(r.name); err != nil {
		return protocol.Agent{}, nil, err
	}
	return protocol.Agent{Project: target.Project, Class: target.Class, Name: r.name}, p, nil
}
