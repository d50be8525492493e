package agent

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/gateway"
	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// frameErrand brings a frame of a client to its agent. It may be brought again however often: the record knows which were applied.
type frameErrand struct {
	up       protocol.SocketUp
	underway gateway.Underway
	parts    *relayed // of the answer, if it comes in chunks; taken counts those that come from here, too
}

func (h *host) newFrameErrand(id protocol.Agent, up protocol.SocketUp, u gateway.Underway) *frameErrand {
	e := &frameErrand{up: up, underway: u}
	e.parts = &relayed{host: h, id: protocol.FrameID(id, up.Gateway, up.Conn, up.Number), gone: u.Gone, pass: func(reply protocol.Reply) error {
		e.pass(reply.Stream)
		return nil
	}}
	return e
}

func (e *frameErrand) pass(part *protocol.StreamPart) {
	if e.underway.Chunk != nil {
		e.underway.Chunk(part.Data, part.Place)
	}
}

func (e *frameErrand) request() (protocol.Request, error) {
	return protocol.Request{V: protocol.Version, Socket: &e.up}, nil
}

func (e *frameErrand) heard(reply protocol.Reply) error {
	e.hearHere(reply)
	if reply.Stream != nil {
		return e.parts.take(reply)
	}
	if reply.Owner != "" {
		e.parts.begin(reply.Owner)
	}
	return e.parts.check(reply.Sent)
}

func (e *frameErrand) hearHere(reply protocol.Reply) {
	if reply.Socket != nil && reply.Socket.Outside && e.underway.Outside != nil {
		e.underway.Outside()
	}
}

func (e *frameErrand) repeatable() bool { return true }

func (e *frameErrand) asked(error) {}

func (e *frameErrand) do(ctx context.Context, a *actor) (protocol.Reply, error) {
	reply := a.joinFrame(ctx, &e.up, follower{hear: e.hearHere, gone: e.underway.Gone, pass: func(part *protocol.StreamPart) {
		if e.parts.isNext(part.Number) {
			e.pass(part)
			e.parts.took(part.Number)
		}
	}})
	switch {
	case ctx.Err() != nil && reply.Moved:
		return reply, context.Cause(ctx)
	case reply.Moved:
		return reply, moved(reply.Owner)
	}
	return reply, nil
}

// isWhole reports whether all chunks have come, given what came last.
func (e *frameErrand) isWhole(last protocol.Reply) bool {
	return last.Stream == nil || e.parts.isNext(last.Stream.Number)
}

// broken is the answer to a call whose chunks have not all come, though they were asked for again.
func (e *frameErrand) broken() []protocol.FrameText {
	return []protocol.FrameText{protocol.FrameText(wire.CallError(e.up.Call.ID, "the answer broke off: a part of it was lost on its way"))}
}

// follower is who waits for what becomes of a frame.
type follower struct {
	// hear is told that the turn goes outside, and of chunks who sends them, and how many there were.
	hear func(protocol.Reply)
	// pass takes chunks here; nil if they go to another host, which listens to the inbox to.
	pass func(*protocol.StreamPart)
	to   string
	// gone is closed when the client has gone. Another host says so.
	gone <-chan struct{}
}

// onRelayedFrame serves a frame that a gateway has brought to the owner of the agent.
func (h *host) onRelayedFrame(ctx context.Context, m *nats.Msg, a *actor, up *protocol.SocketUp) {
	h.attend(ctx, m, func(hear func(protocol.Reply)) protocol.Reply {
		return a.joinFrame(ctx, up, follower{hear: hear, to: m.Reply})
	})
}

// passChunks passes chunks on until the call has ended, or ctx.
func (c *call) passChunks(ctx context.Context, pass func(*protocol.StreamPart)) {
	for {
		news := c.chunks.passOn(pass)
		select {
		case <-news:
		case <-c.done:
			c.chunks.passOn(pass)
			return
		case <-ctx.Done():
			return
		}
	}
}

// followChunks waits for the answer to a call that comes in chunks.
func (h *host) followChunks(ctx context.Context, c *call, f follower) protocol.Reply {
	var passing sync.WaitGroup
	defer passing.Wait()
	if f.pass == nil {
		c.chunks.join(f.to)
	} else { // aside: whoever takes them may be slow, and is to hear all the same that the turn is outside
		passing.Go(func() { c.passChunks(ctx, f.pass) })
	}
	tell := func(ack *protocol.SocketAck) {
		f.hear(protocol.Reply{Owner: h.id, Sent: c.chunks.count(), Socket: ack})
	}
	tell(nil)
	beat := time.NewTicker(h.times.acceptEvery)
	defer beat.Stop()
	left, gone := c.left, f.gone
	for {
		select {
		case <-c.done:
			return c.reply
		case <-left:
			left = nil
			tell(&protocol.SocketAck{Outside: true})
		case <-gone:
			gone = nil
			c.chunks.quit(ErrClientGone)
		case <-beat.C:
			tell(nil)
		case <-ctx.Done():
			return protocol.Reply{Moved: true}
		}
	}
}
