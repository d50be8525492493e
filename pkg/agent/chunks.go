package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// Chunks is how a method answers the call of a client in parts. It is the first parameter after the context, and the arguments of the
// client come after it:
//
//	func (l *Log) Tail(ctx context.Context, out *agent.Chunks[Line], from int) (Summary, error)
//
// What the method returns ends the answer: its result, if it has one, comes last, and an error breaks the answer off. The
// context ends with the cause ErrClientGone when the client has gone. Only clients can call such a method.
type Chunks[T any] struct{ out *outlet }

// Send sends a part of the answer, once everything that the turn has asked for is stored, as Save does; in Outside, where it belongs if the
// answer takes long, nothing is stored. Parts reach the client in their order, each once. Send waits if the client is slow.
func (c *Chunks[T]) Send(ctx context.Context, chunk T) error {
	if c == nil || c.out == nil {
		return ErrNoTurn
	}
	raw, err := json.Marshal(chunk)
	if err != nil {
		return &payloadError{fmt.Errorf("encode chunk of type %T: %w", chunk, err)}
	}
	return c.out.send(ctx, raw)
}

func (c *Chunks[T]) bind(out *outlet) { c.out = out }

// chunked is a *Chunks of any type.
type chunked interface{ bind(*outlet) }

// isChunked reports whether a parameter is a *Chunks, or by mistake what that points to.
func isChunked(t reflect.Type) (is, byMistake bool) {
	wanted := reflect.TypeFor[chunked]()
	return t.Kind() == reflect.Pointer && t.Implements(wanted), t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(wanted)
}

// outlet is where the chunks of one call leave its turn.
type outlet struct {
	call   string // the id that the client has given it
	agent  string
	chunks *chunks
	draft  *draft
	// letOut returns when what the turn has asked for is stored.
	letOut func() error
}

func (o *outlet) send(ctx context.Context, chunk json.RawMessage) error {
	frame := wire.Chunk(o.call, chunk)
	if len(frame) > protocol.MaxFrame {
		return &FramesError{Agent: o.agent, Size: len(frame), Limit: protocol.MaxFrame}
	}
	if err := o.chunks.room(ctx); err != nil {
		return err
	}
	if err := o.letOut(); err != nil {
		return err
	}
	return o.chunks.send(frame, o.draft.place())
}

// chunks is the answer of a method on its way to the client: to another host, or to the gateway of this one.
type chunks struct{ window }

func newChunks(h *host) *chunks { return &chunks{newWindow(h)} }

// join lets another host take the chunks, which has to say now and then that it is there.
func (c *chunks) join(to string) {
	c.window.join(to)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listen()
}

// send puts a chunk on its way, which there is room for.
func (c *chunks) send(frame []byte, place protocol.SocketPlace) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.cause
	}
	part := protocol.StreamPart{Data: frame, Place: place}
	if c.sent == 0 {
		part.Host = c.host.id
	}
	c.put(protocol.Reply{Stream: &part})
	c.change()
	return nil
}

// drain returns when all chunks are taken, or nobody takes them any more.
func (c *chunks) drain(ctx context.Context) error {
	for {
		c.mu.Lock()
		taken, changed := c.taken == c.sent || c.cause != nil, c.changed
		c.mu.Unlock()
		if taken {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// quit lets nothing more be sent, for a reason.
func (c *chunks) quit(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(cause)
}

// end is called when the method has returned.
func (c *chunks) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silence != nil {
		c.silence.Stop()
	}
	c.leave(ErrNoTurn)
}

// last is what comes after the chunks; nil if there were none.
func (c *chunks) last() *protocol.StreamPart {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent == 0 {
		return nil
	}
	return &protocol.StreamPart{Number: c.sent + 1, End: true}
}

// count is how many were sent.
func (c *chunks) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// passOn gives the chunks there are to who takes them here, and returns what is closed when there may be more.
func (c *chunks) passOn(pass func(*protocol.StreamPart)) (news <-chan struct{}) {
	for {
		part, news := c.next()
		if part == nil {
			return news
		}
		pass(part)
		c.hear(protocol.StreamWord{Taken: part.Number})
	}
}

func (c *chunks) next() (part *protocol.StreamPart, news <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) == 0 {
		return nil, c.changed
	}
	return c.kept[0].part.Stream, nil
}

// place is what the gateway of the frame was sent before.
func (d *draft) place() protocol.SocketPlace {
	d.mu.Lock()
	defer d.mu.Unlock()
	return placeOf(d.stored, d.socket.key.gateway)
}

// endChunks ends an answer of which parts have left. That the frame is applied was stored before the first of them.
func (d *draft) endChunks(last protocol.FrameText) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.socket.last, d.socket.forced = &last, false
}

// drainChunks returns when the chunks that have left are taken, if the turn sends clients something else: that shall come after them.
func (d *draft) drainChunks(ctx context.Context) error {
	d.mu.Lock()
	sends := len(d.frames) > 0 || d.changesState()
	d.mu.Unlock()
	if d.chunks == nil || !sends {
		return nil
	}
	return d.chunks.drain(ctx)
}

// isNoted reports whether the record says of the frame that the turn is for that it is applied.
func (d *draft) isNoted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.socket
	if s == nil {
		return false
	}
	applied, open := d.stored.Gateways[s.key.gateway].Open.Applied(s.key.conn)
	return open && applied >= s.up.Number
}
