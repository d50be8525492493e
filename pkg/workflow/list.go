package workflow

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

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

// List tells of the instances of the workflow that are there, in the order in which they were created, what their beginning
// and the end of their logs say: all of Status but Steps, Runs and what controls will make of them. Those that are
// created while it goes on are left out. The Cursor of each is where another List goes on ([ListAfter]).
//
// An instance that log cleaning has carried forward comes among those that were created at that time.
//
// An error is the last that the loop gets: an [*OptionError], a [*NotOwnerError] for another project's workflow, ErrWouldBlock
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
				if problem != nil {
					err = problem
					break
				}
				if !yield(s, nil) {
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
// ended by then is left out.
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

// steerListed steers what is listed, many at a time.
func (b Bound[P, R]) steerListed(
	ctx context.Context, call string, o listOptions, control protocol.Control, yield func(Steered, error) bool,
) {
	var instances []*Instance[R]
	var cursors []uint64
	flush := func() bool {
		for n, s := range steerAll(ctx, instances, control) {
			if s.Cursor = cursors[n]; !yield(s, nil) {
				return false
			}
		}
		instances, cursors = nil, nil
		return true
	}
	for s, err := range b.list(ctx, o) {
		var instance *Instance[R]
		if err == nil {
			instance, err = b.instance(ctx, s.ID)
		}
		if err != nil {
			if flush() {
				yield(Steered{}, fmt.Errorf("%s: %w", call, err))
			}
			return
		}
		instance.incarnation = s.Incarnation
		instances, cursors = append(instances, instance), append(cursors, s.Cursor)
		if len(instances) == MaxBatch && !flush() {
			return
		}
	}
	flush()
}
