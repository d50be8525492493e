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
	// initialSignature is the signature that a method InitialState must have.
	initialSignature() string
}

// Base makes an agent of the struct that embeds it. S is the type of its state: anything that JSON can carry.
//
// A method InitialState() S of the agent, if it has one, gives the state of an agent that never stored one. Else that
// is the zero S.
type Base[S any] struct{ core core }

// core is the state of one agent in memory, as the handlers see it: the draft in a turn, else what is stored.
type core struct {
	mu      sync.Mutex // guards what follows
	bound   bool
	name    string
	initial json.RawMessage
	state   json.RawMessage
}

func (b *Base[S]) base() *core { return &b.core }

func (b *Base[S]) initialSignature() string {
	return "func() " + reflect.TypeFor[S]().String()
}

func (b *Base[S]) encodeInitial(whole any) (json.RawMessage, error) {
	hook, ok := whole.(interface{ InitialState() S })
	if !ok {
		return nil, nil
	}
	return json.Marshal(hook.InitialState())
}

func (b *Base[S]) checkState(raw json.RawMessage) error {
	var s S
	return json.Unmarshal(raw, &s)
}

// State returns the state: in a turn, with the turn's own changes. What it returns is the caller's; changes to it are
// stored only by SetState.
func (b *Base[S]) State() S {
	var s S
	if raw := b.core.current(); raw != nil {
		if err := json.Unmarshal(raw, &s); err != nil {
			// The host checks a stored state before the first turn, and SetState reads back what it stores.
			panic(fmt.Sprintf("agent: state that was checked cannot be read: %v", err))
		}
	}
	return s
}

// SetState makes s the state. It is stored when the turn is.
func (b *Base[S]) SetState(ctx context.Context, s S) error {
	d, err := draftOf(ctx, &b.core)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return &StateError{Agent: d.agent.Name, Reason: "cannot be encoded as JSON", Err: err}
	}
	if len(raw) > protocol.MaxState {
		return &StateError{Agent: d.agent.Name,
			Reason: fmt.Sprintf("is %d bytes long, at most %d are allowed", len(raw), protocol.MaxState)}
	}
	if err := b.checkState(raw); err != nil {
		return &StateError{Agent: d.agent.Name, Reason: "cannot be read back from its JSON", Err: err}
	}
	return d.setState(raw)
}

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

func (c *core) set(state json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state
}

// bind makes the core that of one agent. A second bind means that a factory returned the same agent twice.
func (c *core) bind(name string, initial, state json.RawMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bound {
		return fmt.Errorf("the factory returned the agent %q for the agent %q: it must return a new one each time", c.name, name)
	}
	c.bound, c.name, c.initial, c.state = true, name, initial, state
	return nil
}
