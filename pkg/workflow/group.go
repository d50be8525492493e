package workflow

import (
	"context"

	"github.com/skein-run/skein/internal/execution"
)

// Group runs functions of workflow code side by side, in the shape of errgroup. It differs in what matters here: it
// counts a function before it runs, so that the instance does not park without it, and when the instance parks, Wait
// does not return with half of the results. Step names must differ between the functions of a group.
type Group struct {
	group *execution.Group
	err   error
}

// NewGroup begins a group. The contexts of its functions end when one of them returns an error.
func NewGroup(ctx context.Context) *Group {
	scope, err := execution.From(ctx)
	if err != nil {
		return &Group{err: err}
	}
	return &Group{group: scope.Group(ctx)}
}

// Go runs f with a context of its own, which it must use for its steps. With a limit set it waits for room first.
func (g *Group) Go(f func(ctx context.Context) error) {
	if g.err == nil {
		g.group.Go(f)
	}
}

// SetLimit bounds how many functions run at a time; call it before Go. Zero is without limit.
func (g *Group) SetLimit(n int) {
	if g.err == nil {
		g.group.SetLimit(n)
	}
}

// Wait returns when all functions have returned, with the first error of one of them. Outside of workflow code it
// returns ErrNoWorkflow or ErrNested, and nothing has run.
func (g *Group) Wait() error {
	if g.err != nil {
		return g.err
	}
	return g.group.Wait()
}
