package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

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
	over   chan struct{} // closed when nothing more can be read, or written
	once   sync.Once     // for over
	gone   chan struct{} // closed when the agent knows that the socket has ended
	// streaming takes one: of all answers that come in chunks, one chunk is in out.
	streaming chan struct{}
	dead      atomic.Bool // nothing more goes to the agent but that
	// refused is set if the agent never took the connection: then it needs not to know of the end.
	refused atomic.Bool
	// ending is how this side has ended it. When it has done what it can, shut is closed; agreed tells that the client has said so, too.
	ending     atomic.Pointer[protocol.SocketClose]
	shut       chan struct{}
	agreed     bool
	complained atomic.Bool
	pinged     atomic.Bool // and no answer yet
	running    sync.WaitGroup
	// pace is how fast the client may send. heard counts what comes, its frames and their bytes; held is set while this side reads nothing.
	pace  *rate.Limiter
	heard atomic.Uint64
	held  atomic.Bool
	// refusing is set once the client has done what ends its connection: what else it sends counts no more. It belongs to who reads.
	refusing bool

	// Guarded by the link.
	set      protocol.SocketConnection
	open     bool
	revision uint64
	calls    map[string]bool // that wait for their answers
	// states are the ids of states on their way to the agent, by the numbers of their frames; setting is the frame that is being brought.
	states  map[uint64]string
	setting uint64
	row     *row
}

// outgoing is a frame for the client, or the end.
type outgoing struct {
	data     []byte
	binary   bool
	state    bool
	revision uint64
	end      *protocol.SocketClose
	// wide says that many others get it, too.
	wide bool
	left chan struct{} // closed when it has been written; nil if nobody waits for that
}

func newConn(l *link, client Client) *conn {
	perSecond := l.gateway.limits.Rate
	return &conn{
		link: l, client: client, over: make(chan struct{}), gone: make(chan struct{}), streaming: make(chan struct{}, 1), shut: make(chan struct{}),
		pace: rate.NewLimiter(rate.Limit(perSecond), perSecond),
		set:  protocol.SocketConnection{ID: client.ID, Identity: client.Identity}, calls: map[string]bool{},
	}
}

// log is made when there is something to say: most connections are many and quiet.
func (c *conn) log() *slog.Logger {
	return c.link.log.With(slog.String(logkey.Connection, c.client.ID))
}

// run reads until the socket ends, and returns when the agent knows that.
func (c *conn) run(ctx context.Context) {
	limits := c.link.gateway.limits
	c.in = newQueue(limits.Waiting, limits.WaitingBytes, func(_ protocol.SocketUp, run func()) { c.running.Go(run) },
		func(up protocol.SocketUp) { c.send(ctx, up) })
	c.out = newQueue(limits.Waiting, limits.WaitingBytes, c.startWriting, func(o outgoing) { c.write(ctx, o) })
	defer c.running.Wait()
	defer c.out.end()
	defer c.link.remove(ctx, c)
	c.up(ctx, protocol.SocketUp{Kind: protocol.SocketConnect, HTTP: c.client.Request}, 0)
	c.client.Request = nil // it is large, and wanted no more
	c.read(ctx)
	c.client.left()
	select {
	case <-c.gone:
	case <-ctx.Done():
	}
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
		if c.hasLeft() && c.heard.Load() == 0 { // those that come back again and again must not be in each other's way
			c.dead.Store(true)
			c.refused.Store(true)
			return
		}
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
	c.bringing(up.Number)
	left, done := make(chan struct{}), make(chan struct{})
	c.running.Go(func() {
		defer close(done)
		u := Underway{Outside: sync.OnceFunc(func() { close(left) }), Gone: c.over}
		if up.Call != nil {
			u.Chunk = func(text []byte, place protocol.SocketPlace) { c.chunk(ctx, up.Call.ID, text, place) }
		}
		var ack protocol.SocketAck
		err := c.guard(ctx, func() (err error) {
			ack, err = c.link.gateway.host.Bring(ctx, c.link.agent, up, u)
			return err
		})
		c.settle(ctx, up, ack, err)
	})
	select {
	case <-left:
	case <-done:
	}
}

// bringing notes which frame is brought: if it is a state, what comes of it is one for all others.
func (c *conn) bringing(number uint64) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.setting = number
}

// stateSet tells the client, if it wants to know, that the state which it has sent was set: among the states of others, where its place
// is. The link is locked.
func (c *conn) stateSet() {
	if id, ok := c.states[c.setting]; ok {
		delete(c.states, c.setting)
		c.say(wire.StateSet(id))
	}
}

// stateSettled does that for a state that has changed nothing, so that nobody else was told, and forgets one that was refused.
func (c *conn) stateSettled(number uint64, isSet bool) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if isSet && c.setting == number {
		c.stateSet()
	}
	delete(c.states, number)
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

// leaves notes that the client has gone.
func (c *conn) leaves() { c.once.Do(func() { close(c.over) }) }

func (c *conn) hasLeft() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// chunk gives the client a part of the answer to a call, and returns when it has left. Those that wait are not in the way of other
// frames: a client that is slow with them is not closed for that.
func (c *conn) chunk(ctx context.Context, call string, text []byte, place protocol.SocketPlace) {
	c.link.reach(ctx, place)
	if !c.waits(call) {
		return
	}
	select {
	case c.streaming <- struct{}{}:
		defer func() { <-c.streaming }()
	case <-c.over:
		return
	}
	o := outgoing{data: text, left: make(chan struct{})}
	if c.out.wait(ctx, o, 0) != nil {
		return
	}
	select {
	case <-o.left:
	case <-c.over:
	}
}

// waits reports whether a call waits for its answer.
func (c *conn) waits(id string) bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.calls[id]
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
		if ack.Refused != "" {
			c.complain(ctx, ack.Refused)
		}
		c.dead.Store(true)
		c.refused.Store(up.Kind == protocol.SocketConnect && !ack.Applied)
		c.close(*ack.Close)
		return
	}
	if ack.Refused != "" {
		c.complain(ctx, ack.Refused)
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
	case up.Kind == protocol.SocketState:
		c.stateSettled(up.Number, len(ack.Answers) == 0)
	case up.Kind == protocol.SocketConnect && !c.isOpen():
		c.dead.Store(true)
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
	if ctx.Err() == nil { // all clients can have one on its way
		c.link.gateway.complain(ctx, c.log(), "cannot bring a frame of a client to its agent, the socket is closed",
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
		_, err := c.link.gateway.host.Bring(ctx, c.link.agent, up, Underway{})
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

// startWriting has what waits for the client written, from a frame on.
func (c *conn) startWriting(first outgoing, run func()) {
	if !first.wide {
		c.running.Go(run)
		return
	}
	c.running.Add(1)
	c.link.gateway.fan.start(func() {
		defer c.running.Done()
		run()
	})
}

// give takes a frame of the agent, whose text or data is in message. The link is locked.
func (c *conn) give(f protocol.SocketFrame, message outgoing, state *outgoing) {
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
		c.push(message)
	case f.Data != nil:
		c.push(message)
	case f.State && state != nil && (c.revision == 0 || state.revision > c.revision):
		c.revision = state.revision
		o := *state
		o.wide = message.wide
		c.push(o)
	}
}

// ping asks the client whether it is there. One that says nothing for long is gone, unless it is this side that does not read.
func (c *conn) ping(ctx context.Context) {
	if c.pinged.Swap(true) {
		return
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.link.conns[c.set.Conn] != c {
		return // it has ended
	}
	heard := c.heard.Load()
	c.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, c.link.gateway.limits.Dead)
		defer cancel()
		err := c.ws.Ping(ctx) // it gives up after 5 s behind a frame that the client takes slowly: that proves nothing
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && !c.held.Load() && c.heard.Load() == heard {
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
	if o.left != nil {
		defer close(o.left)
	}
	kind := websocket.MessageText
	if o.binary {
		kind = websocket.MessageBinary
	}
	ctx, cancel := context.WithTimeout(ctx, c.link.gateway.limits.Stall)
	defer cancel()
	if err := c.ws.Write(ctx, kind, o.data); err != nil {
		c.log().DebugContext(ctx, "write to a client", slog.Any(logkey.Error, err)) // who reads sees it, too, if nothing holds that up
		c.leaves()
	}
}
