package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/answers"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// What asking another host can come to, beside an answer and errMoved. After the first it was not started; after
// errSilent it may be yet, by a host that was frozen or cut off; after errFate nobody can tell.
var (
	errNobody  = errors.New("nobody listens there")
	errSilent  = errors.New("no answer in time")
	errUnheard = errors.New("the request was sent to a host that has said nothing since: whether it was, or will be, carried out is not known")
	errFate    = errors.New("the agent's host accepted the request and then went silent: whether it was carried out is not known")
)

// asker sends requests to hosts.
type asker struct {
	nc      *nats.Conn
	answers *answers.Desk
	times   timing
	log     *slog.Logger
}

func (h *host) asker() asker {
	return asker{nc: h.nc, answers: h.project.Answers(), times: h.times, log: h.log}
}

func (h *host) ask(ctx context.Context, subject string, request protocol.Request) (protocol.Reply, error) {
	return h.asker().ask(ctx, subject, request, func(protocol.Reply) error { return nil })
}

// ask sends a request to another host and waits for its answer: as long as the host says that it is at it, which heard is
// told, as it is given the parts of an answer that comes in parts. A bell is answered when it is accepted.
func (q asker) ask(ctx context.Context, subject string, request protocol.Request, heard func(protocol.Reply) error) (protocol.Reply, error) {
	body, err := encodePlain(request)
	if err != nil {
		return protocol.Reply{}, fmt.Errorf("encode request to %s: %w", subject, err)
	}
	if most := q.nc.MaxPayload(); int64(len(body)) > most {
		return protocol.Reply{}, fmt.Errorf("request to %s has %d bytes, the NATS server takes %d", subject, len(body), most)
	}
	wait := q.answers.Wait()
	defer wait.Close()
	if err := q.nc.PublishRequest(subject, wait.Subject, body); err != nil {
		return protocol.Reply{}, fmt.Errorf("ask %s: %w: %w", subject, errSilent, err)
	}
	patience, silence, parts := q.times.acceptWithin, errSilent, false
	for {
		reply, err := nextReply(ctx, wait, patience)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return reply, silence
		case err != nil:
			if ctx.Err() != nil && request.HTTP != nil && errors.Is(silence, errSilent) {
				q.hearOut(ctx, wait, heard)
			}
			return reply, err
		case reply.Moved && reply.Begun:
			return reply, errFate
		case reply.Moved && parts && request.Socket == nil: // what a client is told of a frame, the record knows
			return reply, fmt.Errorf("%w: the agent has moved", errBroken)
		case reply.Moved:
			return reply, moved(reply.Owner)
		case reply.Accepted && (request.Call != nil || request.Socket != nil):
			patience, silence = q.times.acceptEvery+q.times.acceptWithin, errFate // it can be repeated: no need to be sure
			if err := heard(reply); err != nil {
				return reply, err
			}
		case reply.Accepted && request.HTTP != nil:
			patience, silence = q.times.acceptEvery+q.times.acceptWithin, errFate // it can be asked again, too
			if request.HTTP.Length != 0 || parts {
				patience = q.times.acceptLost
			}
			if err := heard(reply); err != nil {
				return reply, err
			}
		case reply.Stream != nil && !reply.Stream.End && reply.Stream.Broken == "":
			silence, parts = errFate, true
			if request.Socket == nil {
				patience = q.times.acceptLost
			}
			if err := heard(reply); err != nil {
				return reply, err
			}
		default:
			return reply, nil
		}
	}
}

// hearOut waits for word of who may have accepted a request that nobody waits for any more: that is to be told.
func (q asker) hearOut(ctx context.Context, wait *answers.Wait, heard func(protocol.Reply) error) {
	reply, err := nextReply(context.WithoutCancel(ctx), wait, q.times.acceptWithin)
	if err == nil && reply.Accepted {
		_ = heard(reply) // what is wrong with the answer does not matter any more
	}
}

// encodePlain writes JSON without the escapes that browsers may need in HTML: markup would take six times as much.
func encodePlain(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func moved(owner string) error {
	if owner == "" {
		return errMoved
	}
	return &ownedError{owner: owner}
}

func nextReply(ctx context.Context, wait *answers.Wait, patience time.Duration) (protocol.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := wait.Next(ctx)
	if err != nil {
		return protocol.Reply{}, err
	}
	return readReply(m)
}

func readReply(m *nats.Msg) (protocol.Reply, error) {
	var reply protocol.Reply
	if len(m.Data) == 0 {
		return reply, errNobody
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return reply, fmt.Errorf("answer of a host: %w", err)
	}
	if reply.V > protocol.Version {
		return reply, fmt.Errorf("answer of a host: has version %d, this program knows %d", reply.V, protocol.Version)
	}
	return reply, nil
}

// respond answers a request, but only to inboxes: a client may name any subject as its reply, and would have us write
// there with our rights.
func (h *host) respond(ctx context.Context, m *nats.Msg, reply protocol.Reply) {
	if !strings.HasPrefix(m.Reply, protocol.InboxPrefix) {
		return
	}
	reply.V = protocol.Version
	body, err := encodePlain(reply)
	if most := h.nc.MaxPayload(); err == nil && int64(len(body)) > most { // else it would be asked for again and again
		body, err = encodePlain(protocol.Reply{V: protocol.Version, Error: &protocol.Failure{
			Name: protocol.FailureAnswerTooLarge, Message: fmt.Sprintf("the answer has %d bytes as a message, at most %d are allowed", len(body), most)}})
	}
	if err == nil {
		err = h.nc.Publish(m.Reply, body)
	}
	if err != nil {
		h.log.DebugContext(ctx, "answer another host", slog.Any(logkey.Error, err))
	}
}

// listen makes the agent's own subject lead here.
func (h *host) listen(ctx context.Context, a *actor) (stop func(), err error) {
	sub, err := h.nc.Subscribe(a.id.RequestSubject(), func(m *nats.Msg) {
		h.crew.do(func() { h.onRequest(ctx, m, a) })
	})
	if err != nil {
		return nil, fmt.Errorf("listen for agent %q: %w", a.id, err)
	}
	stop = func() {
		if err := sub.Unsubscribe(); err != nil {
			h.log.DebugContext(ctx, "unsubscribe", slog.Any(logkey.Error, err))
		}
	}
	h.flush(ctx)
	return stop, nil
}

// flush returns when the server knows the subscriptions. Without a server it gives up: the connection tells the next
// one.
func (h *host) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, h.times.acceptWithin)
	defer cancel()
	if err := h.nc.FlushWithContext(ctx); err != nil {
		h.log.DebugContext(ctx, "flush", slog.Any(logkey.Error, err))
	}
}

// onHostRequest serves what others send to this host, because they know that it owns the agent.
func (h *host) onHostRequest(ctx context.Context, m *nats.Msg) {
	var request protocol.Request
	err := json.Unmarshal(m.Data, &request)
	if err == nil && request.Word != nil {
		h.onWord(request.ID, *request.Word)
		return
	}
	if err == nil && len(request.Sent) > 0 {
		h.respond(ctx, m, protocol.Reply{Accepted: true})
		h.onSent(ctx, request.Sent)
		return
	}
	if err == nil && request.Attach != nil {
		h.onAttach(ctx, m, *request.Attach)
		return
	}
	if err != nil || request.Activate == nil {
		h.respond(ctx, m, refuse("malformed request"))
		return
	}
	id := protocol.Agent{Project: h.name, Class: request.Activate.Class, Name: request.Activate.Name}
	a, err := h.activate(id)
	if err != nil {
		h.respond(ctx, m, protocol.Reply{Moved: true})
		return
	}
	h.onRequest(ctx, m, a)
}

// onWord takes what is said about the parts of an answer.
func (h *host) onWord(id string, word protocol.StreamWord) {
	if f := h.flows.find(id); f != nil {
		f.hear(word)
	}
	if c := h.calls.chunksOf(id); c != nil {
		c.hear(word)
	}
}

// onBody takes a part of the body of a request, in the order in which they come.
func (h *host) onBody(m *nats.Msg) {
	defer h.parts.read.Add(1)
	var request protocol.Request
	if err := json.Unmarshal(m.Data, &request); err != nil || request.Part == nil {
		return // it is missed
	}
	if f := h.flows.find(request.ID); f != nil {
		f.receive(*request.Part)
	}
}

// onActivate serves what others send to any host that has the class.
func (h *host) onActivate(ctx context.Context, m *nats.Msg) {
	var request protocol.Request
	if err := json.Unmarshal(m.Data, &request); err != nil || request.Activate == nil || request.HTTP != nil {
		h.respond(ctx, m, refuse("malformed request"))
		return
	}
	id := protocol.Agent{Project: h.name, Class: request.Activate.Class, Name: request.Activate.Name}
	if request.Bell != nil {
		h.respond(ctx, m, protocol.Reply{Accepted: true})
		h.couriers.send(ctx, id, *request.Bell)
		return
	}
	a, err := h.activate(id)
	if err == nil {
		err = a.ready(ctx)
	}
	h.respond(ctx, m, h.ownership(err))
}

// ownership tells who owns an agent, given what became of activating it here.
func (h *host) ownership(err error) protocol.Reply {
	if err == nil {
		return protocol.Reply{Owner: h.id}
	}
	if owned, ok := errors.AsType[*ownedError](err); ok {
		return protocol.Reply{Owner: owned.owner}
	}
	if errors.Is(err, errMoved) {
		return protocol.Reply{Moved: true}
	}
	return protocol.Reply{Error: protocol.NewFailure(err)}
}

func refuse(why string) protocol.Reply {
	return protocol.Reply{Error: &protocol.Failure{Name: protocol.FailureUsage, Message: why, Terminal: true}}
}

// onRequest serves a request for an agent of this host.
func (h *host) onRequest(ctx context.Context, m *nats.Msg, a *actor) {
	var request protocol.Request
	if err := json.Unmarshal(m.Data, &request); err != nil || request.V > protocol.Version {
		h.respond(ctx, m, refuse("malformed request, or one of a newer program"))
		return
	}
	switch {
	case request.Bell != nil:
		reply := protocol.Reply{Accepted: true}
		if err := a.ringWhenReady(ctx, *request.Bell); err != nil {
			reply = movedReply(err)
		}
		h.respond(ctx, m, reply)
	case request.HTTP != nil:
		h.onHTTP(ctx, m, a, request)
	case request.Call != nil:
		h.onRelayedCall(ctx, m, a, request)
	case request.Socket != nil:
		h.onRelayedFrame(ctx, m, a, request.Socket)
	case request.Confirm != "":
		a.confirmed.add(protocol.CallMark(request.Confirm))
	default:
		h.respond(ctx, m, protocol.Reply{Owner: h.id})
	}
}

// movedReply says that the agent is not here, and where it is if that is known.
func movedReply(err error) protocol.Reply {
	reply := protocol.Reply{Moved: true}
	if owned, ok := errors.AsType[*ownedError](err); ok {
		reply.Owner = owned.owner
	}
	return reply
}

// onHTTP runs a relayed request and says that it is at it until the answer is there.
func (h *host) onHTTP(ctx context.Context, m *nats.Msg, a *actor, request protocol.Request) {
	f := h.flows.open(h, request, m.Reply)
	defer h.flows.close(request.ID)
	h.respond(ctx, m, f.accepted())
	call := h.calls.start(request.ID, nil, func(func()) protocol.Reply { return h.callAgent(ctx, a, request, f) })
	ticker := time.NewTicker(h.times.acceptEvery)
	defer ticker.Stop()
	for {
		select {
		case <-call.done:
			h.respond(ctx, m, call.reply)
			return
		case <-ticker.C:
			h.respond(ctx, m, f.accepted())
		case <-ctx.Done():
			return
		}
	}
}

// callAgent runs a relayed request. What is streamed of its answer, or is too large for one message, goes into the flow.
func (h *host) callAgent(ctx context.Context, a *actor, request protocol.Request, f *flow) protocol.Reply {
	r, err := relayedRequest(request.HTTP)
	if err != nil {
		return refuse(err.Error())
	}
	ctx, cancel := f.start(ctx)
	defer cancel(nil)
	take := func(p part) error { return f.take(ctx, p) }
	reply, err := a.request(ctx, &job{
		id: request.ID, request: r, body: request.HTTP.Body, upload: f.upload, identity: request.Identity,
		until: request.HTTP.Until, again: request.Again,
	}, take)
	defer f.end(err)
	switch {
	case f.hasBegun():
		if err == nil && len(reply.HTTP.Body) > 0 {
			err = take(part{data: reply.HTTP.Body})
		}
		return f.last(err, reply.Kept)
	case errors.Is(err, errMoved):
		return movedReply(err)
	case errors.Is(err, errFate):
		return protocol.Reply{Moved: true, Begun: true}
	case err != nil:
		return protocol.Reply{HTTP: failed(err)}
	case len(reply.HTTP.Body) > maxRelayed:
		head := *reply.HTTP
		head.Body = nil
		return f.last(take(part{head: &head, data: reply.HTTP.Body}), reply.Kept)
	}
	return reply
}
