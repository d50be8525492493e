package execution

import (
	"context"
	"encoding/json"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// MaxValue is the most bytes that a value may have as JSON.
func (s *Scope) MaxValue() int64 { return s.x.MaxValue }

// Fetch returns a value of the instance that its create holds, or refers to: raw if object is nil. It returns an error
// only if ctx ended.
func (s *Scope) Fetch(ctx context.Context, raw json.RawMessage, object *protocol.Object) (json.RawMessage, error) {
	if object == nil {
		return raw, nil
	}
	s.enter()
	value, err := s.fetch(ctx, raw, object)
	s.leave() // unless the goroutine ended within
	return value, err
}

// fetch is Fetch within a call into the engine; x.mu is held before and after, but not meanwhile. If the value cannot be
// had, the execution is dropped: the code must not see an error that another run does not.
func (s *Scope) fetch(ctx context.Context, raw json.RawMessage, object *protocol.Object) (json.RawMessage, error) {
	if object == nil {
		return raw, nil
	}
	x := s.x
	value, err := busy(x, func() (json.RawMessage, error) { return x.Objects.Get(ctx, x.Instance.Project, *object) })
	switch {
	case s.out() || x.phase == finishing:
		s.exit()
	case err != nil && ctx.Err() == nil:
		x.end(Event{Kind: Dropped, Err: err}, err)
		s.exit()
	}
	if err != nil {
		return nil, context.Cause(ctx)
	}
	return value, nil
}

// busy does something that takes time for the code: meanwhile the execution does not park. x.mu is held on entry and on
// return, but not meanwhile.
func busy[T any](x *Execution, do func() (T, error)) (T, error) {
	x.bodies++
	x.mu.Unlock()
	v, err := do()
	x.mu.Lock()
	x.bodies--
	x.activity++
	x.changed.Broadcast()
	return v, err
}

// fetchResult returns a step that is done with its result.
func (s *Scope) fetchResult(ctx context.Context, step *engine.Step) (*engine.Step, error) {
	if step.Object == nil {
		return step, nil
	}
	whole := *step // what the machine has stays small
	var err error
	whole.Result, err = s.fetch(ctx, nil, step.Object)
	return &whole, err
}

// stow puts the result of an outcome into the object store if it is too large for a message. What the store refuses for
// good makes it a failure.
func (x *Execution) stow(ctx context.Context, o outcome) outcome {
	if o.failure != nil || len(o.result) <= protocol.InlinePayload {
		return o
	}
	object, err := x.Objects.Put(ctx, objects.Value{Owner: protocol.OwnerOf(x.Instance, x.History.Create.Input), JSON: o.result})
	if err != nil {
		return outcome{failure: protocol.NewFailure(err), err: err}
	}
	return outcome{object: object}
}

// stowOutput is stow for what the code returned. It reports whether the execution goes on; x.mu is held on entry and on
// return, but not meanwhile.
func (x *Execution) stowOutput(o outcome) (outcome, bool) {
	if o.failure != nil || len(o.result) <= protocol.InlinePayload {
		return o, true
	}
	o, _ = busy(x, func() (outcome, error) { return x.stow(x.ctx, o), nil })
	if x.ctx.Err() != nil && o.failure != nil { // it was not the store that refused
		return o, false
	}
	return o, x.wakeUp()
}
