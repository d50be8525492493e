package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/pkg/agent"
)

// Client is a client that has a socket to an agent open, as a page has. Its socket is held by a host of its own, so it stays open when
// the agent's host dies or the agent sleeps. Make it with [Kit.Dial].
type Client struct {
	kit  *Kit
	ws   *websocket.Conn
	path string

	mu       sync.Mutex // guards what follows
	messages []agent.Message
	state    json.RawMessage
	calls    map[string]chan answer
	number   int // of the last call
	// asked and answered count barriers: calls of no method, whose answers come after everything that came of the frames before them.
	asked, answered int
	dirty           bool
	moved           uint64
	ended           *agent.Closed
	changed         chan struct{} // closed when something has come
}

// answer is the frame that answers a call.
type answer struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	Success bool            `json:"success"`
	Done    *bool           `json:"done"`
	Result  json.RawMessage `json:"result"`
	Error   string          `json:"error"`
	State   json.RawMessage `json:"state"`
}

// Types of frames that are no messages.
const (
	frameIdentity = "cf_agent_identity"
	frameState    = "cf_agent_state"
	frameCall     = "rpc"
)

// gate is the agent of the host that holds the sockets, so that it has something to serve.
type gate struct{ agent.Base[struct{}] }

// Dial opens a socket to an agent: "/agents/chat-room/lobby?_pk=ada". The header, which may be nil, goes with the request. It returns
// when OnConnect is done, and fails the test if there is no socket; one that OnConnect has refused has [Client.Closed].
func (k *Kit) Dial(path string, header http.Header) *Client {
	k.t.Helper()
	if k.gate == nil {
		k.gate = k.start(agent.Define("AgenttestGate", func() *gate { return &gate{} }))
	}
	ws, response, err := websocket.Dial(k.t.Context(), "ws://"+k.gate.service.Addr().String()+path, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		status := "no answer"
		if response != nil {
			status = response.Status
		}
		k.t.Fatalf("agenttest: socket to %s: %s: %v", path, status, err)
	}
	ws.SetReadLimit(-1)
	c := &Client{kit: k, ws: ws, path: path, calls: map[string]chan answer{}, changed: make(chan struct{}), dirty: true}
	k.clients = append(k.clients, c)
	var reading sync.WaitGroup
	reading.Go(c.read)
	k.t.Cleanup(func() { _ = ws.CloseNow(); reading.Wait() }) // it may have ended
	k.Settle()
	return c
}

// read takes frames until the socket ends.
func (c *Client) read() {
	for {
		kind, data, err := c.ws.Read(context.Background())
		c.mu.Lock()
		if err != nil {
			c.end(err)
		} else {
			c.take(kind, data)
		}
		c.moved++
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take sorts a frame in. The client is locked.
func (c *Client) take(kind websocket.MessageType, data []byte) {
	if kind == websocket.MessageBinary {
		c.messages = append(c.messages, agent.Binary(data))
		return
	}
	var f answer
	if err := json.Unmarshal(data, &f); err != nil {
		f.Type = "" // a message that is no JSON
	}
	waiting := c.calls[f.ID]
	switch {
	case f.Type == frameIdentity:
	case f.Type == frameState:
		c.state = f.State
	case f.Type == frameCall && f.ID == barrierID(c.asked):
		c.answered = c.asked
	case f.Type == frameCall && waiting != nil && (f.Done == nil || *f.Done):
		delete(c.calls, f.ID)
		waiting <- f
	default:
		c.messages = append(c.messages, agent.Text(string(data)))
	}
}

// end notes the end. The client is locked.
func (c *Client) end(err error) {
	how := agent.Closed{Code: int(websocket.StatusAbnormalClosure)}
	if said, ok := errors.AsType[websocket.CloseError](err); ok {
		how = agent.Closed{Code: int(said.Code), Reason: said.Reason, Clean: true}
	}
	c.ended = &how
	for _, waiting := range c.calls {
		close(waiting)
	}
	c.calls = nil
}

func barrierID(n int) string { return fmt.Sprint("agenttest-", n) }

// rests reports whether everything that the client has sent is done, and what came of it is here. If it is not known, it asks.
func (c *Client) rests() (moved uint64, rests bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended != nil:
		return c.moved, true
	case c.asked > c.answered:
		return c.moved, false
	case !c.dirty:
		return c.moved, true
	}
	c.dirty = false
	c.asked++
	c.moved++
	frame := fmt.Sprintf(`{"type":%q,"id":%q,"method":"","args":[]}`, frameCall, barrierID(c.asked))
	_ = c.ws.Write(c.kit.t.Context(), websocket.MessageText, []byte(frame)) // if the socket has ended, that is seen
	return c.moved, false
}

// settle waits until nothing moves and all that was sent to the client is here.
func (c *Client) settle() {
	c.kit.t.Helper()
	c.mu.Lock()
	c.dirty = true
	c.mu.Unlock()
	c.kit.Settle()
}

// Send sends a text frame. What comes of it is done when the kit has settled.
func (c *Client) Send(text string) {
	c.kit.t.Helper()
	c.write(websocket.MessageText, []byte(text))
}

// SendBinary sends a binary frame.
func (c *Client) SendBinary(data []byte) {
	c.kit.t.Helper()
	c.write(websocket.MessageBinary, data)
}

// SetState asks that a value becomes the state of the agent. If that is refused, the reason comes as a message.
func (c *Client) SetState(state any) {
	c.kit.t.Helper()
	c.writeJSON(map[string]any{"type": frameState, "state": state})
}

func (c *Client) writeJSON(frame any) {
	c.kit.t.Helper()
	data, err := json.Marshal(frame)
	if err != nil {
		c.kit.t.Fatalf("agenttest: frame for %s: %v", c.path, err)
	}
	c.write(websocket.MessageText, data)
}

// write sends a frame; one that the other side has ended takes it in silence, as it does in production.
func (c *Client) write(kind websocket.MessageType, data []byte) {
	c.kit.t.Helper()
	if err := c.ws.Write(c.kit.t.Context(), kind, data); err != nil {
		c.kit.t.Logf("agenttest: frame for %s: %v", c.path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = true
}

// CallError is what a method that a client has called has answered with, or why there is no answer.
type CallError struct{ Message string }

func (e *CallError) Error() string { return e.Message }

// Call calls a method of the agent, by the name that clients know it by, and returns its result as JSON. The chunks that come before the
// result are among the messages, as the frames that they are.
func (c *Client) Call(method string, args ...any) (json.RawMessage, error) {
	c.kit.t.Helper()
	if args == nil {
		args = []any{}
	}
	answered := make(chan answer, 1)
	c.mu.Lock()
	if c.ended != nil {
		c.mu.Unlock()
		return nil, &CallError{"the socket has ended"}
	}
	c.number++
	id := fmt.Sprint(c.number)
	c.calls[id] = answered
	c.mu.Unlock()
	c.writeJSON(map[string]any{"type": frameCall, "id": id, "method": method, "args": args})
	ctx, cancel := context.WithTimeout(c.kit.t.Context(), patience)
	defer cancel()
	select {
	case a, ok := <-answered:
		if !ok {
			return nil, &CallError{"the socket has ended"}
		}
		if !a.Success {
			return nil, &CallError{a.Error}
		}
		return a.Result, nil
	case <-ctx.Done():
		c.kit.t.Fatalf("agenttest: no answer to a call of %s at %s within %v", method, c.path, patience)
		return nil, nil
	}
}

// Next waits for the next message: any frame that is neither the identity, nor a state, nor the answer to a call. It fails the test if
// the socket ends before.
func (c *Client) Next() agent.Message {
	c.kit.t.Helper()
	ctx, cancel := context.WithTimeout(c.kit.t.Context(), patience)
	defer cancel()
	for {
		c.mu.Lock()
		changed, ended := c.changed, c.ended
		if len(c.messages) > 0 {
			next := c.messages[0]
			c.messages = c.messages[1:]
			c.mu.Unlock()
			return next
		}
		c.mu.Unlock()
		if ended != nil {
			c.kit.t.Fatalf("agenttest: no message from %s: the socket has ended with %d %s", c.path, ended.Code, ended.Reason)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.kit.t.Fatalf("agenttest: no message from %s within %v", c.path, patience)
		}
	}
}

// Messages are those that have come and that nobody has taken, when nothing moves any more.
func (c *Client) Messages() []agent.Message {
	c.kit.t.Helper()
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	messages := c.messages
	c.messages = nil
	return messages
}

// Seen is the state of the agent as the client has seen it last, when nothing moves any more; the zero S if it has seen none.
func Seen[S any](c *Client) S {
	c.kit.t.Helper()
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	var s S
	if c.state != nil {
		if err := json.Unmarshal(c.state, &s); err != nil {
			c.kit.t.Fatalf("agenttest: state from %s: %v", c.path, err)
		}
	}
	return s
}

// Closed tells how the socket has ended, and whether it has, when nothing moves any more.
func (c *Client) Closed() (how agent.Closed, ok bool) {
	c.kit.t.Helper()
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		return how, false
	}
	return *c.ended, true
}

// Close closes the socket in order, and returns when OnClose is done.
func (c *Client) Close(code int, reason string) {
	c.kit.t.Helper()
	if err := c.ws.Close(websocket.StatusCode(code), reason); err != nil {
		c.kit.t.Logf("agenttest: close the socket to %s: %v", c.path, err) // the other side was faster, or it has another code
	}
	c.awaitEnd()
}

// Break ends the socket as a network that breaks, or the death of the host that holds it: OnClose gets 1006. It returns when that is done.
func (c *Client) Break() {
	c.kit.t.Helper()
	_ = c.ws.CloseNow() // it may have ended
	c.awaitEnd()
}

func (c *Client) awaitEnd() {
	c.kit.t.Helper()
	c.kit.await("the socket to "+c.path+" has ended", func() (bool, error) { return c.hasEnded(), nil })
	c.kit.Settle()
}

// clientsRest reports whether all that clients have sent is done, and all of their ends are told.
func (k *Kit) clientsRest() (moved uint64, rests bool) {
	k.t.Helper()
	rests = true
	ended := 0
	for _, c := range k.clients {
		n, still := c.rests()
		moved, rests = moved+n, rests && still
		if c.hasEnded() {
			ended++
		}
	}
	if !rests || ended == k.told {
		return moved, rests
	}
	open := 0
	for _, r := range k.records() {
		for _, g := range r.Gateways {
			open += len(g.Open)
		}
	}
	if open > len(k.clients)-ended {
		return moved, false
	}
	k.told = ended
	return moved, true
}

func (c *Client) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended != nil
}
