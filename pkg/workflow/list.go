package workflow

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// ListOption is an option of List, DeleteAll and TerminateAll.
type ListOption interface {
	TerminateAllOption
	applyList(*listOptions) error
}

// TerminateAllOption is an option of TerminateAll.
type TerminateAllOption interface{ applyTerminateAll(*terminateAll) error }

type listOptions struct {
	states       []State
	from, before time.Time
	after        uint64
}

type terminateAll struct {
	list    listOptions
	control protocol.Control
}

type listOption func(*listOptions) error

func (f listOption) applyList(o *listOptions) error             { return f(o) }
func (f listOption) applyTerminateAll(t *terminateAll) error    { return f(&t.list) }
func (r rollbackFirst) applyTerminateAll(t *terminateAll) error { return r.applyTerminate(&t.control) }

// listedStates are those that the end of a log tells.
var listedStates = []State{Queued, Running, Waiting, Paused, Held, Complete, Errored, Terminated}

// States lists instances in these states alone: all but RollingBack and WaitingForPause, which are listed as Running or
// Waiting.
func States(states ...State) ListOption {
	return listOption(func(o *listOptions) error {
		for _, s := range states {
			if !slices.Contains(listedStates, s) {
				return &OptionError{Option: "States", Value: s, Allowed: fmt.Sprintf("one of %q", listedStates)}
			}
		}
		o.states = append(o.states, states...)
		return nil
	})
}

// CreatedFrom lists instances that were created at this moment or later.
func CreatedFrom(t time.Time) ListOption {
	return listOption(func(o *listOptions) error { o.from = t; return nil })
}

// CreatedBefore lists instances that were created before this moment.
func CreatedBefore(t time.Time) ListOption {
	return listOption(func(o *listOptions) error { o.before = t; return nil })
}

// ListAfter lists what comes after the instance with this Cursor.
func ListAfter(cursor uint64) ListOption {
	return listOption(func(o *listOptions) error { o.after = cursor; return nil })
}

// wants reports whether an instance is to be listed.
func (o listOptions) wants(s Status) bool {
	return (len(o.states) == 0 || slices.Contains(o.states, s.State)) &&
		!s.Created.Before(o.from) && (o.before.IsZero() || s.Created.Before(o.before))
}

// List tells of the instances of the workflow that are there, in the order in which they were created, in a project with shards
// one shard after the other, what their beginning
// and the end of their logs say: all of Status but Steps, Runs and what controls will make of them. Those that are
// created while it goes on are left out. The Cursor of each is where another List goes on ([ListAfter]).
//
// An instance that log cleaning has carried forward comes among those that were created at that time.
//
// An [*UnreadableError] stands for one instance that cannot be told of, whatever the options say, with its ID and Cursor in
// the Status; the loop may go on to the next. Any other error is the last that the loop gets: an [*OptionError], a [*NotOwnerError] for another project's workflow, ErrWouldBlock
// in an agent's turn, the cause for which ctx ended.
func (b Bound[P, R]) List(ctx context.Context, options ...ListOption) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		var o listOptions
		var err error
		for _, option := range options {
			if err = option.applyList(&o); err != nil {
				break
			}
		}
		if err == nil {
			for s, problem := range b.list(ctx, o) {
				if _, one := errors.AsType[*UnreadableError](problem); problem != nil && !one {
					err = problem
					break
				}
				if !yield(s, problem) {
					return
				}
			}
		}
		if err != nil {
			yield(Status{}, fmt.Errorf("list: %w", err))
		}
	}
}

// list yields what is wanted.
func (b Bound[P, R]) list(ctx context.Context, o listOptions) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		reader, target, err := b.listable(ctx)
		if err != nil {
			yield(Status{}, err)
			return
		}
		for s, err := range reader.List(ctx, target.Workflow, o.after) {
			if broken, ok := errors.AsType[*runner.UnreadableError](err); ok {
				err = &UnreadableError{Workflow: broken.Workflow, ID: broken.ID, Err: broken.Err}
			}
			if (err != nil || o.wants(s)) && !yield(s, err) {
				return
			}
		}
	}
}

// listable finds the workflow whose instances are to be listed. A project reads its own logs, and no others.
func (b Bound[P, R]) listable(ctx context.Context) (reader runner.Reader, target project.Target, err error) {
	if _, ok := turn.From(ctx); ok {
		return reader, target, ErrWouldBlock
	}
	if err := betweenSteps(ctx); err != nil {
		return reader, target, fmt.Errorf("binding %q: %w", b.name, err)
	}
	if target, err = b.project.Config.Binding(b.name); err != nil {
		return reader, target, err
	}
	if own := b.project.Config.Name; target.Project != own {
		return reader, target, &NotOwnerError{Workflow: target.Workflow, Owner: target.Project, Project: own}
	}
	shards, err := registered(ctx, b.project, target)
	return runner.Reader{Store: b.project.Journal(), Project: target.Project, Shards: shards, Objects: b.project.Objects()}, target, err
}

// TerminateAll ends the instances that List lists with the same options, without States those that have not ended. It
// yields what became of each, in the same order, and does nothing more when the loop stops. It may be done again: what has
// ended by then is left out. Right before an instance is steered that was listed for its state, the state is looked at again:
// if it is another by now, or will be by what the instance was sent meanwhile, it is left alone and not told.
func (b Bound[P, R]) TerminateAll(ctx context.Context, options ...TerminateAllOption) iter.Seq2[Steered, error] {
	return func(yield func(Steered, error) bool) {
		t := terminateAll{control: protocol.Control{Action: protocol.ActionTerminate}}
		for _, option := range options {
			if err := option.applyTerminateAll(&t); err != nil {
				yield(Steered{}, fmt.Errorf("terminate all: %w", err))
				return
			}
		}
		if len(t.list.states) == 0 {
			t.list.states = slices.DeleteFunc(slices.Clone(listedStates), State.Finished)
		}
		b.steerListed(ctx, "TerminateAll", t.list, t.control, yield)
	}
}

// DeleteAll takes the instances away that List lists with the same options. Otherwise it is like TerminateAll.
func (b Bound[P, R]) DeleteAll(ctx context.Context, options ...ListOption) iter.Seq2[Steered, error] {
	return func(yield func(Steered, error) bool) {
		var o listOptions
		for _, option := range options {
			if err := option.applyList(&o); err != nil {
				yield(Steered{}, fmt.Errorf("delete all: %w", err))
				return
			}
		}
		b.steerListed(ctx, "DeleteAll", o, protocol.Control{Action: protocol.ActionDelete}, yield)
	}
}

// picked is an instance that was listed to be steered.
type picked[R any] struct {
	*Instance[R]
	cursor uint64
	err    error // why it cannot be
}

// steerListed steers what is listed, many at a time.
func (b Bound[P, R]) steerListed(
	ctx context.Context, call string, o listOptions, control protocol.Control, yield func(Steered, error) bool,
) {
	var together []picked[R]
	flush := func() bool {
		for _, s := range steerPicked(ctx, together, o, control) {
			if !yield(s, nil) {
				return false
			}
		}
		together = nil
		return true
	}
	for s, err := range b.list(ctx, o) {
		p := picked[R]{cursor: s.Cursor}
		if broken, ok := errors.AsType[*UnreadableError](err); ok {
			p.err, err = broken, nil
		}
		if err == nil {
			p.Instance, err = b.instance(ctx, s.ID)
		}
		if err != nil {
			if flush() {
				yield(Steered{}, fmt.Errorf("%s: %w", call, err))
			}
			return
		}
		p.incarnation = s.Incarnation
		if together = append(together, p); len(together) == MaxBatch && !flush() {
			return
		}
	}
	flush()
}

// steerPicked sends a control to instances, to all at a time, and leaves out those that do not stand any more as they were
// listed. No turn gets here.
func steerPicked[R any](ctx context.Context, together []picked[R], o listOptions, control protocol.Control) []Steered {
	all, left := make([]Steered, len(together)), make([]bool, len(together))
	var g errgroup.Group
	for n, p := range together {
		g.Go(func() error {
			sent, err := true, p.err
			switch {
			case err != nil:
			case len(o.states) == 0:
				err = p.steer(ctx, control, nil)
			default:
				sent, err = p.steerWhile(ctx, control, p.standing(o.states, control.Action))
			}
			all[n], left[n] = Steered{ID: p.ID(), Err: err, Cursor: p.cursor}, !sent
			return nil
		})
	}
	_ = g.Wait() // what failed stands in the outcomes
	var told []Steered
	for n, s := range all {
		if !left[n] {
			told = append(told, s)
		}
	}
	return told
}

// standing looks whether an instance is in one of these states, and stays in one by what it was sent, up to the control that
// it returns. What is to be terminated or deleted may be so again.
func (i *Instance[R]) standing(states []State, action protocol.Action) func(context.Context) (bool, runner.Standing, error) {
	return func(ctx context.Context) (bool, runner.Standing, error) {
		s, err := i.reader.Standing(ctx, i.at, i.incarnation)
		again := action == protocol.ActionTerminate && s.Then == Terminated || action == protocol.ActionDelete && s.Then == protocol.StateDeleted
		return slices.Contains(states, s.Now) && (again || slices.Contains(states, s.Then)), s, err
	}
}

// steerWhile sends a control to an instance as long as it stands, and reports whether it did. What begins again between the
// look at it and the control needs a control for that, which lets it be looked at once more.
func (i *Instance[R]) steerWhile(
	ctx context.Context, control protocol.Control, standing func(context.Context) (bool, runner.Standing, error),
) (sent bool, err error) {
	i.sign(ctx, &control)
	control.Incarnation = i.incarnation
	for {
		stands, now, err := standing(ctx)
		refused := stands && now.Now.Finished() && control.Action != protocol.ActionDelete
		switch {
		case errors.Is(err, journal.ErrNotFound), refused:
			return true, i.steer(ctx, control, nil) // which tells
		case err == nil && !stands:
			return false, nil
		case err == nil:
			i.steered.Store(true)
			err = i.client().SteerAfter(ctx, i.at, now.Control, control)
		}
		if !errors.Is(err, journal.ErrConflict) {
			if err != nil {
				err = fmt.Errorf("%s instance %s: %w", control.Action, i.at, err)
			}
			return true, err
		}
	}
}
