package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// What a turn sends to clients is an entry of its outbox: a batch, which has a number in the row of each gateway. So a new owner sends
// again what the last one may not have sent, and a gateway knows what it has and what it has missed.

// turnSocket is the frame of a client that a turn is for.
type turnSocket struct {
	key  connKey
	up   *protocol.SocketUp
	conn *Connection
	// answer is that to a call. last is the end of one of which parts have left: it comes after those, and not with the batch.
	answer *protocol.FrameText
	last   *protocol.FrameText
	// forced is set if the frame must be known to be applied although nothing else has changed.
	forced bool
	// lost is set if the gateway of the connection is held for lost.
	lost bool
	// replaces are connections of the same id, which end with the commit.
	replaces []connKey
}

// FramesError says that a turn sends more to clients than one commit takes.
type FramesError struct {
	Agent       string
	Size, Limit int
}

func (e *FramesError) Error() string {
	return fmt.Sprintf("frames of agent %q for clients have %d bytes in one turn, at most %d are allowed", e.Agent, e.Size, e.Limit)
}

// FailureName is how the error is called where it is stored or answered.
func (e *FramesError) FailureName() string { return "FramesError" }

// sendFrame puts a frame behind those that the turn sends. The draft is locked.
func (d *draft) sendFrame(f protocol.SocketFrame) error {
	size := frameSize(f)
	for _, other := range d.frames {
		size += frameSize(other)
	}
	if size > protocol.MaxFrame {
		return &FramesError{Agent: d.agent.Name, Size: size, Limit: protocol.MaxFrame}
	}
	d.frames = append(d.frames, f)
	return nil
}

func frameSize(f protocol.SocketFrame) int {
	size := 0
	if f.Text != nil {
		size += len(*f.Text)
	}
	if f.Data != nil {
		size += len(*f.Data)
	}
	return size
}

// connection is the one handle of the turn for a connection; nil if nothing is known of that. The draft is locked.
func (d *draft) connection(key connKey) *Connection {
	if c := d.conns[key]; c != nil {
		return c
	}
	known, ok := d.actor.sockets[key]
	if !ok {
		return nil
	}
	c := &Connection{agent: d.agent, key: key, known: known}
	d.keep(c)
	return c
}

func (d *draft) keep(c *Connection) {
	if d.conns == nil {
		d.conns = map[connKey]*Connection{}
	}
	d.conns[c.key] = c
}

// openKeys are the connections that are open, in the order of gateways and numbers. The draft is locked.
func (d *draft) openKeys() []connKey {
	var keys []connKey
	for _, gateway := range slices.Sorted(maps.Keys(d.stored.Gateways)) {
		for conn := range d.stored.Gateways[gateway].Open.All() {
			keys = append(keys, connKey{gateway, conn})
		}
	}
	if s := d.socket; s != nil && s.up.Kind == protocol.SocketConnect && !slices.Contains(keys, s.key) {
		keys = append(keys, s.key)
	}
	return keys
}

// settleSockets completes a record with what the turn does to connections, and returns the entry of the outbox that sends what they
// get. The draft is locked.
func (d *draft) settleSockets(r *protocol.Record, changed bool) (entry *protocol.Outgoing, isChanged bool) {
	s := d.socket
	frames := slices.Clone(d.frames)
	if s != nil && s.up.Kind == protocol.SocketConnect && r.Gateways[s.key.gateway].Connected < s.key.conn {
		frames, s.forced = slices.Concat(d.welcome(), frames), true
	}
	if s != nil && s.up.Kind == protocol.SocketClosed {
		s.forced = true
	}
	if s != nil && s.lost { // its gateway may only have been away: then it hears of it, or misses a number
		frames = append(frames, protocol.SocketFrame{Gateway: s.key.gateway, Conn: s.key.conn, Close: &heldForLost})
	}
	if d.changesState() {
		f := protocol.SocketFrame{Protocol: true, State: true}
		if s != nil && s.up.Kind == protocol.SocketState {
			f.Gateway, f.Conn, f.Not = s.key.gateway, s.key.conn, true
		}
		frames = append(frames, f)
	}
	if s != nil && (changed || len(frames) > 0 || s.forced) {
		d.markFrame(r)
		isChanged = true
		if s.answer != nil {
			frames = append(frames, protocol.SocketFrame{Gateway: s.key.gateway, Conn: s.key.conn, Text: s.answer, Answers: s.up.Call.ID})
		}
	}
	batch := d.address(r, frames)
	if batch == nil {
		return nil, isChanged
	}
	id := protocol.OutgoingID(d.stored.Life, d.number(), len(d.out)+1)
	return &protocol.Outgoing{ID: id, Kind: protocol.OutgoingFrames, Frames: batch}, true
}

// markFrame notes that the frame is applied. What was applied while its turn was outside stays so: later frames, and the end of the
// connection. The draft is locked.
func (d *draft) markFrame(r *protocol.Record) {
	s := d.socket
	g, known := r.Gateways[s.key.gateway]
	applied, open := g.Open.Applied(s.key.conn)
	switch {
	case s.up.Kind == protocol.SocketConnect && g.Connected < s.key.conn:
		g.Open, g.Connected = g.Open.With(s.key.conn, s.up.Number), s.key.conn
	case !open:
		return
	case s.up.Kind == protocol.SocketClosed:
		g.Open = g.Open.Without(s.key.conn)
	default:
		g.Open = g.Open.With(s.key.conn, max(applied, s.up.Number))
	}
	if !known {
		g.Since = d.number()
	}
	r.Gateways = maps.Clone(r.Gateways)
	if r.Gateways == nil {
		r.Gateways = map[string]protocol.Gateway{}
	}
	r.Gateways[s.key.gateway] = g
}

// welcome are the first frames of a connection, the other way round from what the turn has made of it: identity and state come before
// anything else. The draft is locked.
func (d *draft) welcome() []protocol.SocketFrame {
	s := d.socket
	to := func(f protocol.SocketFrame) protocol.SocketFrame {
		f.Gateway, f.Conn = s.key.gateway, s.key.conn
		return f
	}
	known := s.conn.known
	isSet, initial := d.state != nil || d.whole != nil, d.core.current()
	identity := protocol.FrameText(wire.Identity(d.class.route, d.agent.Name, isSet || initial != nil))
	frames := []protocol.SocketFrame{
		to(protocol.SocketFrame{Set: &known}),
		to(protocol.SocketFrame{Protocol: true, Text: &identity}),
	}
	switch {
	case isSet:
		frames = append(frames, to(protocol.SocketFrame{Protocol: true, State: true}))
	case initial != nil:
		text := protocol.FrameText(wire.State(initial))
		frames = append(frames, to(protocol.SocketFrame{Protocol: true, Text: &text}))
	}
	for _, old := range s.replaces {
		frames = append(frames, protocol.SocketFrame{Gateway: old.gateway, Conn: old.conn, Close: &replaced})
	}
	return frames
}

// replaced is how the connection of a client ends that has opened another.
var replaced = protocol.SocketClose{Code: 1008, Reason: "another connection of the same id was opened"}

// heldForLost is how a connection ends that the agent has been told has ended.
var heldForLost = protocol.SocketClose{Code: 1012, Reason: "the host was held for lost, connect again"}

// address numbers a batch in the rows of the gateways that it is for. It returns nil if it is for none. The draft is locked.
func (d *draft) address(r *protocol.Record, frames []protocol.SocketFrame) *protocol.SocketBatch {
	concerned := map[string]bool{}
	for _, f := range frames {
		if f.Conn != 0 && !f.Not {
			concerned[f.Gateway] = true
			continue
		}
		for gateway, g := range r.Gateways {
			if len(g.Open) > 0 {
				concerned[gateway] = true
			}
		}
	}
	batch := &protocol.SocketBatch{Frames: frames, Places: map[string]protocol.SocketPlace{}}
	for gateway := range concerned {
		g, known := r.Gateways[gateway]
		if !known {
			continue
		}
		if len(batch.Places) == 0 {
			r.Gateways = maps.Clone(r.Gateways)
		}
		g.Sent++
		r.Gateways[gateway] = g
		batch.Places[gateway] = placeOf(*r, gateway)
	}
	if len(batch.Places) == 0 {
		return nil
	}
	return batch
}

// placeOf is how far a record says that a gateway was sent what is for it.
func placeOf(r protocol.Record, gateway string) protocol.SocketPlace {
	g, ok := r.Gateways[gateway]
	if !ok {
		return protocol.SocketPlace{}
	}
	return protocol.SocketPlace{Life: r.Life, Since: g.Since, Number: g.Sent}
}

// sentTo is how far a gateway was certainly sent what is for it: batches that the record still has may not have left. If its owner is
// gone, whoever takes the agent sends those.
func sentTo(r protocol.Record, gateway string) protocol.SocketPlace {
	sent := placeOf(r, gateway)
	for _, o := range r.Outbox {
		if o.Kind != protocol.OutgoingFrames {
			continue
		}
		if place, ok := o.Frames.Places[gateway]; ok && place.SameRow(sent) && place.Number <= sent.Number {
			sent.Number = place.Number - 1
		}
	}
	return sent
}

// withoutIdle leaves out the gateways that hold no socket of the agent.
func withoutIdle(gateways map[string]protocol.Gateway) map[string]protocol.Gateway {
	rest := maps.Clone(gateways)
	maps.DeleteFunc(rest, func(_ string, g protocol.Gateway) bool { return len(g.Open) == 0 })
	if len(rest) == 0 {
		return nil
	}
	return rest
}

// noteSockets remembers what a commit has made of connections.
func (a *actor) noteSockets(d *draft) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, c := range d.conns {
		isNew := d.socket != nil && d.socket.key == key && d.socket.up.Kind == protocol.SocketConnect
		if _, open := a.at.record.Gateways[key.gateway].Open.Applied(key.conn); open && (c.dirty || isNew) {
			a.sockets[key] = c.known
		}
	}
	if s := d.socket; s != nil && s.up.Kind == protocol.SocketClosed {
		delete(a.sockets, s.key)
	}
}

// concernFrames is what all batches are about: they keep their order.
const concernFrames = "sockets of clients"

// sendStored sends the batches that are stored and not sent yet, if none of them is put off. Nothing else is worth waiting for
// before: whoever gets an acknowledgement waits for what was sent before it.
func (a *actor) sendStored(ctx context.Context) {
	if a.stuck[concernFrames] {
		return
	}
	var rest []protocol.Outgoing
	failed := false
	for _, o := range a.pending {
		if o.Kind == protocol.OutgoingFrames && !failed {
			if failed = a.sendFrames(ctx, o) != nil; !failed {
				continue
			}
		}
		rest = append(rest, o)
	}
	a.pending = rest
}

// sendFrames sends a batch to its gateways. Sending it twice does no harm.
func (a *actor) sendFrames(ctx context.Context, o protocol.Outgoing) error {
	state, object, revision := a.at.record.State, a.at.record.StateObject, a.at.record.Revision
	hasState := slices.ContainsFunc(o.Frames.Frames, func(f protocol.SocketFrame) bool { return f.State })
	for gateway, place := range o.Frames.Places {
		down := protocol.SocketDown{V: protocol.Version, Class: a.id.Class, Name: a.id.Name, Place: place, Frames: o.Frames.Frames}
		if hasState {
			down.State, down.StateObject, down.Revision = state, object, revision
		}
		if err := a.host.sendDown(ctx, gateway, a.id, down); err != nil {
			return fmt.Errorf("%w: %w", journal.ErrUnknownOutcome, err)
		}
		a.host.sure.note(gateway, a.id, place)
	}
	return nil
}

// sendDown gives a batch to a gateway, here or at another host.
func (h *host) sendDown(ctx context.Context, gateway string, id protocol.Agent, down protocol.SocketDown) error {
	if gateway == h.id {
		h.gateway.Take(ctx, id, down)
		return nil
	}
	body, err := encodePlain(down)
	if err != nil {
		return err
	}
	return h.nc.Publish(protocol.SocketsSubject(h.name, gateway), body)
}

// closeSockets ends all sockets of an agent that is destroyed. Nobody is left to be told of it.
func (a *actor) closeSockets(ctx context.Context) error {
	for gateway, g := range a.at.record.Gateways {
		if len(g.Open) == 0 {
			continue
		}
		place := placeOf(a.at.record, gateway)
		place.Number++
		down := protocol.SocketDown{V: protocol.Version, Class: a.id.Class, Name: a.id.Name, Place: place,
			Frames: []protocol.SocketFrame{{Close: &protocol.SocketClose{Code: 1000, Reason: "the agent was destroyed"}}}}
		if err := a.host.sendDown(ctx, gateway, a.id, down); err != nil {
			return err
		}
		a.host.sure.note(gateway, a.id, place)
	}
	return nil
}
