package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// callErrand brings a call to an agent. It may be brought again however often, also to another owner.
type callErrand struct {
	id       string
	call     protocol.AgentCall
	deadline time.Time
	hear     func(protocol.Reply)
	astray   bool // a copy of it may still be under way
}

func (e *callErrand) request() (protocol.Request, error) {
	call := e.call
	call.Within = protocol.Duration(max(time.Until(e.deadline), time.Millisecond))
	return protocol.Request{V: protocol.Version, ID: e.id, Call: &call}, nil
}

func (e *callErrand) heard(reply protocol.Reply) error {
	e.hear(reply)
	return nil
}

func (e *callErrand) repeatable() bool { return true }

func (e *callErrand) asked(err error) { e.astray = e.astray || mayTurnUp(err) }

func (e *callErrand) do(ctx context.Context, a *actor) (protocol.Reply, error) {
	reply := a.joinCall(ctx, e.id, &e.call, e.deadline, e.hear)
	switch {
	case ctx.Err() != nil && reply.Error == nil && reply.Moved:
		return reply, context.Cause(ctx)
	case reply.Moved:
		return reply, moved(reply.Owner)
	}
	return reply, nil
}

// joinCall runs a call and tells hear now and then what the agent is busy with instead.
func (a *actor) joinCall(ctx context.Context, id string, call *protocol.AgentCall, deadline time.Time, hear func(protocol.Reply)) protocol.Reply {
	hear(protocol.Reply{Busy: a.busyWith(id)})
	c := a.startCall(ctx, id, call, deadline)
	beat := time.NewTicker(a.host.times.acceptEvery)
	defer beat.Stop()
	for {
		select {
		case <-c.done:
			return c.reply
		case <-beat.C:
			hear(protocol.Reply{Busy: a.busyWith(id)})
		case <-ctx.Done():
			hear(protocol.Reply{Busy: a.busyWith(id)})
			return protocol.Reply{Moved: true}
		}
	}
}

// callHere brings a call of an agent of this host to one of the same project.
func (h *host) callHere(ctx context.Context, c *caller, deadline time.Time) (protocol.Reply, error) {
	call := c.call
	call.Until = deadline.UTC()
	e := &callErrand{id: c.id, call: call, deadline: deadline, hear: c.hear}
	reply, err := h.deliver(ctx, c.target, e, time.Until(deadline))
	if err == nil && reply.Kept && !c.call.Keep && !e.astray {
		h.confirm(ctx, c.target, c.confirmation())
	}
	return reply, err
}

// confirm tells the owner of an agent that the answer of a call has arrived.
func (h *host) confirm(ctx context.Context, id protocol.Agent, request protocol.Request) {
	if a := h.find(id); a != nil && a.hasStarted() {
		a.confirmed.add(protocol.CallMark(request.Confirm))
		return
	}
	h.asker().tell(ctx, id.RequestSubject(), request)
}

// onCall serves a call from a process that is no host of the project: it brings it to the agent.
func (h *host) onCall(ctx context.Context, m *nats.Msg) {
	var request protocol.Request
	_, from, class, err := protocol.ParseCallSubject(m.Subject)
	if err == nil {
		err = json.Unmarshal(m.Data, &request)
	}
	if err != nil || request.V > protocol.Version || request.Activate == nil || request.Activate.Class != class {
		h.respond(ctx, m, refuse("malformed call, or one of a newer program"))
		return
	}
	id := protocol.Agent{Project: h.name, Class: class, Name: request.Activate.Name}
	switch {
	case protocol.CheckAgent(id.Name) != nil:
		h.respond(ctx, m, refuse("the name of the agent cannot be one"))
	case request.Confirm != "":
		h.confirm(ctx, id, request)
	case request.Call != nil && request.ID != "":
		request.Call.From = from
		h.attend(ctx, m, func(hear func(protocol.Reply)) protocol.Reply { return h.bring(ctx, id, request, hear) })
	default:
		h.respond(ctx, m, refuse("malformed call"))
	}
}

// bring brings a call to the agent and returns its answer.
func (h *host) bring(ctx context.Context, id protocol.Agent, request protocol.Request, hear func(protocol.Reply)) protocol.Reply {
	within := time.Duration(request.Call.Within)
	deadline := time.Now().Add(within)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := h.room(); err != nil {
		return protocol.Reply{Error: protocol.NewFailure(err)}
	}
	e := &callErrand{id: request.ID, call: *request.Call, deadline: deadline, hear: hear}
	reply, err := h.deliver(ctx, id, e, within)
	reply.Kept = reply.Kept && !e.astray
	if errors.Is(err, ErrShutdown) {
		return protocol.Reply{Moved: true}
	}
	if err != nil && ctx.Err() == nil {
		return protocol.Reply{Error: protocol.NewFailure(err)}
	}
	if err != nil { // the caller has given up as well
		return protocol.Reply{Error: &protocol.Failure{Name: protocol.FailureTimeout, Message: lateText(within, "")}}
	}
	return reply
}

// onRelayedCall serves a call that another host has brought to the owner of the agent.
func (h *host) onRelayedCall(ctx context.Context, m *nats.Msg, a *actor, request protocol.Request) {
	deadline := time.Now().Add(time.Duration(request.Call.Within))
	h.attend(ctx, m, func(hear func(protocol.Reply)) protocol.Reply {
		return a.joinCall(ctx, request.ID, request.Call, deadline, hear)
	})
}

// attend answers a request with what work returns, and says until then that it is at it.
func (h *host) attend(ctx context.Context, m *nats.Msg, work func(hear func(protocol.Reply)) protocol.Reply) {
	h.respond(ctx, m, protocol.Reply{Accepted: true})
	heard, done := make(chan protocol.Reply), make(chan protocol.Reply, 1)
	h.crew.do(func() {
		done <- work(func(reply protocol.Reply) {
			select {
			case heard <- reply:
			case <-ctx.Done():
			}
		})
	})
	ticker := time.NewTicker(h.times.acceptEvery)
	defer ticker.Stop()
	accepted := protocol.Reply{Accepted: true}
	for {
		select {
		case reply := <-done:
			h.respond(ctx, m, reply)
			return
		case reply := <-heard:
			isNew := reply.Socket != nil || reply.Busy != accepted.Busy || reply.Owner != accepted.Owner
			accepted.Busy, accepted.Owner, accepted.Sent = reply.Busy, reply.Owner, reply.Sent
			if reply.Socket != nil {
				accepted.Socket = reply.Socket
			}
			if isNew {
				h.respond(ctx, m, accepted)
			}
		case <-ticker.C:
			h.respond(ctx, m, accepted)
		case <-ctx.Done():
			return
		}
	}
}

// startCall runs a call, or joins the run of it if the same one is there already.
func (a *actor) startCall(ctx context.Context, id string, call *protocol.AgentCall, deadline time.Time) *call {
	return a.host.calls.start(a.id.String()+" "+id, nil, func(func()) protocol.Reply {
		ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
		defer cancel()
		if failure := a.wouldWait(call); failure != nil {
			return protocol.Reply{Error: failure}
		}
		if reply, ok := a.read(ctx, call); ok {
			return reply
		}
		reply, err := a.do(ctx, &job{id: id, call: call, done: make(chan outcome, 1)})
		switch {
		case errors.Is(err, errMoved) || errors.Is(err, ErrShutdown): // if it was stored, the record knows it
			return movedReply(err)
		case errors.Is(err, context.DeadlineExceeded):
			return protocol.Reply{Error: &protocol.Failure{Name: protocol.FailureTimeout,
				Message: lateText(time.Duration(call.Within), a.busyWith(id))}}
		case err != nil:
			return protocol.Reply{Error: protocol.NewFailure(err)}
		}
		return reply
	})
}

// wouldWait refuses a call of an agent that this agent's own turn waits for.
func (a *actor) wouldWait(call *protocol.AgentCall) *protocol.Failure {
	if call.Waits(a.id.String()) || len(call.Chain) > protocol.MaxCallChain {
		return cycle(call.Chain, a.id)
	}
	if s := a.busy.Load(); s != nil {
		if awaited := s.awaits.Load(); awaited != nil && call.Waits(*awaited) {
			return cycle(call.Chain, a.id)
		}
	}
	return nil
}

// busyWith says what the agent is busy with, unless it is the call of an id.
func (a *actor) busyWith(id string) string {
	s := a.busy.Load()
	if s == nil || s.call != "" && s.call == id {
		return ""
	}
	return s.what
}

// serveCall runs the turn of a call.
func (a *actor) serveCall(ctx context.Context, j *job) error {
	if err := a.fit(ctx); err != nil {
		j.finish(outcome{err: errMoved})
		return err
	}
	if j.call.Destroy != 0 {
		return a.serveDestroy(ctx, j)
	}
	name, m, err := a.class.methodOf(j.call, a.id.Project)
	if err != nil {
		j.finish(outcome{reply: protocol.Reply{Error: protocol.NewFailure(err)}})
		return nil
	}
	mark := newCallMark(j)
	if applied, ok := a.at.record.Calls[mark.key]; ok {
		j.finish(outcome{reply: appliedReply(applied)})
		return nil
	}
	if isLate(j.call.Until, time.Now()) {
		j.finish(outcome{reply: protocol.Reply{Error: &protocol.Failure{Name: protocol.FailureTimeout, Message: "the call came after its caller had given up"}}})
		return nil
	}
	var result json.RawMessage
	stored, err := a.turn(journal.Refusing(ctx), nil, func(ctx context.Context, d *draft) error {
		d.call, d.reading, d.fresh = mark, a.class.reads[name], j.call.Fresh
		result, err = m.call(context.WithValue(ctx, chainKey{}, j.call.Chain), d.self, j.call.Payload)
		if err == nil {
			mark.end(result)
		}
		return err
	})
	if isEnd(err) {
		j.finish(outcome{err: errMoved}) // if it was stored, the record knows it
		return err
	}
	reply := protocol.Reply{Result: result, Kept: stored}
	if err != nil {
		reply = protocol.Reply{Error: a.callFailure(ctx, j.call.Method, a.at.record.Turn+1, err)}
	}
	if !stored && !errors.Is(err, ErrNoSpace) {
		if err := a.fit(ctx); err != nil {
			j.finish(outcome{err: errMoved})
			return err
		}
	}
	j.finish(outcome{reply: reply})
	return a.afterTurn(ctx)
}

// callFailure is what a caller is told of an error. What a panic says is for the log.
func (a *actor) callFailure(ctx context.Context, method string, turn uint64, err error) *protocol.Failure {
	p, ok := errors.AsType[*PanicError](err)
	if !ok {
		return protocol.NewFailure(err)
	}
	a.log.ErrorContext(ctx, "method panicked, its turn is dropped", slog.String(logkey.Method, method),
		slog.Uint64(logkey.Turn, turn), slog.Any(logkey.Error, err), slog.String(logkey.Stack, string(p.Stack)))
	return &protocol.Failure{Name: protocol.FailurePanic, Message: "the agent panicked"}
}
