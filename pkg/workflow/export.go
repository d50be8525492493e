package workflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// History is all that is stored of an instance, as [Instance.Export] gives it: its create, its log, and the values that
// were too large for these. As JSON it is what "skein workflows export" writes.
type History = protocol.History

// Export reads all that is stored of the instance, in any state, so that it can be looked at, or replayed elsewhere (see
// [Replay]). It shows everything, the results of sensitive steps too: nothing can be replayed without them. Events that
// no wait has taken are not in it.
//
// Only programs of the project that owns the instance can do so, others get a [*NotOwnerError]: a history is too large
// for an answer of a runner, and who reads a log can read all logs of its project. The error is a [*NotFoundError] if
// the instance is gone.
func (i *Instance[R]) Export(ctx context.Context) (History, error) {
	h, err := i.export(ctx)
	if err != nil {
		return History{}, fmt.Errorf("export instance %s: %w", i.at, err)
	}
	return h, nil
}

func (i *Instance[R]) export(ctx context.Context) (History, error) {
	if err := betweenSteps(ctx); err != nil {
		return History{}, err
	}
	if own := i.project.Config.Name; i.at.Project != own {
		return History{}, &NotOwnerError{Workflow: i.at.Workflow, ID: i.at.ID, Owner: i.at.Project, Project: own}
	}
	if i.draft(ctx).Create != nil {
		return History{}, i.notFound()
	}
	h, err := i.reader.Export(ctx, i.at.Workflow, i.at.ID)
	if errors.Is(err, journal.ErrNotFound) || err == nil && i.incarnation != 0 && h.Sequence != i.incarnation {
		err = i.notFound()
	}
	return h, err
}

// NotOwnerError refuses what only programs of the project can do that owns the instance, or all instances of the workflow:
// then there is no ID.
type NotOwnerError struct {
	Workflow, ID string
	// Owner is the project that owns the instance, Project the one that asked.
	Owner, Project string
}

func (e *NotOwnerError) Error() string {
	if e.ID == "" {
		return fmt.Sprintf("workflow %q: %v: it belongs to project %q, and this is %q", e.Workflow, ErrNotOwner, e.Owner, e.Project)
	}
	return fmt.Sprintf("instance %q of workflow %q: %v: it belongs to project %q, and this is %q; ask with the skein.jsonc of its project",
		e.ID, e.Workflow, ErrNotOwner, e.Owner, e.Project)
}

// Unwrap makes errors.Is(err, ErrNotOwner) true.
func (e *NotOwnerError) Unwrap() error { return ErrNotOwner }
