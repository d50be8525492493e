package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	firstPause = 10 * time.Millisecond
	longPause  = 250 * time.Millisecond
)

// nameUnavailable is the error of an errand for which no host could take the agent in time.
const nameUnavailable = "AgentUnavailable"

// errand is something to bring to an agent, wherever it lives.
type errand interface {
	// request is the errand as it travels to another host.
	request() (protocol.Request, error)
	// do runs it with an agent of this host. The error is errMoved if it was not started.
	do(ctx context.Context, a *actor) (protocol.Reply, error)
	// heard is told that another host is at it, or gets a part of its answer. An error ends the wait.
	heard(reply protocol.Reply) error
	// repeatable reports whether it may be brought again although it may have been carried out.
	repeatable() bool
	// asked is told what came of asking another host.
	asked(err error)
}

// once is what errands have in common that are not brought again.
type once struct{}

func (once) heard(protocol.Reply) error { return nil }
func (once) repeatable() bool           { return false }
func (once) asked(error)                {}

// deliver brings an errand to the agent: straight, if this host owns it, else over NATS. If nobody owns the agent,
// this host takes it.
func (h *host) deliver(ctx context.Context, id protocol.Agent, e errand, within time.Duration) (protocol.Reply, error) {
	began := time.Now()
	begun := false       // somebody has accepted it
	var noHost time.Time // since when
	direct := true
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		reply, err := h.tryDeliver(ctx, id, e, began.Add(within), direct)
		if errors.Is(err, errFate) {
			began, begun = time.Now(), true
		}
		direct = !errors.Is(err, errSilent) // else that would be silent again, until a lease is over
		again := errors.Is(err, errMoved) || errors.Is(err, errNobody) || errors.Is(err, errSilent) || errors.Is(err, errFate) && e.repeatable()
		if !again {
			return reply, err
		}
		switch {
		case !errors.Is(err, errNoHost):
			noHost = time.Time{}
		case noHost.IsZero():
			noHost = time.Now()
		case time.Since(noHost) >= h.times.nobodyFor && !begun:
			return reply, &Error{Status: http.StatusServiceUnavailable, Name: "NoHost", RetryAfter: h.times.nobodyFor,
				Err: &NoHostError{Project: h.name, Class: id.Class}}
		}
		if time.Since(began) >= within && begun {
			return reply, errFate
		}
		if time.Since(began) >= within {
			return reply, &Error{Status: http.StatusServiceUnavailable, Name: nameUnavailable, Err: err, RetryAfter: time.Second,
				Message: fmt.Sprintf("no host could take agent %q within %s", id.Name, within)}
		}
		if err := ctxtime.Sleep(ctx, wait); err != nil {
			return reply, err
		}
	}
}

// tryDeliver does so once. The agent's own subject, where direct asks first, is a shortcut; its record says who owns it.
func (h *host) tryDeliver(ctx context.Context, id protocol.Agent, e errand, until time.Time, direct bool) (protocol.Reply, error) {
	a := h.find(id)
	if a == nil {
		request, err := e.request()
		if err == nil && direct {
			var reply protocol.Reply
			if reply, err = h.askFor(ctx, e, id.RequestSubject(), request); err == nil {
				return reply, nil
			}
		}
		if errors.Is(err, errFate) || ctx.Err() != nil {
			return protocol.Reply{}, err
		}
		if h.class(id.Class) == nil {
			return h.askOwner(ctx, id, e)
		}
		if bell, ok := e.(*bellErrand); ok {
			if late, err := h.dropLate(ctx, id, bell.bell); late || err != nil {
				return protocol.Reply{}, err
			}
		}
		if a, err = h.activate(id); err != nil {
			return protocol.Reply{}, err
		}
	}
	reply, err := h.doHere(ctx, a, e, until)
	owned, ok := errors.AsType[*ownedError](err)
	if !ok {
		return reply, err
	}
	request, err := e.request()
	if err != nil {
		return reply, err
	}
	request.Activate = &protocol.Activate{Class: id.Class, Name: id.Name}
	return h.askFor(ctx, e, protocol.HostSubject(h.name, owned.owner), request)
}

// askFor brings an errand to another host.
func (h *host) askFor(ctx context.Context, e errand, subject string, request protocol.Request) (protocol.Reply, error) {
	reply, err := h.asker().ask(ctx, subject, request, e.heard)
	e.asked(err)
	return reply, err
}

// mayTurnUp reports whether somebody may have what was sent, and begin with it later: a host that was frozen, say.
func mayTurnUp(err error) bool {
	return err != nil && !errors.Is(err, errNobody) && !errors.Is(err, errMoved)
}

// doHere runs an errand with an agent of this host, if that is ready in time.
func (h *host) doHere(ctx context.Context, a *actor, e errand, until time.Time) (protocol.Reply, error) {
	if err := h.awaitReady(ctx, a, until); err != nil {
		return protocol.Reply{}, err
	}
	return e.do(ctx, a)
}

// lookForRoom is how often it is looked whether an agent cannot be taken because there is no room for its record.
const lookForRoom = 500 * time.Millisecond

func (h *host) awaitReady(ctx context.Context, a *actor, until time.Time) error {
	for {
		next := time.Now().Add(lookForRoom)
		if next.After(until) {
			next = until
		}
		soon, cancel := context.WithDeadlineCause(ctx, next, errSilent)
		err := a.ready(soon)
		cancel()
		if !errors.Is(err, errSilent) || !time.Now().Before(until) {
			return err
		}
		if full := h.room(); full != nil {
			return full
		}
	}
}

// result is the error of an answer, if it is one.
func result(reply protocol.Reply) error {
	if reply.Error != nil {
		return reply.Error
	}
	return nil
}

// bellErrand rings an agent's mailbox.
type bellErrand struct {
	once
	bell protocol.Bell
}

func (e *bellErrand) request() (protocol.Request, error) {
	return protocol.Request{V: protocol.Version, Bell: &e.bell}, nil
}

func (e *bellErrand) do(ctx context.Context, a *actor) (protocol.Reply, error) {
	return protocol.Reply{}, a.ringWhenReady(ctx, e.bell)
}

// httpErrand brings an HTTP request.
type httpErrand struct {
	id       string
	http     *http.Request
	body     []byte
	upload   *upload // in the place of body, if it is long
	identity json.RawMessage
	client   *reader
	// until is when this host gives up.
	until   time.Time
	parts   *relayed // of the answer, if they come from another host
	forward *forward // of the body, if they go to another host
	astray  bool     // a copy of it may still be under way
	again   bool     // another host has begun with it
}

func (h *host) newHTTPErrand(r *http.Request, body []byte, u *upload, identity json.RawMessage, c *reader) *httpErrand {
	id := uuid.NewString()
	return &httpErrand{
		id: id, http: r, body: body, upload: u, identity: identity, client: c, until: time.Now().Add(h.edge.timeout),
		parts: &relayed{host: h, id: id, pass: c.pass}, forward: &forward{host: h, id: id, upload: u},
	}
}

func (e *httpErrand) request() (protocol.Request, error) {
	request := protocol.Request{V: protocol.Version, ID: e.id, HTTP: relayable(e.http, e.body), Identity: e.identity, Again: e.again}
	request.HTTP.Until = e.until.UTC()
	if e.upload != nil {
		request.HTTP.Length = e.upload.length
	}
	return request, nil
}

func (e *httpErrand) do(ctx context.Context, a *actor) (protocol.Reply, error) {
	j := &job{request: e.http, body: e.body, upload: e.upload, identity: e.identity}
	if e.astray {
		j.id, j.until, j.again = e.id, e.until, e.again
	}
	reply, err := a.request(ctx, j, e.client.take)
	e.again = e.again || e.astray && errors.Is(err, errFate)
	return reply, err
}

func (e *httpErrand) heard(reply protocol.Reply) error {
	if reply.Stream == nil {
		e.parts.at(reply.Owner)
		e.forward.heard(reply)
		return e.parts.check(reply.Sent)
	}
	return e.parts.take(reply)
}

func (e *httpErrand) asked(err error) {
	e.forward.halt()
	e.astray, e.again = e.astray || mayTurnUp(err), e.again || errors.Is(err, errFate)
}

// repeatable: for the answer of what another host has begun with it does no harm to ask again. One that has begun can only
// break off.
func (e *httpErrand) repeatable() bool { return e.again && !e.client.hasBegun() }

// end is called when the request has its answer, or err in the place of one. It reports whether the agent may forget it.
func (e *httpErrand) end(reply protocol.Reply, err error) (forget bool) {
	e.parts.end(err == nil)
	if err != nil {
		e.forward.giveUp(err)
	}
	return reply.Kept && !e.astray
}

// ready returns when the agent takes turns, or why it is gone.
func (a *actor) ready(ctx context.Context) error {
	select {
	case <-a.started:
		return nil
	case <-a.gone:
		return a.verdict
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ringWhenReady hands a bell to the agent, once it is sure that the agent is this host's.
func (a *actor) ringWhenReady(ctx context.Context, b protocol.Bell) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	if !a.mail.ring(b) {
		return errMoved
	}
	return nil
}
