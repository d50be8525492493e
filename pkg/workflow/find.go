package workflow

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Find finds the instance that a create has made, by the create's input and without a binding: agents know by that what they
// track. The error is a [*NotFoundError] if it is gone, or if another has its id.
func Find(ctx context.Context, p *project.Project, at protocol.Instance, input string) (*Instance[json.RawMessage], error) {
	if err := betweenSteps(ctx); err != nil {
		return nil, fmt.Errorf("find instance %s: %w", at, err)
	}
	shards, err := registered(ctx, p, project.Target{Project: at.Project, Workflow: at.Workflow})
	if err != nil {
		return nil, fmt.Errorf("find instance %s: %w", at, err)
	}
	i := &Instance[json.RawMessage]{
		origin: Found, at: at, project: p,
		reader: runner.Reader{Store: p.Journal(), Project: at.Project, Shards: shards, Objects: p.Objects()},
	}
	if create := i.draft(ctx).Create; create != nil && create.Input == input {
		return i, nil
	}
	there, err := i.look(ctx)
	if err == nil && there.Create.Input != input {
		err = i.notFound()
	}
	if err != nil {
		return nil, fmt.Errorf("find instance %s: %w", at, err)
	}
	i.incarnation = there.Incarnation
	return i, nil
}
