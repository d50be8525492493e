package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// BatchItem is one instance for [Bound.CreateBatch]. Make it with [Item].
type BatchItem[P any] struct {
	params  P
	options []CreateOption
}

// Item is an instance to create, as Create would.
func Item[P any](params P, options ...CreateOption) BatchItem[P] {
	return BatchItem[P]{params, options}
}

// Outcome is what became of one instance of a batch.
type Outcome[R any] struct {
	ID string
	// Instance is nil if there is an error. Its Origin tells whether it was created, found or restarted.
	Instance *Instance[R]
	// Err is an [*ExistsError] if the id is taken, a [*DuplicateError] if another one of the batch has it, or what hindered
	// the start.
	Err error
}

// Batch is what became of the instances of a batch, in their order.
type Batch[R any] []Outcome[R]

// Instances are those that the call came to. Instances whose ids were taken are left out.
func (b Batch[R]) Instances() []*Instance[R] {
	var all []*Instance[R]
	for _, o := range b {
		if o.Instance != nil {
			all = append(all, o.Instance)
		}
	}
	return all
}

// Err joins the errors of the batch, but not those that say that an id was taken.
func (b Batch[R]) Err() error {
	var all []error
	for _, o := range b {
		if o.Err != nil && !errors.Is(o.Err, ErrExists) {
			all = append(all, o.Err)
		}
	}
	return errors.Join(all...)
}

// CreateBatch starts up to MaxBatch instances; see [Bound.CreateBatch]. In an agent's turn it is part of the turn's commit.
func (b Binding[P, R]) CreateBatch(ctx context.Context, items []BatchItem[P]) (Batch[R], error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.CreateBatch(ctx, items)
}

// CreateBatch starts up to MaxBatch instances at a time, and tells of each what became of it. Everything about all of them
// is checked before the first is stored: an error says that none was, and is a [*BatchSizeError] or one of those of
// Create, with the number of the instance.
//
// Whoever takes existing instances as they are asks the result for Instances and Err; whoever wants to know about each goes
// through it. A call that was interrupted can be repeated if the instances have ids: those that it made exist by then.
func (b Bound[P, R]) CreateBatch(ctx context.Context, items []BatchItem[P]) (Batch[R], error) {
	if n := len(items); n == 0 || n > MaxBatch {
		return nil, &BatchSizeError{Call: "CreateBatch", Size: n, Limit: MaxBatch}
	}
	starts, batch := make([]start, len(items)), make(Batch[R], len(items))
	first := map[string]int{}
	for n, item := range items {
		s, instance, err := b.prepare(ctx, item.params, item.options)
		if err != nil {
			return nil, fmt.Errorf("instance %d of the batch: %w", n, err)
		}
		id := instance.ID()
		starts[n], batch[n] = s, Outcome[R]{ID: id, Instance: instance}
		if earlier, twice := first[id]; twice {
			batch[n] = Outcome[R]{ID: id, Err: &DuplicateError{Workflow: instance.at.Workflow, ID: id, First: earlier}}
			continue
		}
		first[id] = n
	}
	if err := batch.ready(ctx, starts); err != nil {
		return nil, err
	}
	batch.store(ctx, starts)
	return batch, nil
}

// together is how much of a batch is under way at a time that may be large.
const together = 8

// ready puts the params of all instances where they have to be, or those of none.
func (b Batch[R]) ready(ctx context.Context, starts []start) error {
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for n, o := range b {
		if o.Err == nil {
			g.Go(func() error {
				if err := o.Instance.ready(within, &starts[n]); err != nil {
					return fmt.Errorf("instance %d of the batch: %w", n, err)
				}
				return nil
			})
		}
	}
	err := g.Wait()
	if err == nil {
		return nil
	}
	// What the body of a step has stored may be the params of instances that it created when it was tried before.
	if Step(ctx).IdempotencyKey == "" {
		b.unready(ctx, starts)
	}
	return err
}

// unreadyWithin bounds what a batch that failed takes away, in all: with no server at hand it would try for ever.
const unreadyWithin = 5 * time.Second

// unready takes away the params that ready has put anywhere, also after ctx ended.
func (b Batch[R]) unready(ctx context.Context, starts []start) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unreadyWithin)
	defer cancel()
	for n, o := range b {
		if o.Err == nil {
			unfit(ctx, o.Instance.project, o.Instance.owner(&starts[n]), starts[n].create.ParamsObject)
		}
	}
}

// store stores all starts at a time, in an agent's turn one after the other: its outbox has an order.
func (b Batch[R]) store(ctx context.Context, starts []start) {
	var g errgroup.Group
	if _, ok := turn.From(ctx); ok {
		g.SetLimit(1)
	}
	for n := range b {
		o := &b[n]
		if o.Err != nil {
			continue
		}
		g.Go(func() error {
			if err := o.Instance.store(ctx, starts[n]); err != nil {
				o.Instance, o.Err = nil, err
			}
			return nil
		})
	}
	_ = g.Wait() // what failed stands in the outcomes
}

// Steered is what became of one instance that a call was to terminate or delete.
type Steered struct {
	ID string
	// Err is a [*NotFoundError] if it is not there, a [*FinishedError] if it has ended and is to be terminated, an
	// [*UnreadableError] if it was listed and cannot be read: then it was sent nothing.
	Err error
	// Cursor is where [ListAfter] goes on after it, if it came out of a list.
	Cursor uint64
}

// TerminateBatch ends up to MaxBatch instances, as Terminate does. It returns when the requests are durable, and tells of
// each id what became of it: the same of an id that comes twice. If one id is invalid, nothing is stored. The error is a
// [*BatchSizeError] or one of those of Get and Terminate.
func (b Bound[P, R]) TerminateBatch(ctx context.Context, ids []string, options ...TerminateOption) ([]Steered, error) {
	control := protocol.Control{Action: protocol.ActionTerminate}
	for _, option := range options {
		if err := option.applyTerminate(&control); err != nil {
			return nil, fmt.Errorf("TerminateBatch: %w", err)
		}
	}
	return b.steerBatch(ctx, "TerminateBatch", ids, control)
}

// TerminateBatch ends up to MaxBatch instances; see [Bound.TerminateBatch].
func (b Binding[P, R]) TerminateBatch(ctx context.Context, ids []string, options ...TerminateOption) ([]Steered, error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.TerminateBatch(ctx, ids, options...)
}

// DeleteBatch takes up to MaxBatch instances away, as Delete does; otherwise it is like TerminateBatch.
func (b Bound[P, R]) DeleteBatch(ctx context.Context, ids []string) ([]Steered, error) {
	return b.steerBatch(ctx, "DeleteBatch", ids, protocol.Control{Action: protocol.ActionDelete})
}

// DeleteBatch takes up to MaxBatch instances away; see [Bound.DeleteBatch].
func (b Binding[P, R]) DeleteBatch(ctx context.Context, ids []string) ([]Steered, error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.DeleteBatch(ctx, ids)
}

func (b Bound[P, R]) steerBatch(ctx context.Context, call string, ids []string, control protocol.Control) ([]Steered, error) {
	if n := len(ids); n == 0 || n > MaxBatch {
		return nil, &BatchSizeError{Call: call, Size: n, Limit: MaxBatch}
	}
	if err := betweenSteps(ctx); err != nil {
		return nil, fmt.Errorf("%s: binding %q: %w", call, b.name, err)
	}
	var instances []*Instance[R] // each once
	for n, id := range ids {
		if err := protocol.CheckInstance(id); err != nil {
			return nil, fmt.Errorf("%s: id %d: %w", call, n, err)
		}
		if slices.Contains(ids[:n], id) {
			continue
		}
		instance, err := b.instance(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", call, err)
		}
		instances = append(instances, instance)
	}
	became := map[string]Steered{}
	for n, s := range steerAll(ctx, instances, control) {
		became[instances[n].ID()] = s
	}
	all := make([]Steered, len(ids))
	for n, id := range ids {
		all[n] = became[id]
	}
	return all, nil
}

// steerAll sends a control to instances, to all at a time; in an agent's turn one after the other.
func steerAll[R any](ctx context.Context, instances []*Instance[R], control protocol.Control) []Steered {
	all := make([]Steered, len(instances))
	var g errgroup.Group
	if _, ok := turn.From(ctx); ok {
		g.SetLimit(1)
	}
	for n, instance := range instances {
		g.Go(func() error {
			all[n] = Steered{ID: instance.ID(), Err: instance.steer(ctx, control, nil)}
			return nil
		})
	}
	_ = g.Wait() // what failed stands in the outcomes
	return all
}
