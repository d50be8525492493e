package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// State is what an instance is doing.
type State = protocol.State

// States of an instance. Those that State.Finished reports are final, unless the instance is restarted.
const (
	// Queued: not begun, or waiting for a free slot of a workflow whose concurrency is limited.
	Queued  = protocol.StateQueued
	Running = protocol.StateRunning
	// Waiting: for a time, an event, a call or the next attempt of a step; it holds no slot.
	Waiting  = protocol.StateWaiting
	Complete = protocol.StateComplete
	Errored  = protocol.StateErrored
	// Terminated is the end of an instance that was told to stop.
	Terminated = protocol.StateTerminated
	Paused     = protocol.StatePaused
	// WaitingForPause lets the bodies of steps finish before it becomes Paused.
	WaitingForPause = protocol.StateWaitingForPause
	// RollingBack undoes steps before it ends.
	RollingBack = protocol.StateRollingBack
	// Held waits for a person: code and log contradict each other.
	Held = protocol.StateHeld
)

// Status is what is known of an instance, its steps so far included. Outputs of sensitive steps are redacted.
type Status = protocol.Status

// askTimeout bounds the wait for one runner's answer.
const askTimeout = 2 * time.Second

// Status tells what is known of the instance now. It asks any runner of the owning project. If none is there, it reads
// the log itself; of another project's instance then only how it began and how its log ends: there are no Steps and Runs
// in what it tells. If that project has an account of its own, the error is then ErrNoRunner. Of so many steps of another project's instance that no message can hold them, the oldest are left
// out: see [Instance.Steps]; and so are the oldest runs. An instance that the current turn starts is queued.
//
// The error is a [*NotFoundError] if the instance is gone.
func (i *Instance[R]) Status(ctx context.Context) (Status, error) {
	if err := betweenSteps(ctx); err != nil {
		return Status{}, fmt.Errorf("status of instance %s: %w", i.at, err)
	}
	if create := i.draft(ctx).Create; create != nil {
		return Status{Workflow: i.at.Workflow, ID: i.at.ID, State: Queued, Created: create.Created, Source: create.Source}, nil
	}
	status, _, err := i.status(ctx, nil)
	if err != nil {
		return Status{}, fmt.Errorf("status of instance %s: %w", i.at, err)
	}
	return status, nil
}

// status asks for the status, with all steps or with one. With whole, what it tells of steps is all that there is.
func (i *Instance[R]) status(ctx context.Context, step *protocol.Key) (status Status, whole bool, err error) {
	status, err = i.ask(ctx, step)
	whole = status.Omitted == 0
	silent := unanswered(err) && ctx.Err() == nil
	own := i.at.Project == i.project.Config.Name
	switch {
	case own && (silent || err == nil && (!whole || status.OmittedRuns > 0)):
		whole = true
		status, err = i.reader.Status(ctx, i.at.Workflow, i.at.ID)
	case silent:
		whole = false
		status, err = i.glance(ctx, err)
	}
	if errors.Is(err, journal.ErrNotFound) || err == nil && i.incarnation != 0 && status.Incarnation != i.incarnation {
		err = i.notFound()
	}
	return status, whole, err
}

// glance reads what the stream of another project says of the instance, unless that is behind a door.
func (i *Instance[R]) glance(ctx context.Context, silent error) (Status, error) {
	behind, err := i.behind(ctx)
	switch {
	case err != nil:
		return Status{}, err
	case behind:
		return Status{}, fmt.Errorf("%w: %w", ErrNoRunner, silent)
	}
	return i.reader.Glance(ctx, i.at.Workflow, i.at.ID)
}

func (i *Instance[R]) ask(ctx context.Context, step *protocol.Key) (Status, error) {
	answer, err := i.question(ctx, "", protocol.Ask{Step: step}, askTimeout)
	switch {
	case err != nil:
		return Status{}, err
	case answer.Status == nil:
		return Status{}, errors.New("a runner answered with nothing")
	}
	return *answer.Status, nil
}
