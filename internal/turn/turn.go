// Package turn carries an agent's turn through a context, so that package workflow can put what it is asked for into
// the turn's draft instead of doing it at once.
//
// It is the seam between two packages that users see, and nothing else. It must never grow a way to act outside of
// the draft: what a turn asks for is stored with its commit or not at all.
package turn

import (
	"context"

	"github.com/skein-run/skein/pkg/protocol"
)

// Turn is one turn of an agent, as seen by what runs in it. All methods are safe for concurrent use. After the turn
// has ended they return an error.
type Turn interface {
	// Create puts the start of an instance into the outbox; it is published after the commit. If the id is taken by then,
	// what existing says is done.
	Create(target protocol.Instance, create protocol.Create, existing protocol.Existing) error
	// SendEvent puts an event to an instance into the outbox; it is published after the commit.
	SendEvent(target protocol.Instance, event protocol.Event) error
	// Control puts a control of an instance into the outbox; it is published after the commit.
	Control(target protocol.Instance, control protocol.Control) error
	// Drafted says what this turn, or an outbox that is not published yet, makes of target.
	Drafted(target protocol.Instance) Draft
	// Source says who acts.
	Source() protocol.Source
}

// Tracking is a Turn that tracks the instances that it creates: its agent is told what becomes of them.
type Tracking interface {
	Turn
	// Describe notes what the agent wants to know of the next instance.
	Describe(metadata map[string]string)
}

// Draft is what a turn makes of an instance. The zero Draft leaves it as it is.
type Draft struct {
	// Create is set if the instance is created.
	Create *protocol.Create
	// Deleted is set if the instance that has the id is deleted, unless Create makes another.
	Deleted bool
}

type key struct{}

// With returns a context that carries t.
func With(ctx context.Context, t Turn) context.Context { return context.WithValue(ctx, key{}, t) }

// From returns the turn that ctx belongs to, if any.
func From(ctx context.Context) (Turn, bool) {
	t, ok := ctx.Value(key{}).(Turn)
	return t, ok
}
