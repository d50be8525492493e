package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// CreateOption is an option of Create.
type CreateOption interface{ applyCreate(*createOptions) error }

type createOptions struct {
	id        string
	existing  protocol.Existing
	retention *protocol.Retention
	metadata  map[string]string
}

// Retention sets how long the instance can be read after its end: success if it completes, failure if it ends in any
// other way. 0 stands for what skein.jsonc of its project says, or else DefaultRetention. At most MaxRetention.
func Retention(success, failure time.Duration) RetentionOption {
	return RetentionOption{success, failure}
}

// RetentionOption is made by [Retention].
type RetentionOption struct{ success, failure time.Duration }

func (r RetentionOption) applyCreate(o *createOptions) error { return r.apply(&o.retention) }

func (r RetentionOption) applyCall(o *callOptions) error { return r.apply(&o.retention) }

func (r RetentionOption) apply(to **protocol.Retention) error {
	for _, kept := range []struct {
		option string
		d      time.Duration
	}{{"Retention success", r.success}, {"Retention failure", r.failure}} {
		if kept.d < 0 || kept.d > MaxRetention {
			return &OptionError{Option: kept.option, Value: kept.d, Allowed: "0 (the default) to 365 days"}
		}
	}
	*to = &protocol.Retention{Success: protocol.Duration(r.success), Error: protocol.Duration(r.failure)}
	return nil
}

// Existing says what Create does if its id is taken; see [OnExisting].
type Existing int

// What Create can do if its id is taken.
const (
	// Fail makes Create return an [*ExistsError]. It is the default.
	Fail Existing = iota
	// ReturnExisting makes Create return the instance that is there, as it is.
	ReturnExisting
	// RestartExisting lets the instance that is there begin again, whatever it is doing, with the params that it has: those
	// of this call are not used.
	RestartExisting
)

// OnExisting sets what Create does if the id is taken. Origin tells what it did. The id of an instance that has expired
// or was deleted is not taken.
func OnExisting(e Existing) CreateOption { return onExisting(e) }

type onExisting Existing

func (e onExisting) applyCreate(o *createOptions) error {
	switch Existing(e) {
	case Fail:
		o.existing = protocol.ExistingFail
	case ReturnExisting:
		o.existing = protocol.ExistingReturn
	case RestartExisting:
		o.existing = protocol.ExistingRestart
	default:
		return &OptionError{Option: "OnExisting", Value: int(e), Allowed: "Fail, ReturnExisting or RestartExisting"}
	}
	return nil
}

// Origin says how a call came to the instance that it returned.
type Origin string

// Origins of handles.
const (
	// Created: the call made the instance.
	Created Origin = "created"
	// Found: the instance was there.
	Found Origin = "found"
	// Restarted: the instance was there, and the call let it begin again.
	Restarted Origin = "restarted"
)

var origins = map[client.Outcome]Origin{client.Created: Created, client.Found: Found, client.Restarted: Restarted}

// Create starts an instance. In an agent's turn it is part of the turn's commit: it starts when the turn is stored,
// and not at all if it fails. Elsewhere (bodies of steps) it starts at once; see [Bound.Create] for the errors.
func (b Binding[P, R]) Create(ctx context.Context, params P, options ...CreateOption) (*Instance[R], error) {
	bound, err := b.bound(ctx)
	if err != nil {
		return nil, err
	}
	return bound.Create(ctx, params, options...)
}

// Create starts an instance with params, which travel as JSON of at most max_value_size. It returns when the start is
// durable.
//
// The errors, all before anything is stored: [*project.UnknownBindingError], [*NoTargetError] if the binding leads to
// what nobody registered, [*ClassError], [*protocol.NameError] for a bad id, [*OptionError], [*EncodingError], [*SizeError],
// and [*ExistsError] if the id is taken (see [OnExisting]).
//
// In the body of a step, a Create that the same step has made before, when it was tried before, is a success.
//
// The id of an instance that has expired is free, once a runner of the project has deleted the instance: Create waits for
// that.
func (b Bound[P, R]) Create(ctx context.Context, params P, options ...CreateOption) (*Instance[R], error) {
	s, instance, err := b.prepare(ctx, params, options)
	if err != nil {
		return nil, err
	}
	if err := instance.start(ctx, s); err != nil {
		return nil, err
	}
	return instance, nil
}

// start is the start of an instance of which everything was checked that can be without a look at the id.
type start struct {
	create   protocol.Create // without the params
	params   json.RawMessage
	existing protocol.Existing
	taken    bool // the id, as far as a turn knows
}

func (b Bound[P, R]) prepare(ctx context.Context, params P, options []CreateOption) (start, *Instance[R], error) {
	if err := betweenSteps(ctx); err != nil {
		return start{}, nil, fmt.Errorf("binding %q: %w", b.name, err)
	}
	o := createOptions{id: uuid.NewString()}
	for _, option := range options {
		if err := option.applyCreate(&o); err != nil {
			return start{}, nil, fmt.Errorf("binding %q: %w", b.name, err)
		}
	}
	if err := o.track(ctx); err != nil {
		return start{}, nil, fmt.Errorf("binding %q: %w", b.name, err)
	}
	raw, err := encode(params, fmt.Sprintf("params for binding %q", b.name), maxValue(b.project))
	if err != nil {
		return start{}, nil, err
	}
	instance, err := b.instance(ctx, o.id)
	if err != nil {
		return start{}, nil, err
	}
	return start{existing: o.existing, params: raw, create: protocol.Create{
		V: protocol.Version, Input: createInput(ctx), Workflow: instance.at.Workflow, ID: o.id,
		Created: time.Now().UTC(), Source: instance.source(ctx), Retention: o.retention,
	}}, instance, nil
}

// createInput tells this create from others of its id. A body that is tried again finds what it has made.
func createInput(ctx context.Context) string {
	if key := Step(ctx).IdempotencyKey; key != "" {
		return "step/" + key
	}
	return uuid.NewString()
}

// start stores the start of the instance, in an agent's turn with the turn.
func (i *Instance[R]) start(ctx context.Context, s start) error {
	if err := i.ready(ctx, &s); err != nil {
		return err
	}
	return i.store(ctx, s)
}

// ready does what can be done before the start is stored: the params are where they have to be. In an agent's turn, what is
// known of the id is told at once.
func (i *Instance[R]) ready(ctx context.Context, s *start) error {
	if t, ok := turn.From(ctx); ok {
		draft := t.Drafted(i.at)
		s.taken = draft.Create != nil
		if !s.taken && !draft.Deleted {
			p, err := i.lookHastily(ctx)
			_, away := errors.AsType[*door.AwayError](err) // what the id is told when the turn is carried out
			if err != nil && !away && !errors.Is(err, client.ErrNotFound) {
				return fmt.Errorf("create instance %s: %w", i.at, err)
			}
			s.taken, i.incarnation = err == nil, p.Incarnation
		}
		if s.taken {
			return nil
		}
	}
	var err error
	s.create.Params, s.create.ParamsObject, err = fit(journal.Refusing(ctx), i.project, i.owner(s), s.params)
	if err != nil {
		return fmt.Errorf("create instance %s: %w", i.at, err)
	}
	return nil
}

// owner is whose values the params are.
func (i *Instance[R]) owner(s *start) protocol.ObjectOwner {
	return protocol.OwnerOf(i.at, s.create.Input)
}

// store stores a start that is ready.
func (i *Instance[R]) store(ctx context.Context, s start) error {
	if t, ok := turn.From(ctx); ok {
		return i.storeInTurn(t, s)
	}
	asked := time.Now()
	outcome, incarnation, err := i.client().Create(journal.Refusing(ctx), i.at, s.create, s.existing)
	if errors.Is(err, client.ErrExists) || err == nil && outcome != client.Created {
		unfit(ctx, i.project, i.owner(&s), s.create.ParamsObject)
	}
	if errors.Is(err, client.ErrExists) {
		return &ExistsError{Workflow: i.at.Workflow, ID: i.at.ID}
	}
	if err != nil {
		return fmt.Errorf("create instance %s: %w", i.at, err)
	}
	i.incarnation, i.origin = incarnation, origins[outcome]
	if outcome == client.Created {
		i.born = asked
	}
	return nil
}

// storeInTurn asks for the start with the commit of the turn.
func (i *Instance[R]) storeInTurn(t turn.Turn, s start) error {
	switch {
	case !s.taken:
		i.incarnation, i.origin = 0, Created
		return t.Create(i.at, s.create, s.existing)
	case s.existing == protocol.ExistingReturn:
		i.origin = Found
		return nil
	case s.existing == protocol.ExistingRestart:
		i.origin = Restarted
		return t.Control(i.at, client.Restart(s.create, i.incarnation))
	}
	return &ExistsError{Workflow: i.at.Workflow, ID: i.at.ID}
}

// source says who asks for something, in the record of what is asked.
func (i *Instance[R]) source(ctx context.Context) protocol.Source {
	if t, ok := turn.From(ctx); ok {
		return t.Source()
	}
	if scope := execution.Enclosing(ctx); scope != nil {
		by := scope.Execution().Instance
		return protocol.Source{Kind: "step", Project: by.Project, Class: by.Workflow, Name: by.ID}
	}
	return protocol.Source{Kind: "program", Project: i.project.Config.Name}
}

// betweenSteps refuses what code between steps may not do: it would be done again in every run.
func betweenSteps(ctx context.Context) error {
	if _, err := execution.From(ctx); err == nil {
		return ErrBetweenSteps
	}
	return nil
}
