package past

import (
	"context"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/workflow"
)

// Notes is the state of a clerk.
type Notes struct {
	Sum   int
	Notes []string
}

// ClerkAgent keeps notes.
type ClerkAgent struct{ agent.Base[Notes] }

// Clerk reaches clerks.
var Clerk = agent.Bind[*ClerkAgent]("ClerkAgent")

// Agents are the classes.
func Agents() []agent.Class {
	return []agent.Class{agent.Define("ClerkAgent", func() *ClerkAgent { return &ClerkAgent{} },
		agent.Callable((*ClerkAgent).Begin, (*ClerkAgent).Note, (*ClerkAgent).Read))}
}

// Begin makes a state, a schedule, and an instance that belongs to the agent.
func (c *ClerkAgent) Begin(ctx context.Context, id string) (int, error) {
	if err := c.Update(ctx, func(s *Notes) error { s.Sum += 5; return nil }); err != nil {
		return 0, err
	}
	if _, err := agent.Schedule(ctx, agent.After(Nap), c.Note, "scheduled"); err != nil {
		return 0, err
	}
	_, err := waiterBinding.Create(ctx, "of an agent", workflow.ID("of-"+id))
	return c.State().Sum, err
}

// Note appends to the state.
func (c *ClerkAgent) Note(ctx context.Context, text string) error {
	return c.Update(ctx, func(s *Notes) error { s.Notes = append(s.Notes, text); return nil })
}

// Read returns the state.
func (c *ClerkAgent) Read(context.Context, string) (Notes, error) { return c.State(), nil }
