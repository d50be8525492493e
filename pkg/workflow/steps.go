package workflow

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// StepStatus is what is known of one step, sleep, wait, call or race of an instance. What is sensitive is redacted.
type StepStatus = protocol.StepStatus

// Steps tells of all steps of the instance so far, in the order in which they began, however many there are. Those that a
// [Status] has left out are among them. What is told is how they stood when the loop began, or later.
//
// An error is the last that the loop gets: a [*NotFoundError] if the instance is gone, ErrRestarted if a restart made
// void what was told. In the own project the log is read; of another project's instance its runners tell: ErrNoRunner if
// none answers. Between steps it is ErrBetweenSteps. An instance that the current turn starts has no steps.
func (i *Instance[R]) Steps(ctx context.Context) iter.Seq2[StepStatus, error] {
	return func(yield func(StepStatus, error) bool) {
		more, err := i.steps(ctx, yield)
		if errors.Is(err, journal.ErrNotFound) {
			err = i.notFound()
		}
		if more && err != nil {
			yield(StepStatus{}, fmt.Errorf("steps of instance %s: %w", i.at, err))
		}
	}
}

// steps yields them. It returns false if the loop stopped.
func (i *Instance[R]) steps(ctx context.Context, yield func(StepStatus, error) bool) (more bool, err error) {
	if err := betweenSteps(ctx); err != nil {
		return true, err
	}
	if i.draft(ctx).Create != nil {
		return true, nil
	}
	if i.at.Project != i.project.Config.Name {
		return i.foreignSteps(ctx, yield)
	}
	status, err := i.reader.Status(ctx, i.at.Workflow, i.at.ID)
	if err == nil && i.incarnation != 0 && status.Incarnation != i.incarnation {
		err = journal.ErrNotFound
	}
	if err != nil {
		return true, err
	}
	for _, step := range status.Steps {
		if !yield(step, nil) {
			return false, nil
		}
	}
	return true, nil
}

// foreignSteps yields what runners of the owning project tell, part by part. The one that told the first goes on most
// easily.
func (i *Instance[R]) foreignSteps(ctx context.Context, yield func(StepStatus, error) bool) (more bool, err error) {
	runner, first, page := "", Status{Incarnation: i.incarnation}, protocol.StepPage{}
	for {
		answer, err := i.askSteps(ctx, runner, page)
		switch {
		case unanswered(err) && runner != "" && ctx.Err() == nil:
			runner = "" // it is gone: any other
			continue
		case ctx.Err() != nil:
			return true, context.Cause(ctx)
		case unanswered(err):
			return true, fmt.Errorf("%w: %w", ErrNoRunner, err)
		case err != nil:
			return true, err
		}
		part := *answer.Status
		switch {
		case first.Incarnation != 0 && part.Incarnation != first.Incarnation:
			return true, journal.ErrNotFound
		case page.From > 0 && part.Epoch != first.Epoch:
			return true, ErrRestarted
		case page.From == 0:
			first, page.Log = part, part.Log
		}
		for _, step := range part.Steps {
			if !yield(step, nil) {
				return false, nil
			}
		}
		page.From += len(part.Steps)
		if part.Further == 0 {
			return true, nil
		}
		runner = answer.Runner
	}
}

func (i *Instance[R]) askSteps(ctx context.Context, runner string, page protocol.StepPage) (protocol.Answer, error) {
	answer, err := i.question(ctx, runner, protocol.Ask{Steps: &page}, askWait+askTimeout)
	if err == nil && (answer.Status == nil || answer.Runner == "" || answer.Status.Omitted != page.From) {
		err = errors.New("a runner of an older version answered: it cannot tell all steps")
	}
	return answer, err
}
