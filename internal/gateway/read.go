package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// read takes the frames of the client until there are no more.
func (c *conn) read(ctx context.Context) {
	for {
		if err := c.guard(ctx, func() error { return c.readOne(ctx) }); err != nil {
			c.ended(ctx, err)
			return
		}
	}
}

func (c *conn) readOne(ctx context.Context) error {
	kind, data, err := c.next(ctx)
	switch {
	case err != nil:
		return err
	case c.refusing:
	case kind == websocket.MessageBinary:
		c.up(ctx, protocol.SocketUp{Kind: protocol.SocketData, Data: data}, len(data))
	default:
		c.text(ctx, data)
	}
	return nil
}

// errPanic is what a panic is made of.
var errPanic = errors.New("panic")

// guard makes an error of a panic: what one client sends must not end the host, and with it the sockets of all others.
func (c *conn) guard(ctx context.Context, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log().ErrorContext(ctx, "panic at a frame of a client, its socket is closed",
				slog.Any(logkey.Error, r), slog.String(logkey.Stack, string(debug.Stack())))
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return fn()
}

// next reads a frame. One that is too large is not read into memory, and ends the connection.
func (c *conn) next(ctx context.Context) (websocket.MessageType, []byte, error) {
	kind, r, err := c.ws.Reader(ctx)
	if err != nil {
		return kind, nil, err
	}
	var data []byte
	if !c.refusing {
		data, err = io.ReadAll(io.LimitReader(listener{r, c}, protocol.MaxFrame+1))
	}
	if len(data) > protocol.MaxFrame {
		reason := fmt.Sprintf("a frame has more than %d bytes", protocol.MaxFrame)
		c.refuse(ctx, websocket.StatusMessageTooBig, reason, reason)
	}
	if c.refusing && err == nil {
		_, err = io.Copy(io.Discard, r) // until the socket is closed, if the frame has no end
	}
	if err != nil {
		return kind, nil, err
	}
	c.heard.Add(1)
	return kind, data, c.paced(ctx)
}

// listener notes that the client is heard while a large frame comes slowly, and no pong in between.
type listener struct {
	frame io.Reader
	conn  *conn
}

func (l listener) Read(p []byte) (int, error) {
	n, err := l.frame.Read(p)
	l.conn.heard.Add(uint64(n))
	return n, err
}

// paced returns when the client may send its next frame. Until then nothing is read: a client that is too fast is held up, as by an
// agent that is busy, and loses nothing. To close its socket would make it come back, and send all the more.
func (c *conn) paced(ctx context.Context) error {
	if c.pace.Allow() {
		return nil
	}
	c.complain(ctx, fmt.Sprintf("more than %d frames in a second, the client is held up", c.link.gateway.limits.Rate))
	c.held.Store(true)
	defer c.held.Store(false)
	return c.pace.Wait(ctx)
}

// text takes a text frame.
func (c *conn) text(ctx context.Context, data []byte) {
	if !utf8.Valid(data) {
		c.refuse(ctx, websocket.StatusInvalidFramePayloadData, "a text frame is not UTF-8", "a text frame is not UTF-8")
		return
	}
	f, err := wire.Decode(data)
	if wrong, ok := errors.AsType[*wire.FrameError](err); ok {
		c.malformed(ctx, wrong)
		return
	}
	switch f.Kind {
	case wire.KindState:
		c.noteState(f.StateID)
		c.up(ctx, protocol.SocketUp{Kind: protocol.SocketState, State: f.State}, len(data))
	case wire.KindCall:
		if reason := c.begin(f.Call.ID); reason != "" {
			c.complain(ctx, reason)
			c.say(wire.CallError(f.Call.ID, reason))
			return
		}
		call := protocol.SocketCalled(f.Call)
		c.up(ctx, protocol.SocketUp{Kind: protocol.SocketCall, Call: &call}, len(data))
	case wire.KindPing:
		c.say(wire.Pong()) // the agent need not know
	case wire.KindMessage:
		up := protocol.SocketUp{Kind: protocol.SocketText}
		if protocol.GrowsInJSON(data) {
			up.Data = data
		} else {
			up.Text = string(data)
		}
		c.up(ctx, up, len(data))
	}
}

// malformed answers a frame that is none. If there is nobody to be answered, the connection ends.
func (c *conn) malformed(ctx context.Context, wrong *wire.FrameError) {
	switch {
	case wrong.Kind == wire.KindState:
		c.complain(ctx, wrong.Brief())
		c.say(wire.StateError(wire.StateRejected, wrong.Reason))
	case wrong.CallID != "":
		c.complain(ctx, wrong.Brief())
		c.say(wire.CallError(wrong.CallID, wrong.Error()))
	default:
		c.refuse(ctx, websocket.StatusInvalidFramePayloadData, wrong.Error(), wrong.Brief())
	}
}

// refuse ends the connection for what the client has done. The client gets the reason, the log what nothing of the frame is in.
func (c *conn) refuse(ctx context.Context, code websocket.StatusCode, reason, brief string) {
	c.refusing = true
	c.complain(ctx, brief)
	c.close(protocol.SocketClose{Code: int(code), Reason: reason})
}

// begin notes a call that waits for its answer. It returns why that must not be, if another of the id does, or too many.
func (c *conn) begin(id string) string {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	switch {
	case c.calls[id]:
		return "another call of this id is not answered yet"
	case len(c.calls) >= c.link.gateway.limits.Calls:
		return fmt.Sprintf("%d calls of the connection are not answered yet", len(c.calls))
	}
	c.calls[id] = true
	return ""
}

// noteState notes that the client wants to know when the state was set that comes next.
func (c *conn) noteState(id string) {
	if id == "" {
		return
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.states == nil {
		c.states = map[uint64]string{}
	}
	c.states[c.number+1] = id
}

// up puts a frame behind those that wait to be brought to the agent. While too many do, it waits, and nothing is read.
func (c *conn) up(ctx context.Context, up protocol.SocketUp, size int) {
	c.number++
	up.Gateway, up.Number = c.link.gateway.id, c.number
	c.held.Store(true)
	defer c.held.Store(false)
	if err := c.in.wait(ctx, up, size); err != nil {
		c.dead.Store(true) // the host ends
	}
}

// ended is called when nothing more can be read.
func (c *conn) ended(ctx context.Context, err error) {
	c.leaves()
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
	case errors.Is(err, errPanic):
		how.Reason = "the host failed at a frame"
		c.close(protocol.SocketClose{Code: int(websocket.StatusInternalError), Reason: how.Reason})
	case isBroken(err):
		c.log().DebugContext(ctx, "the socket broke", slog.Any(logkey.Error, err))
		_ = c.ws.CloseNow() // the other side is gone
	default:
		how.Reason = "the client broke the protocol of WebSockets"
		c.refuse(ctx, websocket.StatusProtocolError, how.Reason, how.Reason+": "+err.Error())
	}
	c.number++
	c.in.last(protocol.SocketUp{Kind: protocol.SocketClosed, Gateway: c.link.gateway.id, Number: c.number, Close: &how})
}

// isBroken reports whether a socket ended by itself, not for what the client has sent.
func isBroken(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// Log lines about what clients do wrong, of all connections of a host. What is more is told at the level debug.
const (
	complaintsPerSecond = 0.2
	complaintsAtOnce    = 20
)

// complain tells once per connection what is wrong with its frames. The reason has nothing of them in it.
func (c *conn) complain(ctx context.Context, reason string) {
	if c.complained.Swap(true) {
		c.log().DebugContext(ctx, frameRefused, slog.String(logkey.Cause, reason))
		return
	}
	c.link.gateway.complain(ctx, c.log(), frameRefused, slog.String(logkey.Cause, reason))
}

const frameRefused = "frame of a client is refused"

// complain tells what is wrong with a client, or what it does wrong, unless there were too many such lines: how many there are is up to
// clients, and all can lose their agents at once.
func (g *Gateway) complain(ctx context.Context, log *slog.Logger, message string, attrs ...any) {
	if !g.complaints.Allow() {
		g.kept.Add(1)
		log.DebugContext(ctx, message, attrs...)
		return
	}
	if kept := g.kept.Swap(0); kept > 0 { // lines that were kept back before this one
		attrs = append(attrs, slog.Int64(logkey.Count, kept))
	}
	log.WarnContext(ctx, message, attrs...)
}
