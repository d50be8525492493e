package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/skein-run/skein/pkg/protocol"
)

// Connector is implemented by agents that want a turn when a client has opened a socket. Its request is the one that the socket
// began with. An error refuses the connection, and the socket is closed: with code 1008 if it is an *Error with a status of 4xx, else
// with 1011, and then OnError is told, too, by a *ConnectionError. What is set for the connection here holds from its first frame on.
type Connector interface {
	OnConnect(ctx context.Context, c *Connection, r *http.Request) error
}

// MessageHandler is implemented by agents that take messages of clients: every frame that is neither a state nor a call. What it
// returns goes to OnError, as a *ConnectionError, and the turn is dropped; the connection stays.
type MessageHandler interface {
	OnMessage(ctx context.Context, c *Connection, m Message) error
}

// CloseHandler is implemented by agents that want a turn when a socket has ended: once for each connection that was opened.
type CloseHandler interface {
	OnClose(ctx context.Context, c *Connection, how Closed) error
}

// Message is a frame that goes over a socket.
type Message struct {
	// Text is that of a text frame.
	Text string
	// Binary says that it is no text frame, but has Data.
	Binary bool
	Data   []byte
}

// Text makes a message of a text.
func Text(text string) Message { return Message{Text: text} }

// Binary makes a message of bytes.
func Binary(data []byte) Message { return Message{Binary: true, Data: data} }

// Closed says how a socket has ended.
type Closed struct {
	// Code is that of the WebSocket protocol; 1006 if the socket broke.
	Code   int
	Reason string
	// Clean says that both sides have said so.
	Clean bool
}

// ConnectionError is handed to OnError if OnConnect, OnMessage or OnClose has failed. Connections(ctx, e.Connection) has the connection, as
// long as it is open.
type ConnectionError struct {
	// Hook is the method that has failed.
	Hook string
	// Connection is the id of the connection.
	Connection string
	Err        error
}

func (e *ConnectionError) Error() string {
	return fmt.Sprintf("%s of connection %q: %v", e.Hook, e.Connection, e.Err)
}

// Unwrap returns what the method has returned.
func (e *ConnectionError) Unwrap() error { return e.Err }

// FailureName is how the error is called where it is stored or answered.
func (e *ConnectionError) FailureName() string { return "ConnectionError" }

// ErrReadonly is why a state cannot be set in a turn for a readonly connection.
var ErrReadonly = errors.New("the connection is readonly")

// connKey names a connection: its number at its gateway.
type connKey struct {
	gateway string
	conn    uint64
}

// Connection is the socket of a client, as a turn sees it. What a turn does to it happens when the turn is stored, in the order of its
// frames; outside of the turn it is only read.
type Connection struct {
	agent protocol.Agent
	key   connKey
	known protocol.SocketConnection
	dirty bool
}

// ID is what the client calls itself, or was called if it did not.
func (c *Connection) ID() string { return c.known.ID }

// Tags are what the agent has tagged the connection with.
func (c *Connection) Tags() []string { return slices.Clone(c.known.Tags) }

// IsReadonly reports whether the client may change no state.
func (c *Connection) IsReadonly() bool { return c.known.Readonly }

// ConnectionState reads what SetState has kept with a connection into a T; without that, it is the zero T.
func ConnectionState[T any](c *Connection) (T, error) {
	var state T
	if c.known.State == nil {
		return state, nil
	}
	if err := json.Unmarshal(c.known.State, &state); err != nil {
		return state, fmt.Errorf("state of connection %q as %T: %w", c.known.ID, state, err)
	}
	return state, nil
}

// SetState keeps a value with the connection, for as long as it is open.
func (c *Connection) SetState(ctx context.Context, state any) error {
	raw, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("state of connection %q: %w", c.known.ID, err)
	}
	if len(raw) > protocol.MaxConnectionState {
		return fmt.Errorf("state of connection %q is %d bytes long as JSON, at most %d are allowed", c.known.ID, len(raw), protocol.MaxConnectionState)
	}
	return c.change(ctx, func(known *protocol.SocketConnection) { known.State = raw })
}

// SetTags tags the connection, for Tagged. Its id is a tag by itself.
func (c *Connection) SetTags(ctx context.Context, tags ...string) error {
	if len(tags) > protocol.MaxTags {
		return fmt.Errorf("connection %q: %d tags, at most %d are allowed", c.known.ID, len(tags), protocol.MaxTags)
	}
	for _, tag := range tags {
		if tag == "" || len(tag) > protocol.MaxTag || !utf8.ValidString(tag) {
			return fmt.Errorf("connection %q: tag %.300q: allowed are 1 to %d bytes of UTF-8", c.known.ID, tag, protocol.MaxTag)
		}
	}
	return c.change(ctx, func(known *protocol.SocketConnection) { known.Tags = slices.Clone(tags) })
}

// SetReadonly says whether the client may change the state: neither by sending one, nor by what it calls.
func (c *Connection) SetReadonly(ctx context.Context, readonly bool) error {
	return c.change(ctx, func(known *protocol.SocketConnection) { known.Readonly = readonly })
}

// SetSilent says whether the client gets no frames that it did not ask for, but messages: neither identity nor state. Calls work all
// the same.
func (c *Connection) SetSilent(ctx context.Context, silent bool) error {
	return c.change(ctx, func(known *protocol.SocketConnection) { known.Silent = silent })
}

func (c *Connection) change(ctx context.Context, change func(*protocol.SocketConnection)) error {
	d, err := c.draft(ctx)
	if err != nil {
		return err
	}
	return d.change(func() error {
		change(&c.known)
		known := c.known
		c.dirty = true
		return d.sendFrame(protocol.SocketFrame{Gateway: c.key.gateway, Conn: c.key.conn, Set: &known})
	})
}

// Send sends a message to the client.
func (c *Connection) Send(ctx context.Context, m Message) error {
	d, err := c.draft(ctx)
	if err != nil {
		return err
	}
	f := protocol.SocketFrame{Gateway: c.key.gateway, Conn: c.key.conn}
	m.fill(&f)
	return d.change(func() error { return d.sendFrame(f) })
}

// Close closes the socket after what was sent before. Codes are 1000 and 3000 to 4999; those from 4000 on, and 1008, tell clients not
// to connect again.
func (c *Connection) Close(ctx context.Context, code int, reason string) error {
	if code != 1000 && code != 1008 && (code < 3000 || code > 4999) {
		return fmt.Errorf("close connection %q: code %d: allowed are 1000, 1008 and 3000 to 4999", c.known.ID, code)
	}
	d, err := c.draft(ctx)
	if err != nil {
		return err
	}
	f := protocol.SocketFrame{Gateway: c.key.gateway, Conn: c.key.conn, Close: &protocol.SocketClose{Code: code, Reason: reason}}
	return d.change(func() error { return d.sendFrame(f) })
}

// draft is that of the turn, if it is one of the connection's agent.
func (c *Connection) draft(ctx context.Context) (*draft, error) {
	d, err := anyDraft(ctx)
	if err == nil && d.agent != c.agent {
		err = ErrNoTurn
	}
	return d, err
}

func (m Message) fill(f *protocol.SocketFrame) {
	if m.Binary {
		data := slices.Clone(m.Data)
		f.Data = &data
		return
	}
	f.Text = new(protocol.FrameText(m.Text))
}

// BroadcastOption narrows down whom Broadcast reaches.
type BroadcastOption interface {
	applyBroadcast(*protocol.SocketFrame)
}

type broadcastOption func(*protocol.SocketFrame)

func (o broadcastOption) applyBroadcast(f *protocol.SocketFrame) { o(f) }

// Except leaves connections out, by their ids.
func Except(ids ...string) BroadcastOption {
	return broadcastOption(func(f *protocol.SocketFrame) { f.Except = append(f.Except, ids...) })
}

// Tagged reaches only connections that have a tag.
func Tagged(tag string) BroadcastOption {
	return broadcastOption(func(f *protocol.SocketFrame) { f.Tag = tag })
}

// Broadcast sends a message to all clients that have a socket open, when the turn is stored. Every turn of an agent can.
func Broadcast(ctx context.Context, m Message, options ...BroadcastOption) error {
	d, err := anyDraft(ctx)
	if err != nil {
		return err
	}
	var f protocol.SocketFrame
	for _, o := range options {
		o.applyBroadcast(&f)
	}
	m.fill(&f)
	return d.change(func() error { return d.sendFrame(f) })
}

// Connections lists the sockets that are open, or those that have a tag. Those at a host that is gone are not among them, also before
// their OnClose.
func Connections(ctx context.Context, tag ...string) ([]*Connection, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return nil, err
	}
	if d.reading {
		return nil, ErrReads
	}
	if len(tag) > 1 {
		return nil, fmt.Errorf("connections: %d tags, at most one is allowed", len(tag))
	}
	if err := d.actor.attachAll(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var open []*Connection
	for _, key := range d.openKeys() {
		c := d.connection(key)
		if c == nil {
			continue // its gateway is gone
		}
		if len(tag) == 0 || c.known.ID == tag[0] || slices.Contains(c.known.Tags, tag[0]) {
			open = append(open, c)
		}
	}
	return open, nil
}

// CurrentConnection is the one whose frame the turn is for; false if it is for something else.
func CurrentConnection(ctx context.Context) (*Connection, bool) {
	d, err := anyDraft(ctx)
	if err != nil || d.socket == nil {
		return nil, false
	}
	return d.socket.conn, true
}

// StateSource is the connection whose client has sent the state that ValidateStateChange is to look at; false if the agent sets it,
// which it may do for a client that calls a method.
func StateSource(ctx context.Context) (*Connection, bool) {
	if ctx.Value(fromClientKey{}) == nil {
		return nil, false
	}
	return CurrentConnection(ctx)
}
