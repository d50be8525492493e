package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"github.com/skein-run/skein/pkg/protocol"
)

// Agent is implemented by pointers to structs that embed Base, and by nothing else.
type Agent interface {
	base() *core
	// encodeInitial returns what InitialState of the whole agent says, as JSON; nil without such a method.
	encodeInitial(whole any) (json.RawMessage, error)
	// checkState reports whether a stored state can be read into the agent's state type.
	checkState(raw json.RawMessage) error
	// stateType is the agent's state type.
	stateType() reflect.Type
	// stateHooks are the signatures that the hooks of the state must have, by name.
	stateHooks() map[string]string
	// setClientState makes what a client has sent the state.
	setClientState(ctx context.Context, raw json.RawMessage) error
	// stateChanged calls OnStateChanged of the whole agent, if it has one.
	stateChanged(ctx context.Context, whole any) error
}

// Base makes an agent of the struct that embeds it. S is the type of its state: anything that JSON can carry.
//
// Three methods of the agent, if it has them, are called for its state:
//
//   - InitialState() S gives the state of an agent that never stored one. Else that is the zero S.
//   - ValidateStateChange(ctx context.Context, next S) error is called before a state is set. An error refuses it: SetState
//     returns a *StateError that wraps it, and nothing has changed. StateSource tells whether a client has sent the state.
//   - OnStateChanged(ctx context.Context, now S) error is called in a turn of its own after a turn that has stored another
//     state, before any other turn. Its errors go to OnError and affect nothing else. It is not called again for what it
//     changes itself, and not if the host dies before: what must come with a change belongs into the turn that makes it.
type Base[S any] struct {
	core core
	// last is what was read last; guarded by the core.
	last stateRead[S]
}

// stateRead is a state and the JSON that it was read from.
type stateRead[S any] struct {
	raw   json.RawMessage
	state S
}

// maxRead bounds the JSON of a state that is kept as it was read, beside the JSON.
const maxRead = protocol.InlineState

// core is the state of one agent in memory, as the handlers see it: the draft in a turn, else what is stored.
type core struct {
	mu       sync.Mutex // guards what follows
	bound    bool
	name     string
	whole    Agent   // what embeds the Base
	copier   *copier // of states; nil: they are read from JSON each time
	initial  json.RawMessage
	state    json.RawMessage
	revision uint64
}

const (
	hookInitialState = "InitialState"
	hookValidate     = "ValidateStateChange"
	hookStateChanged = "OnStateChanged"
)

type validator[S any] interface {
	ValidateStateChange(ctx context.Context, next S) error
}

type stateObserver[S any] interface {
	OnStateChanged(ctx context.Context, now S) error
}

func (b *Base[S]) base() *core { return &b.core }

func (b *Base[S]) stateHooks() map[string]string {
	return map[string]string{
		hookInitialState: reflect.TypeFor[func() S]().String(),
		hookValidate:     reflect.TypeFor[func(context.Context, S) error]().String(),
		hookStateChanged: reflect.TypeFor[func(context.Context, S) error]().String(),
	}
}

func (b *Base[S]) stateChanged(ctx context.Context, whole any) error {
	if hook, ok := whole.(stateObserver[S]); ok {
		return hook.OnStateChanged(ctx, b.State())
	}
	return nil
}

func (b *Base[S]) setClientState(ctx context.Context, raw json.RawMessage) error {
	var s S
	if err := json.Unmarshal(raw, &s); err != nil {
		return &StateError{Agent: b.core.name, Reason: "does not fit its type", Err: err}
	}
	return b.SetState(context.WithValue(ctx, fromClientKey{}, true), s)
}

// fromClientKey marks the context of a state that a client has sent.
type fromClientKey struct{}

func (b *Base[S]) encodeInitial(whole any) (json.RawMessage, error) {
	hook, ok := whole.(interface{ InitialState() S })
	if !ok {
		return nil, nil
	}
	return json.Marshal(hook.InitialState())
}

func (b *Base[S]) stateType() reflect.Type { return reflect.TypeFor[S]() }

func (b *Base[S]) checkState(raw json.RawMessage) error {
	_, err := b.readState(raw)
	return err
}

// readState reads a state, and remembers it if it can be copied. The JSON must not be changed any more.
func (b *Base[S]) readState(raw json.RawMessage) (S, error) {
	b.core.mu.Lock()
	c, s, known := b.core.copier, b.last.state, isSame(b.last.raw, raw)
	b.core.mu.Unlock()
	if known {
		copied(c, &s)
		return s, nil
	}
	var fresh S
	if err := json.Unmarshal(raw, &fresh); err != nil || c == nil || len(raw) > maxRead {
		return fresh, err
	}
	b.keep(c, raw, fresh)
	return fresh, nil
}

// keep remembers a copy of a state.
func (b *Base[S]) keep(c *copier, raw json.RawMessage, s S) {
	copied(c, &s)
	b.core.mu.Lock()
	defer b.core.mu.Unlock()
	b.last = stateRead[S]{raw: raw, state: s}
}

// readBack reports whether JSON can be read that was made of a state. It costs more to read it than to see that this would
// make the same state.
func (b *Base[S]) readBack(raw json.RawMessage, s *S) error {
	b.core.mu.Lock()
	c := b.core.copier
	b.core.mu.Unlock()
	if !isSurvivor(c, s) {
		return b.checkState(raw)
	}
	if len(raw) <= maxRead {
		b.keep(c, raw, *s)
	}
	return nil
}

// isSame reports whether two texts are one in memory.
func isSame(a, b json.RawMessage) bool { return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] }

// State returns the state: in a turn, with the turn's own changes. What it returns is the caller's; changes to it are
// stored only by SetState.
func (b *Base[S]) State() S {
	raw := b.core.current()
	if raw == nil {
		var zero S
		return zero
	}
	s, err := b.readState(raw)
	if err != nil {
		// The host checks a stored state before the first turn, and SetState reads back what it stores.
		panic(fmt.Sprintf("agent: state that was checked cannot be read: %v", err))
	}
	return s
}

// Revision counts how often the state was changed in this life of the agent; 0 says that none was ever stored. In a turn
// that has changed it, it is what the revision will be.
func (b *Base[S]) Revision() uint64 {
	b.core.mu.Lock()
	defer b.core.mu.Unlock()
	return b.core.revision
}

// SetState makes s the state. It is stored when the turn is. A state that the agent refuses, that has more than
// protocol.MaxState bytes as JSON, or that cannot be read back from it, is a *StateError.
func (b *Base[S]) SetState(ctx context.Context, s S) error {
	d, err := draftOf(ctx, &b.core)
	if err != nil {
		return err
	}
	if ctx.Value(validatingKey{}) != nil {
		return &StateError{Agent: d.agent.Name, Reason: "is set by ValidateStateChange, which may only look at it"}
	}
	if d.socket != nil && d.socket.conn.IsReadonly() {
		return &StateError{Agent: d.agent.Name, Reason: "is refused", Err: ErrReadonly}
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return &StateError{Agent: d.agent.Name, Reason: "cannot be encoded as JSON", Err: err}
	}
	if len(raw) > protocol.MaxState {
		return &StateError{Agent: d.agent.Name, Size: int64(len(raw)), Limit: protocol.MaxState,
			Reason: fmt.Sprintf("is %d bytes long, at most %d are allowed", len(raw), protocol.MaxState)}
	}
	if err := b.readBack(raw, &s); err != nil {
		return &StateError{Agent: d.agent.Name, Reason: "cannot be read back from its JSON", Err: err}
	}
	if hook, ok := b.core.whole.(validator[S]); ok {
		if err := hook.ValidateStateChange(context.WithValue(ctx, validatingKey{}, true), s); err != nil {
			return &StateError{Agent: d.agent.Name, Reason: "is refused", Err: err}
		}
	}
	return d.setState(raw)
}

// validatingKey marks the context of ValidateStateChange.
type validatingKey struct{}

// Update calls change with the state and makes what change leaves there the state. If change returns an error, the
// state stays.
func (b *Base[S]) Update(ctx context.Context, change func(*S) error) error {
	if _, err := draftOf(ctx, &b.core); err != nil {
		return err
	}
	s := b.State()
	if err := change(&s); err != nil {
		return err
	}
	return b.SetState(ctx, s)
}

func (c *core) current() json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != nil {
		return c.state
	}
	return c.initial
}

func (c *core) copyWith(copies *copier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copier = copies
}

func (c *core) set(state json.RawMessage, revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.revision = state, revision
}

// bind makes the core that of one agent. A second bind means that a factory returned the same agent twice.
func (c *core) bind(name string, whole Agent, initial json.RawMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bound {
		return fmt.Errorf("the factory returned the agent %q for the agent %q: it must return a new one each time", c.name, name)
	}
	c.bound, c.name, c.whole, c.initial = true, name, whole, initial
	return nil
}
