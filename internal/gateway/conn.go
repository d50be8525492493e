package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// conn is one socket.
type conn struct {
	link   *link
	ws     *websocket.Conn
	client Client

	in  *queue[protocol.SocketUp]
	out *queue[outgoing]
	// number is that of the last frame of the client; it belongs to who reads.
	number uint64
	gone   chan struct{} // closed when the agent knows that the socket has ended
	dead   atomic.Bool   // nothing more goes to the agent but that
	// refused is set if the agent never took the connection: then it needs not to know of the end.
	refused atomic.Bool
	// ending is how this side has ended it. When it has done what it can, shut is closed; agreed tells that the client has said so, too.
	ending     atomic.Pointer[protocol.SocketClose]
	shut       chan struct{}
	agreed     bool
	complained atomic.Bool
	pinged     atomic.Bool // and no answer yet
	running    sync.WaitGroup

	// Guarded by the link.
	set      protocol.SocketConnection
	open     bool
	revision uint64
	calls    map[string]bool // that wait for their answers
	row      *row
}

// outgoing is a frame for the client, or the end.
type outgoing struct {
	data     []byte
	binary   bool
	state    bool
	revision uint64
	end      *protocol.SocketClose
}

func newConn(l *link, ws *websocket.Conn, client Client) *conn {
	return &conn{
		link: l, ws: ws, client: client, gone: make(chan struct{}), shut: make(chan struct{}),
		set: protocol.SocketConnection{ID: client.ID, Identity: client.Identity}, calls: map[string]bool{},
	}
}

// log is made when there is something to say: most connections are many and quiet.
func (c *conn) log() *slog.Logger {
	return c.link.log.With(slog.String(logkey.Connection, c.client.ID))
}

// run reads until the socket ends, and returns when the agent knows that.
func (c *conn) run(ctx context.Context) {
	limits := c.link.gateway.limits
	start := func(fn func()) { c.running.Go(fn) }
	c.in = newQueue(limits.Waiting, limits.WaitingBytes, start, func(up protocol.SocketUp) { c.send(ctx, up) })
	c.out = newQueue(limits.Waiting, limits.WaitingBytes, start, func(o outgoing) { c.write(ctx, o) })
	defer c.running.Wait()
	defer c.out.end()
	defer c.link.remove(ctx, c)
	c.up(ctx, protocol.SocketUp{Kind: protocol.SocketConnect, HTTP: c.client.Request}, 0)
	c.client.Request = nil // it is large, and wanted no more
	c.read(ctx)
	select {
	case <-c.gone:
	case <-ctx.Done():
	}
}

// read takes the frames of the client until there are no more.
func (c *conn) read(ctx context.Context) {
	for {
		kind, data, err := c.ws.Read(ctx)
		if err != nil {
			c.ended(ctx, err)
			return
		}
		if kind == websocket.MessageBinary {
			c.up(ctx, protocol.SocketUp{Kind: protocol.SocketData, Data: data}, len(data))
			continue
		}
		if err := c.text(ctx, data); err != nil {
			c.complain(ctx, err.Reason)
			c.close(protocol.SocketClose{Code: err.Code, Reason: err.Reason})
		}
	}
}

// text takes a text frame. The error ends the connection.
func (c *conn) text(ctx context.Context, data []byte) *Close {
	if !utf8.Valid(data) {
		return &Close{Code: int(websocket.StatusInvalidFramePayloadData), Reason: "a text frame is not UTF-8"}
	}
	f, err := wire.Decode(data)
	if wrong, ok := errors.AsType[*wire.FrameError](err); ok {
		c.complain(ctx, wrong.Error())
		switch {
		case wrong.Kind == wire.KindState:
			c.say(wire.StateError(wire.StateRejected, wrong.Reason))
		case wrong.CallID != "":
			c.say(wire.CallError(wrong.CallID, wrong.Error()))
		default:
			return &Close{Code: int(websocket.StatusInvalidFramePayloadData), Reason: wrong.Error()}
		}
		return nil
	}
	switch f.Kind {
	case wire.KindState:
		c.up(ctx, protocol.SocketUp{Kind: protocol.SocketState, State: f.State}, len(data))
	case wire.KindCall:
		if !c.begin(f.Call.ID) {
			c.say(wire.CallError(f.Call.ID, "another call of this id is not answered yet"))
			return nil
		}
		call := protocol.SocketCalled(f.Call)
		c.up(ctx, protocol.SocketUp{Kind: protocol.SocketCall, Call: &call}, len(data))
	case wire.KindPing:
		c.say(wire.Pong()) // the agent need not know
	case wire.KindMessage:
		c.up(ctx, protocol.SocketUp{Kind: protocol.SocketText, Text: string(data)}, len(data))
	}
	return nil
}

// up puts a frame behind those that wait to be brought to the agent. While too many do, it waits, and nothing is read.
func (c *conn) up(ctx context.Context, up protocol.SocketUp, size int) {
	c.number++
	up.Gateway, up.Number = c.link.gateway.id, c.number
	if err := c.in.wait(ctx, up, size); err != nil {
		c.dead.Store(true) // the host ends
	}
}

// ended is called when nothing more can be read.
func (c *conn) ended(ctx context.Context, err error) {
	how := protocol.SocketClose{Code: int(websocket.StatusAbnormalClosure)}
	said, ok := errors.AsType[websocket.CloseError](err)
	ours := c.ending.Load()
	switch {
	case ok:
		how = protocol.SocketClose{Code: int(said.Code), Reason: said.Reason, Clean: true}
	case ours != nil:
		how.Reason = ours.Reason
		select {
		case <-c.shut: // the answer of the client is read here or there
		case <-ctx.Done():
		}
		if c.hasAgreed() {
			how.Code, how.Clean = ours.Code, true
		}
	default:
		c.log().DebugContext(ctx, "the socket broke", slog.Any(logkey.Error, err))
	}
	c.number++
	c.in.last(protocol.SocketUp{Kind: protocol.SocketClosed, Gateway: c.link.gateway.id, Number: c.number, Close: &how})
}

// complain tells once per connection what is wrong with its frames.
func (c *conn) complain(ctx context.Context, reason string) {
	level := slog.LevelWarn
	if c.complained.Swap(true) {
		level = slog.LevelDebug
	}
	c.log().Log(ctx, level, "frame of a client is refused", slog.String(logkey.Cause, reason))
}

// begin notes a call that waits for its answer. It returns false if another of the id does.
func (c *conn) begin(id string) bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.calls[id] {
		return false
	}
	c.calls[id] = true
	return true
}

// answered notes that a call has its answer. It returns false if it had.
func (c *conn) answered(id string) bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	waits := c.calls[id]
	delete(c.calls, id)
	return waits
}

// send brings a frame to the agent, and returns when the next may follow.
func (c *conn) send(ctx context.Context, up protocol.SocketUp) {
	switch {
	case up.Kind == protocol.SocketConnect:
		c.link.connecting <- struct{}{}
		defer func() { <-c.link.connecting }()
		c.place(&up)
		if c.link.gateway.isClosed() { // those that were placed before are closed in waves
			c.dead.Store(true)
			c.refused.Store(true)
			c.close(goingAway)
			return
		}
		if err := c.link.enlist(ctx, c.row); err != nil { // else nobody could tell its end if this host died
			c.refused.Store(true)
			c.fail(ctx, up, err)
			return
		}
	case up.Kind == protocol.SocketClosed:
		c.sayGoodbye(ctx, up)
		return
	case c.dead.Load():
		return
	}
	up.Conn = c.conn()
	left, done := make(chan struct{}), make(chan struct{})
	c.running.Go(func() {
		defer close(done)
		ack, err := c.link.gateway.host.Bring(ctx, c.link.agent, up, sync.OnceFunc(func() { close(left) }))
		c.settle(ctx, up, ack, err)
	})
	select {
	case <-left:
	case <-done:
	}
}

// place gives the connection its number, and a place among those of the agent.
func (c *conn) place(up *protocol.SocketUp) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.set.Conn = c.link.gateway.last.Add(1)
	connection := c.set
	up.Connection = &connection
	c.link.conns[c.set.Conn] = c
	c.row = c.link.seat(c)
}

// conn is the number of the connection.
func (c *conn) conn() uint64 {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.set.Conn
}

// settle does what follows a frame that was brought.
func (c *conn) settle(ctx context.Context, up protocol.SocketUp, ack protocol.SocketAck, err error) {
	if err != nil {
		c.fail(ctx, up, err)
		return
	}
	if ack.Unknown {
		c.fail(ctx, up, errUnknown)
		return
	}
	if ack.Close != nil {
		c.dead.Store(true)
		c.refused.Store(up.Kind == protocol.SocketConnect)
		c.close(*ack.Close)
		return
	}
	c.link.reach(ctx, ack.Place)
	answered := false
	for _, text := range ack.Answers {
		if up.Call == nil || !answered && c.answered(up.Call.ID) {
			answered = true
			c.say([]byte(text))
		}
	}
	switch {
	case up.Kind == protocol.SocketConnect && !c.isOpen():
		c.close(missed)
	case up.Call != nil && c.answered(up.Call.ID):
		c.say(wire.CallError(up.Call.ID, "the call was applied, its result is lost"))
	}
}

func (c *conn) isOpen() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.open
}

// unknown is how sockets end that the agent has been told have ended.
var unknown = protocol.SocketClose{Code: int(websocket.StatusServiceRestart), Reason: "the agent does not know the connection any more, connect again"}

var (
	errUnknown = &Close{Code: unknown.Code, Reason: unknown.Reason}
	errFate    = &Close{Code: int(websocket.StatusServiceRestart), Reason: "what became of a frame cannot be told, connect again"}
)

// fail ends a connection of which a frame could not be brought.
func (c *conn) fail(ctx context.Context, up protocol.SocketUp, err error) {
	c.dead.Store(true)
	how, ok := errors.AsType[*Close](err)
	if !ok {
		how = errFate
	}
	if ctx.Err() == nil {
		c.log().WarnContext(ctx, "cannot bring a frame of a client to its agent, the socket is closed",
			slog.String(logkey.Kind, string(up.Kind)), slog.Uint64(logkey.Number, up.Number), slog.Any(logkey.Error, err))
	}
	c.close(protocol.SocketClose{Code: how.Code, Reason: how.Reason})
}

// sayGoodbye tells the agent that the socket has ended, until the agent knows.
func (c *conn) sayGoodbye(ctx context.Context, up protocol.SocketUp) {
	defer close(c.gone)
	up.Conn = c.conn()
	if c.refused.Load() {
		return
	}
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		_, err := c.link.gateway.host.Bring(ctx, c.link.agent, up, func() {})
		if err == nil {
			return
		}
		c.log().DebugContext(ctx, "cannot tell an agent that a socket has ended, trying on", slog.Any(logkey.Error, err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// give takes a frame of the agent. The link is locked.
func (c *conn) give(f protocol.SocketFrame, state *outgoing) {
	switch {
	case f.Protocol && c.set.Silent:
	case f.Set != nil:
		c.set, c.open = *f.Set, true
	case f.Close != nil:
		c.close(*f.Close)
	case f.Text != nil:
		if f.Answers != "" && !c.calls[f.Answers] {
			return // it has one
		}
		delete(c.calls, f.Answers)
		c.push(outgoing{data: []byte(*f.Text)})
	case f.Data != nil:
		c.push(outgoing{data: *f.Data, binary: true})
	case f.State && state != nil && (c.revision == 0 || state.revision > c.revision):
		c.revision = state.revision
		c.push(*state)
	}
}

// ping asks the client whether it is there. One that says nothing for long is gone.
func (c *conn) ping(ctx context.Context) {
	if c.pinged.Swap(true) {
		return
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.link.conns[c.set.Conn] != c {
		return // it has ended
	}
	c.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, c.link.gateway.limits.Dead)
		defer cancel()
		err := c.ws.Ping(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			c.log().DebugContext(ctx, "a client has said nothing for long, its socket is closed")
			_ = c.ws.CloseNow() // who reads sees it
		}
		c.pinged.Store(false)
	})
}

// say sends a text frame.
func (c *conn) say(text []byte) { c.push(outgoing{data: text}) }

// push puts a frame behind those that wait for the client. A state takes the place of an older one that waits. Clients that are too
// slow are closed.
func (c *conn) push(o outgoing) {
	var replaces func(outgoing) bool
	if o.state {
		replaces = func(waiting outgoing) bool { return waiting.state }
	}
	if c.out.add(o, len(o.data), replaces) || c.ending.Load() != nil {
		return
	}
	how := protocol.SocketClose{Code: int(websocket.StatusTryAgainLater), Reason: "the client takes its frames too slowly"}
	if c.ending.CompareAndSwap(nil, &how) {
		c.running.Go(func() { c.shake(how) }) // it must not wait behind what the client does not take
	}
}

// close ends the socket after what waits for it.
func (c *conn) close(how protocol.SocketClose) {
	if c.ending.CompareAndSwap(nil, &how) {
		c.out.last(outgoing{end: &how})
	}
}

// shake does the closing handshake.
func (c *conn) shake(how protocol.SocketClose) {
	defer close(c.shut)
	c.agreed = closeSocket(c.ws, how)
}

// hasAgreed reports whether the client has answered the close of this side.
func (c *conn) hasAgreed() bool {
	select {
	case <-c.shut:
		return c.agreed
	default:
		return false
	}
}

func (c *conn) write(ctx context.Context, o outgoing) {
	if o.end != nil {
		c.shake(*o.end)
		return
	}
	kind := websocket.MessageText
	if o.binary {
		kind = websocket.MessageBinary
	}
	ctx, cancel := context.WithTimeout(ctx, c.link.gateway.limits.Stall)
	defer cancel()
	if err := c.ws.Write(ctx, kind, o.data); err != nil {
		c.log().DebugContext(ctx, "write to a client", slog.Any(logkey.Error, err)) // who reads sees it, too
	}
}
