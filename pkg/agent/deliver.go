package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	firstPause = 10 * time.Millisecond
	longPause  = 250 * time.Millisecond
)

// errand is something to bring to an agent, wherever it lives.
type errand interface {
	// request is the errand as it travels to another host.
	request() (protocol.Request, error)
	// do runs it with an agent of this host. The error is errMoved if it was not started.
	do(ctx context.Context, a *actor) (*protocol.HTTPResponse, error)
}

// deliver brings an errand to the agent: straight, if this host owns it, else over NATS. If nobody owns the agent,
// this host takes it.
func (h *host) deliver(ctx context.Context, id protocol.Agent, e errand, within time.Duration) (*protocol.HTTPResponse, error) {
	began := time.Now()
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		response, err := h.tryDeliver(ctx, id, e, began.Add(within))
		again := errors.Is(err, errMoved) || errors.Is(err, errNobody) || errors.Is(err, errSilent)
		if !again {
			return response, err
		}
		if time.Since(began) >= within {
			return nil, &Error{Status: http.StatusServiceUnavailable, Name: "AgentUnavailable", Err: err,
				Message: fmt.Sprintf("no host could take agent %q within %s", id.Name, within)}
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func (h *host) tryDeliver(ctx context.Context, id protocol.Agent, e errand, until time.Time) (*protocol.HTTPResponse, error) {
	a := h.find(id)
	if a == nil {
		request, err := e.request()
		if err == nil {
			var reply protocol.Reply
			reply, err = h.ask(ctx, id.RequestSubject(), request)
			if err == nil {
				return result(reply)
			}
		}
		if errors.Is(err, errFate) || ctx.Err() != nil {
			return nil, err
		}
		if a, err = h.activate(id); err != nil {
			return nil, err
		}
	}
	response, err := h.doHere(ctx, a, e, until)
	owned, ok := errors.AsType[*ownedError](err)
	if !ok {
		return response, err
	}
	request, err := e.request()
	if err != nil {
		return nil, err
	}
	request.Activate = &protocol.Activate{Class: id.Class, Name: id.Name}
	reply, err := h.ask(ctx, protocol.HostSubject(h.name, owned.owner), request)
	if err != nil {
		return nil, err
	}
	return result(reply)
}

// doHere runs an errand with an agent of this host, if that is ready in time.
func (h *host) doHere(ctx context.Context, a *actor, e errand, until time.Time) (*protocol.HTTPResponse, error) {
	soon, cancel := context.WithDeadlineCause(ctx, until, errSilent)
	defer cancel()
	if err := a.ready(soon); err != nil {
		return nil, err
	}
	return e.do(ctx, a)
}

func result(reply protocol.Reply) (*protocol.HTTPResponse, error) {
	if reply.Error != nil {
		return nil, reply.Error
	}
	return reply.HTTP, nil
}

// bellErrand rings an agent's mailbox.
type bellErrand struct{ bell protocol.Bell }

func (e *bellErrand) request() (protocol.Request, error) {
	return protocol.Request{V: protocol.Version, Bell: &e.bell}, nil
}

func (e *bellErrand) do(ctx context.Context, a *actor) (*protocol.HTTPResponse, error) {
	return nil, a.ringWhenReady(ctx, e.bell)
}

// httpErrand brings an HTTP request.
type httpErrand struct {
	id   string
	http *http.Request
	body []byte
}

func newHTTPErrand(r *http.Request, body []byte) *httpErrand {
	return &httpErrand{id: uuid.NewString(), http: r, body: body}
}

func (e *httpErrand) request() (protocol.Request, error) {
	if len(e.body) > maxRelayed {
		return protocol.Request{}, &Error{Status: http.StatusRequestEntityTooLarge, Name: "BodyTooLarge",
			Message: fmt.Sprintf("the body is %d bytes long, at most %d can be passed on to the agent's host", len(e.body), maxRelayed)}
	}
	return protocol.Request{V: protocol.Version, ID: e.id, HTTP: relayable(e.http, e.body)}, nil
}

func (e *httpErrand) do(ctx context.Context, a *actor) (*protocol.HTTPResponse, error) {
	return a.do(ctx, &job{request: e.http, body: e.body, limit: maxBody, done: make(chan outcome, 1)})
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
