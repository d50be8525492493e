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
	// Create puts the start of an instance into the outbox; it is published after the commit.
	Create(target protocol.Instance, create protocol.Create) error
	// SendEvent puts an event to an instance into the outbox; it is published after the commit.
	SendEvent(target protocol.Instance, event protocol.Event) error
	// Drafted returns the create that this turn, or an outbox that is not published yet, holds for target.
	Drafted(target protocol.Instance) (protocol.Create, bool)
	// Source says who acts.
	Source() protocol.Source
}

type key struct{}

// With returns a context that carries t.
func With(ctx context.Context, t Turn) context.Context { return context.WithValue(ctx, key{}, t) }

// From returns the turn that ctx belongs to, if any.
func From(ctx context.Context) (Turn, bool) {
	t, ok := ctx.Value(key{}).(Turn)
	return t, ok
}
