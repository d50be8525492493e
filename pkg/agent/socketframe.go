package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/wire"
	"github.com/skein-run/skein/pkg/protocol"
)

// joinFrame runs the turn of a frame, or joins it if the same frame is there already.
func (a *actor) joinFrame(ctx context.Context, up *protocol.SocketUp, f follower) protocol.Reply {
	c := a.startFrame(ctx, up)
	if c.chunks != nil {
		return a.host.followChunks(ctx, c, f)
	}
	left := c.left
	for {
		select {
		case <-c.done:
			return c.reply
		case <-left:
			left = nil
			f.hear(protocol.Reply{Socket: &protocol.SocketAck{Outside: true}})
		case <-ctx.Done():
			return protocol.Reply{Moved: true}
		}
	}
}

func (a *actor) startFrame(ctx context.Context, up *protocol.SocketUp) *call {
	a.host.calls.forget(protocol.FrameID(a.id, up.Gateway, up.Conn, up.Number-1)) // whoever sends a frame has heard what became of the one before
	var out *chunks
	if up.Call != nil {
		if m, err := a.class.methodForClient(up.Call.Method); err == nil && m.chunks != nil {
			out = newChunks(a.host)
		}
	}
	return a.host.calls.start(protocol.FrameID(a.id, up.Gateway, up.Conn, up.Number), out, func(leave func()) protocol.Reply {
		reply, err := a.do(context.WithoutCancel(ctx), &job{frame: up, left: leave, chunks: out, done: make(chan outcome, 1)})
		switch {
		case errors.Is(err, errMoved) || errors.Is(err, ErrShutdown): // if it was stored, the record knows it
			return movedReply(err)
		case err != nil:
			return protocol.Reply{Error: protocol.NewFailure(err)}
		}
		return reply
	})
}

// whatFrame says what a frame is, for those who wait.
func whatFrame(up *protocol.SocketUp) string {
	if up.Call != nil {
		return "a call of " + up.Call.Method + " by a client"
	}
	return fmt.Sprintf("a frame of a client (%s)", up.Kind)
}

// serveFrame runs the turn of a frame.
func (a *actor) serveFrame(ctx context.Context, j *job) error {
	if err := a.fit(ctx); err != nil {
		j.finish(outcome{err: errMoved})
		return err
	}
	if j.frame.Kind == protocol.SocketLost {
		return a.serveLost(ctx, j)
	}
	finish := func(ack protocol.SocketAck) {
		ack.Place = placeOf(a.at.record, j.frame.Gateway)
		j.finish(outcome{reply: protocol.Reply{Socket: &ack, Stream: j.lastChunk()}})
	}
	if ack := a.decided(j.frame); ack != nil {
		finish(*ack)
		return nil
	}
	t, refused, err := a.socketTurn(ctx, j)
	if err != nil {
		j.finish(outcome{err: errMoved}) // its gateway is there, and brings the frame again
		return nil
	}
	if refused != nil {
		finish(protocol.SocketAck{Close: refused, Refused: refused.Reason})
		return nil
	}
	stored, err := a.frameTurn(ctx, j, t)
	if isEnd(err) {
		j.finish(outcome{err: errMoved}) // if it was stored, the record knows it
		return err
	}
	ack := protocol.SocketAck{}
	if err != nil {
		ack = a.frameFailed(ctx, t, err)
	} else if t.last != nil {
		ack.Answers = []protocol.FrameText{*t.last}
	} else if !stored && t.answer != nil {
		ack.Answers = []protocol.FrameText{*t.answer}
	}
	if !stored {
		if err := a.fit(ctx); err != nil {
			j.finish(outcome{err: errMoved})
			return err
		}
	}
	finish(ack)
	return a.afterTurn(ctx)
}

// frameTurn runs the turn. A connection ends even if OnClose fails. If that cannot be stored, the frame is not done: who brought it
// brings it again, to whoever has the agent then.
func (a *actor) frameTurn(ctx context.Context, j *job, t *turnSocket) (stored bool, err error) {
	stored, err = a.turn(ctx, nil, func(ctx context.Context, d *draft) error { return a.applyFrame(ctx, d, j, t) })
	if err != nil && !isEnd(err) && t.up.Kind == protocol.SocketClosed {
		return a.endWithout(ctx, t, err)
	}
	return stored, err
}

// endWithout ends a connection without OnClose, which has failed.
func (a *actor) endWithout(ctx context.Context, t *turnSocket, cause error) (stored bool, err error) {
	a.refused = append(a.refused, &ConnectionError{Hook: "OnClose", Connection: t.conn.ID(), Err: cause})
	stored, err = a.turn(ctx, nil, func(_ context.Context, d *draft) error { d.attachSocket(t); return nil })
	if err != nil && !isEnd(err) {
		err = &endError{err}
	}
	return stored, err
}

// giveUpFrame is what is left to do for a frame whose turn does not return. The end of a connection would come again and again.
func (a *actor) giveUpFrame(ctx context.Context, j *job) error {
	if j.frame.Kind == protocol.SocketLost && j.ending != nil {
		return a.giveUpLost(ctx, j)
	}
	if j.frame.Kind != protocol.SocketClosed || a.decided(j.frame) != nil {
		j.finish(outcome{err: errStuck})
		return nil
	}
	t, _, err := a.socketTurn(ctx, j)
	if err == nil {
		_, err = a.endWithout(ctx, t, errStuck)
	}
	if err != nil {
		j.finish(outcome{err: errMoved}) // it is brought again
		if isEnd(err) {
			return err
		}
		return nil
	}
	j.finish(outcome{reply: protocol.Reply{Socket: &protocol.SocketAck{Place: placeOf(a.at.record, j.frame.Gateway)}}})
	return a.afterTurn(ctx)
}

// decided is what became of a frame that needs no turn; nil if it does.
func (a *actor) decided(up *protocol.SocketUp) *protocol.SocketAck {
	g := a.at.record.Gateways[up.Gateway]
	applied, open := g.Open.Applied(up.Conn)
	switch {
	case up.Kind == protocol.SocketConnect && up.Conn <= g.Connected, open && up.Number <= applied:
		return &protocol.SocketAck{Applied: true}
	case up.Kind == protocol.SocketConnect:
		return nil
	case !open && up.Kind == protocol.SocketClosed: // it was closed before, or never opened
		return &protocol.SocketAck{Applied: true}
	case !open:
		return &protocol.SocketAck{Unknown: true}
	}
	return nil
}

// socketTurn prepares the turn of a frame: whose it is, and whether the connection may be. An error means that this cannot be told now.
func (a *actor) socketTurn(ctx context.Context, j *job) (t *turnSocket, refused *protocol.SocketClose, err error) {
	up := j.frame
	t = &turnSocket{key: connKey{up.Gateway, up.Conn}, up: up}
	t.conn = &Connection{agent: a.id, key: t.key}
	if up.Kind != protocol.SocketConnect {
		if err := a.attach(ctx, up.Gateway); err != nil {
			return nil, nil, err
		}
		t.conn.known = a.sockets[t.key]
		return t, nil, nil
	}
	if up.Connection == nil || up.HTTP == nil {
		return nil, &protocol.SocketClose{Code: 1011, Reason: "malformed connect"}, nil
	}
	if !a.class.takesSockets() {
		return nil, &protocol.SocketClose{Code: 1008, Reason: fmt.Sprintf("agents of class %q take no sockets", a.class.name)}, nil
	}
	t.conn.known = *up.Connection
	if err := a.attachAll(ctx); err != nil {
		return nil, nil, err
	}
	for key, other := range a.sockets {
		if other.ID != up.Connection.ID {
			continue
		}
		if _, open := a.at.record.Gateways[key.gateway].Open.Applied(key.conn); !open {
			continue
		}
		if !bytes.Equal(other.Identity, up.Connection.Identity) {
			return nil, &protocol.SocketClose{Code: 1008, Reason: "somebody else has a connection of this id"}, nil
		}
		t.replaces = append(t.replaces, key)
	}
	return t, nil, nil
}

// attachSocket makes the turn one for a frame.
func (d *draft) attachSocket(t *turnSocket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.socket = t
	d.keep(t.conn)
}

// applyFrame is the turn of a frame.
func (a *actor) applyFrame(ctx context.Context, d *draft, j *job, t *turnSocket) error {
	d.attachSocket(t)
	d.left = j.left
	if t.conn.known.Identity != nil {
		ctx = context.WithValue(ctx, identityKey{}, t.conn.known.Identity)
	}
	switch t.up.Kind {
	case protocol.SocketConnect:
		return a.applyConnect(ctx, d, t)
	case protocol.SocketState:
		return d.self.setClientState(ctx, t.up.State)
	case protocol.SocketCall:
		return a.applyCall(ctx, d, j, t)
	case protocol.SocketText, protocol.SocketData:
		if handler, ok := d.self.(MessageHandler); ok {
			return handler.OnMessage(ctx, t.conn, messageOf(t.up))
		}
	case protocol.SocketClosed:
		if handler, ok := d.self.(CloseHandler); ok && t.up.Close != nil {
			return handler.OnClose(ctx, t.conn, Closed{Code: t.up.Close.Code, Reason: t.up.Close.Reason, Clean: t.up.Close.Clean})
		}
	}
	return nil
}

func messageOf(up *protocol.SocketUp) Message {
	if up.Kind == protocol.SocketText && up.Data != nil {
		return Text(string(up.Data))
	}
	return Message{Text: up.Text, Data: up.Data, Binary: up.Kind == protocol.SocketData}
}

func (a *actor) applyConnect(ctx context.Context, d *draft, t *turnSocket) error {
	handler, ok := d.self.(Connector)
	if !ok {
		return nil
	}
	r, err := relayedRequest(t.up.HTTP)
	if err != nil {
		return err
	}
	r.Body = http.NoBody
	return handler.OnConnect(ctx, t.conn, r.WithContext(ctx))
}

func (a *actor) applyCall(ctx context.Context, d *draft, j *job, t *turnSocket) error {
	m, err := a.class.methodForClient(t.up.Call.Method)
	if err != nil {
		return err
	}
	result, err := a.callForClient(ctx, d, j, m)
	if err != nil {
		return err
	}
	answer := protocol.FrameText(wire.Result(t.up.Call.ID, result))
	if len(answer) > protocol.MaxFrame {
		return &FramesError{Agent: a.id.Name, Size: len(answer), Limit: protocol.MaxFrame}
	}
	if j.lastChunk() != nil {
		d.endChunks(answer)
		return nil
	}
	t.answer = &answer
	return nil
}

// callForClient calls the method. If it answers in chunks, they leave meanwhile.
func (a *actor) callForClient(ctx context.Context, d *draft, j *job, m clientMethod) (json.RawMessage, error) {
	call := j.frame.Call
	if m.chunks == nil {
		return m.call(ctx, d.self, call.Args, nil)
	}
	d.chunks = j.chunks
	defer j.chunks.end()
	method, cancel := j.chunks.start(ctx)
	defer cancel(nil)
	out := &outlet{call: call.ID, agent: a.id.Name, chunks: j.chunks, draft: d, letOut: func() error { return d.letOut(ctx) }}
	result, err := m.call(method, d.self, call.Args, out)
	if err == nil {
		err = d.drainChunks(ctx)
	}
	return result, err
}

// frameFailed is what follows a frame whose turn is dropped.
func (a *actor) frameFailed(ctx context.Context, t *turnSocket, err error) protocol.SocketAck {
	a.logFrame(ctx, t, err)
	switch t.up.Kind {
	case protocol.SocketConnect:
		how := refusal(err)
		if how.Code != closeRefused {
			a.refused = append(a.refused, &ConnectionError{Hook: "OnConnect", Connection: t.conn.ID(), Err: err})
		}
		_, open := a.at.record.Gateways[t.key.gateway].Open.Applied(t.key.conn) // by an early commit
		return protocol.SocketAck{Close: how, Applied: open}
	case protocol.SocketCall:
		return protocol.SocketAck{Answers: []protocol.FrameText{protocol.FrameText(wire.CallError(t.up.Call.ID, publicText(err)))}, Refused: fault(err)}
	case protocol.SocketState:
		return protocol.SocketAck{Answers: a.stateRefused(err), Refused: fault(err)}
	case protocol.SocketText, protocol.SocketData:
		a.refused = append(a.refused, &ConnectionError{Hook: "OnMessage", Connection: t.conn.ID(), Err: err})
	case protocol.SocketClosed, protocol.SocketLost: // are reported where they are done again
	}
	return protocol.SocketAck{}
}

// fault is what a client has done wrong, for the log: nothing of its frame is in it. It is empty if the agent's code has decided.
func fault(err error) string {
	if e, ok := errors.AsType[*wire.ArgumentError](err); ok {
		return fmt.Sprintf("call of %s: the arguments do not fit", e.Method)
	}
	if _, ok := errors.AsType[*StateError](err); ok {
		return "the state is refused"
	}
	if _, ok := errors.AsType[unknownMethod](err); ok {
		return "call of a method that clients may not call, or that is none"
	}
	if errors.Is(err, ErrReadonly) {
		return "the state was to be changed over a readonly connection"
	}
	return ""
}

// stateRefused tells a client that its state is none, and which is.
func (a *actor) stateRefused(err error) []protocol.FrameText {
	text, reason := wire.StateRejected, publicText(err)
	if errors.Is(err, ErrReadonly) {
		text, reason = wire.StateReadonly, ""
	}
	answers := []protocol.FrameText{protocol.FrameText(wire.StateError(text, reason))}
	if state := a.agent.base().current(); state != nil && len(state) < protocol.MaxFrame {
		answers = append(answers, protocol.FrameText(wire.State(state)))
	}
	return answers
}

// publicText is what clients are told of an error. What a panic says is for the log.
func publicText(err error) string {
	if errors.Is(err, ErrReadonly) {
		return wire.StateReadonly
	}
	if _, ok := errors.AsType[*PanicError](err); ok {
		return "the agent panicked"
	}
	return protocol.NewFailure(err).Message
}

// closeRefused is the code with which a connection ends that OnConnect did not want; closeFailed, if it could not be opened.
const (
	closeRefused = 1008
	closeFailed  = 1011
)

// refusal is how a connection ends that OnConnect has refused.
func refusal(err error) *protocol.SocketClose {
	code := closeFailed
	if e, ok := errors.AsType[*Error](err); ok && e.status() < http.StatusInternalServerError {
		code = closeRefused
	}
	return &protocol.SocketClose{Code: code, Reason: publicText(err)}
}

// logFrame tells what only the client is told, if it is no matter of the client's.
func (a *actor) logFrame(ctx context.Context, t *turnSocket, err error) {
	level := slog.LevelDebug
	attrs := []any{slog.String(logkey.Connection, t.conn.ID()), slog.String(logkey.Kind, string(t.up.Kind)), slog.Any(logkey.Error, err)}
	if p, ok := errors.AsType[*PanicError](err); ok {
		level, attrs = slog.LevelError, append(attrs, slog.String(logkey.Stack, string(p.Stack)))
	}
	a.log.Log(ctx, level, "frame of a client failed, its turn is dropped", attrs...)
}

// openGateways are the gateways that hold open sockets of the agent.
func (a *actor) openGateways() []string {
	var open []string
	for gateway, g := range a.at.record.Gateways {
		if len(g.Open) > 0 {
			open = append(open, gateway)
		}
	}
	slices.Sort(open)
	return open
}
