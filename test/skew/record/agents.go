package main

import (
	"context"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"

	"github.com/skein-run/skein/test/skew/past"
)

func services() []project.Service {
	return []project.Service{workflow.Runner(past.Workflows()...), agent.Host(past.Agents()...)}
}

// agents makes agents that have state, a schedule, and a workflow whose end they are to be told.
func agents(ctx context.Context, p *project.Project) error {
	for _, name := range []string{"ada", "bob"} {
		if _, err := agent.Call(ctx, past.Clerk.In(p).Agent(name), (*past.ClerkAgent).Begin, name); err != nil {
			return err
		}
	}
	return nil
}

// leaveMail sends what no host has seen.
func leaveMail(ctx context.Context, p *project.Project) error {
	return agent.Tell(ctx, past.Clerk.In(p).Agent("ada"), (*past.ClerkAgent).Note, "sent to nobody")
}
