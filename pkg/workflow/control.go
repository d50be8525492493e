package workflow

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// ResumeOption is an option of Resume.
type ResumeOption interface{ applyResume(*protocol.Control) error }

// TerminateOption is an option of Terminate.
type TerminateOption interface {
	TerminateAllOption
	applyTerminate(*protocol.Control) error
}

// RestartOption is an option of Restart.
type RestartOption interface{ applyRestart(*protocol.Control) error }

// AcceptDivergence lets an instance that is held go on although its code no longer does what is recorded: steps that the
// code does not call any more are left alone.
func AcceptDivergence() ResumeOption { return acceptDivergence{} }

type acceptDivergence struct{}

func (acceptDivergence) applyResume(c *protocol.Control) error { c.Accept = true; return nil }

// RollbackFirst undoes the steps of the instance, those that say how, before it ends.
func RollbackFirst() TerminateOption { return rollbackFirst{} }

type rollbackFirst struct{}

func (rollbackFirst) applyTerminate(c *protocol.Control) error { c.Rollback = true; return nil }

// StepKind is the kind of a step. Names are counted per kind.
type StepKind = protocol.Op

// Kinds of steps.
const (
	StepDo    StepKind = protocol.OpDo
	StepSleep StepKind = protocol.OpSleep
	StepEvent StepKind = protocol.OpEvent
	StepCall  StepKind = protocol.OpCall
	StepRace  StepKind = protocol.OpRace
)

// FromStep lets the instance begin again from a step: the count-th use, from 1, of name by a step of this kind. What was
// recorded from there on is void, steps included that ran beside it and began later; what was recorded before stays. A race
// is void as a whole: from a step within it, the instance begins again from the start of the race.
func FromStep(kind StepKind, name string, count int) RestartOption {
	return fromStep{kind, name, count}
}

type fromStep struct {
	kind  StepKind
	name  string
	count int
}

func (f fromStep) applyRestart(c *protocol.Control) error {
	kinds := []StepKind{StepDo, StepSleep, StepEvent, StepCall, StepRace}
	switch {
	case !slices.Contains(kinds, f.kind):
		return &OptionError{Option: "FromStep kind", Value: f.kind, Allowed: fmt.Sprintf("one of %q", kinds)}
	case f.count < 1:
		return &OptionError{Option: "FromStep count", Value: f.count, Allowed: "1 for the first use of the name, 2 for the second, and so on"}
	}
	c.From = &protocol.Key{Op: f.kind, Name: f.name, Count: f.count}
	return protocol.CheckStep(f.name)
}

// Pause stops the instance: bodies of steps that run finish, no others begin, and it is Paused until it is resumed. It
// returns when the request is durable. Nothing changes if the instance is paused already. The error is a
// [*FinishedError] if it has ended, a [*NotFoundError] if it is gone.
func (i *Instance[R]) Pause(ctx context.Context) error {
	return i.steer(ctx, protocol.Control{Action: protocol.ActionPause}, nil)
}

// Resume lets an instance go on that is paused or held. Its sleeps and timeouts end later by as long as it stood still.
// Nothing changes if it does not stand still. The errors are those of Pause.
func (i *Instance[R]) Resume(ctx context.Context, options ...ResumeOption) error {
	control := protocol.Control{Action: protocol.ActionResume}
	for _, option := range options {
		if err := option.applyResume(&control); err != nil {
			return fmt.Errorf("resume instance %s: %w", i.at, err)
		}
	}
	return i.steer(ctx, control, nil)
}

// Terminate ends the instance: the contexts of bodies that run end. It returns when the request is durable; Result waits
// for the end. The errors are those of Pause.
func (i *Instance[R]) Terminate(ctx context.Context, options ...TerminateOption) error {
	control := protocol.Control{Action: protocol.ActionTerminate}
	for _, option := range options {
		if err := option.applyTerminate(&control); err != nil {
			return fmt.Errorf("terminate instance %s: %w", i.at, err)
		}
	}
	return i.steer(ctx, control, nil)
}

// Restart lets the instance begin again, from its beginning or [FromStep], whatever it is doing and also after its end.
// It keeps its id, params and Timestamp. Events that no wait has taken are void if it begins from its beginning. Restart
// returns when the request is durable; Result then waits for the new end. The error is a [*NotFoundError] if the instance is gone,
// an [*UnknownStepError] if there is no such step, ErrNoRunner if that cannot be told.
func (i *Instance[R]) Restart(ctx context.Context, options ...RestartOption) error {
	control := protocol.Control{Action: protocol.ActionRestart}
	for _, option := range options {
		if err := option.applyRestart(&control); err != nil {
			return fmt.Errorf("restart instance %s: %w", i.at, err)
		}
	}
	return i.steer(ctx, control, control.From)
}

// Delete takes the instance away, with everything that is stored of it, whatever it is doing. Nothing is undone. It
// returns when the request is durable; a Create of the same id waits until it is carried out. The error is a
// [*NotFoundError] if the instance is gone.
func (i *Instance[R]) Delete(ctx context.Context) error {
	return i.steer(ctx, protocol.Control{Action: protocol.ActionDelete}, nil)
}

// steer stores a control of an instance that is there, in an agent's turn with the turn.
func (i *Instance[R]) steer(ctx context.Context, control protocol.Control, from *protocol.Key) error {
	if err := i.trySteer(ctx, control, from); err != nil {
		return fmt.Errorf("%s instance %s: %w", control.Action, i.at, err)
	}
	return nil
}

func (i *Instance[R]) trySteer(ctx context.Context, control protocol.Control, from *protocol.Key) error {
	if err := betweenSteps(ctx); err != nil {
		return err
	}
	if i.draft(ctx).Create == nil {
		p, err := i.lookIfThere(ctx)
		if err != nil {
			return err
		}
		if p.Done != nil && control.Action != protocol.ActionRestart && control.Action != protocol.ActionDelete {
			return &FinishedError{Workflow: i.at.Workflow, ID: i.at.ID, State: p.Done.State}
		}
		control.Incarnation = p.Incarnation
	}
	if from != nil {
		if err := i.hasStep(ctx, *from); err != nil {
			return err
		}
	}
	i.sign(ctx, &control)
	if t, ok := turn.From(ctx); ok {
		return t.Control(i.at, control)
	}
	i.steered.Store(true)
	return i.client().Steer(journal.Refusing(ctx), i.at, control)
}

// sign says of a control who sends it and when.
func (i *Instance[R]) sign(ctx context.Context, control *protocol.Control) {
	control.V, control.Input, control.Sent, control.Source = protocol.Version, uuid.NewString(), time.Now().UTC(), i.source(ctx)
}

// hasStep refuses a step that the instance has not come to.
func (i *Instance[R]) hasStep(ctx context.Context, step protocol.Key) error {
	unknown := &UnknownStepError{Workflow: i.at.Workflow, ID: i.at.ID, Kind: step.Op, Step: step.Name, Count: step.Count}
	if i.draft(ctx).Create != nil {
		return unknown
	}
	status, whole, err := i.status(ctx, &step)
	switch {
	case err != nil:
		return err
	case slices.ContainsFunc(status.Steps, func(s protocol.StepStatus) bool { return s.Key == step }):
		return nil
	case !whole:
		return ErrNoRunner
	}
	return unknown
}
