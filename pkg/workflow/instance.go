package workflow

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Instance is a handle to one instance of a workflow with result R. It is safe for concurrent use. In an agent's turn,
// what it is asked to do is part of the turn's commit.
type Instance[R any] struct {
	at      protocol.Instance
	project *project.Project
	reader  runner.Reader
	// incarnation tells the instance from another of its id; 0 if it is not stored yet, or by somebody else.
	incarnation uint64
	origin      Origin
	// born is set on the handle of the call that started the instance, to when it was called: it may have been told late that
	// it had. steered is set once the handle was used to steer the instance.
	born    time.Time
	steered atomic.Bool
}

// ID is the instance's id.
func (i *Instance[R]) ID() string { return i.at.ID }

// Origin says how the call that returned the handle came to the instance. In an agent's turn it is what is known then:
// if somebody else takes the id before the turn is stored, what [OnExisting] says is done in the end.
func (i *Instance[R]) Origin() Origin { return i.origin }

func (i *Instance[R]) client() client.Client { return i.project.Instances() }

// behind reports whether the instance is behind the door of its project.
func (i *Instance[R]) behind(ctx context.Context) (bool, error) {
	return i.project.Doors().Through(ctx, i.at.Project)
}

// draft is what the turn in ctx makes of the instance.
func (i *Instance[R]) draft(ctx context.Context) turn.Draft {
	if t, ok := turn.From(ctx); ok {
		return t.Drafted(i.at)
	}
	return turn.Draft{}
}

// lookHastily looks at the id, and does not wait for a project whose door is away.
func (i *Instance[R]) lookHastily(ctx context.Context) (client.Presence, error) {
	c := i.client()
	c.Doors = c.Doors.Hasty()
	return c.Look(ctx, i.at)
}

// look finds the instance that the handle is for, or else a *NotFoundError.
func (i *Instance[R]) look(ctx context.Context) (client.Presence, error) {
	p, err := i.client().Look(ctx, i.at)
	return p, i.meant(p, err)
}

// meant turns what a look came to into a *NotFoundError if it found another instance, or none.
func (i *Instance[R]) meant(p client.Presence, err error) error {
	if err == nil && i.incarnation != 0 && p.Incarnation != i.incarnation {
		err = client.ErrNotFound
	}
	if errors.Is(err, client.ErrNotFound) {
		err = i.notFound()
	}
	return err
}

// lookIfThere is look for what a turn asks for: if the project does not answer at its door, nothing is known, and what the turn
// asks for waits in its outbox.
func (i *Instance[R]) lookIfThere(ctx context.Context) (client.Presence, error) {
	if _, ok := turn.From(ctx); !ok {
		return i.look(ctx)
	}
	p, err := i.lookHastily(ctx)
	if _, away := errors.AsType[*door.AwayError](err); away {
		return client.Presence{Incarnation: i.incarnation}, nil
	}
	return p, i.meant(p, err)
}

func (i *Instance[R]) notFound() error { return &NotFoundError{Workflow: i.at.Workflow, ID: i.at.ID} }

// Result waits until the instance has ended, or ctx ends. An instance that did not complete is an [*InstanceError]: its
// FailureName is protocol.FailureTerminated if it was terminated. One that was deleted is a [*NotFoundError].
// In an agent's turn it returns ErrWouldBlock.
func (i *Instance[R]) Result(ctx context.Context) (R, error) {
	var zero R
	if _, ok := turn.From(ctx); ok {
		return zero, fmt.Errorf("result of instance %s: %w", i.at, ErrWouldBlock)
	}
	done, err := i.await(ctx)
	if err != nil {
		return zero, fmt.Errorf("result of instance %s: %w", i.at, err)
	}
	if done.Error != nil {
		return zero, &InstanceError{Workflow: i.at.Workflow, ID: i.at.ID, Failure: done.Error}
	}
	output, err := i.project.Objects().Load(ctx, i.at.Project, done.Output, done.OutputObject)
	if err != nil {
		return zero, fmt.Errorf("result of instance %s: %w", i.at, err)
	}
	return decode[R](output, fmt.Sprintf("result of workflow %q", i.at.Workflow))
}

// youth is how soon after it began an instance has hardly ended: who waits for its end then need not look whether it has.
const youth = 10 * time.Millisecond

func (i *Instance[R]) await(ctx context.Context) (*protocol.Done, error) {
	if err := betweenSteps(ctx); err != nil {
		return nil, err
	}
	incarnation := i.incarnation
	if incarnation == 0 {
		p, err := i.look(ctx)
		if p.Done != nil || err != nil {
			return p.Done, err
		}
		incarnation = p.Incarnation
	}
	done, err := i.client().Await(ctx, i.at, incarnation, time.Since(i.born) < youth && !i.steered.Load())
	if errors.Is(err, client.ErrNotFound) {
		err = i.notFound()
	}
	return done, err
}
