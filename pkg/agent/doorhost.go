package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/porter"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// openDoor serves the door of the project for agents, until shut is called: for projects that have an account of their own.
func (h *host) openDoor(work context.Context) (shut func(), err error) {
	agents := &porter.Agents{
		Allows: h.allows, Call: h.callFromDoor,
		Mail: func(ctx context.Context, caller string, to protocol.Agent, mail protocol.Mail) error {
			return sendMail(ctx, h.store, to, caller, mail)
		},
	}
	for _, c := range h.classes {
		agents.Classes = append(agents.Classes, c.name)
	}
	p, err := porter.Open(porter.Config{
		Store: h.store, Objects: h.project.Objects(), Project: h.name, Log: h.log, MaxValue: int64(h.project.Config.Settings.MaxValueSize),
		Registered: func(ctx context.Context) (*protocol.Project, error) { return streams.LookUp(ctx, h.project.JS, h.name) },
		Notice:     h.noticeFromDoor, Agents: agents,
	})
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() {
		if err := p.Close(); err != nil {
			h.log.WarnContext(work, "close the door", slog.Any(logkey.Error, err))
		}
	}), nil
}

// allows says why other projects may not tell agents of a class something, or call a method of theirs. Mail that could only become
// a dead letter is not stored.
func (h *host) allows(class, method string, tell bool) error {
	c := h.class(class)
	if c == nil {
		return &ClassError{Class: class, Reason: "is not served by this host"}
	}
	if !tell {
		_, _, err := c.methodOf(&protocol.AgentCall{Method: method}, h.name)
		return err
	}
	if _, err := c.lookUp(method); err != nil {
		return err
	}
	if !c.isCallable(method) {
		return &CallbackError{Class: class, Callback: method, Reason: "other projects may not call it; agent.Callable would allow it"}
	}
	return nil
}

// noticeFromDoor stores what a workflow of another project tells an agent that tracks it.
func (h *host) noticeFromDoor(ctx context.Context, caller string, n protocol.Notify) error {
	to := protocol.Agent{Project: h.name, Class: n.Tracker.Class, Name: n.Tracker.Name}
	return sendMail(ctx, h.store, to, caller, protocol.NoticeMail(n.Tracker, n.Notice, n.Sent))
}

// callFromDoor brings a call of another project to an agent. The call goes on when ctx ends: whoever asks again under its id joins it.
func (h *host) callFromDoor(ctx context.Context, to protocol.Agent, id string, call protocol.AgentCall) protocol.Reply {
	ctx = context.WithValue(ctx, hostKey{}, h)
	busy := ""
	within := time.Duration(call.Within)
	e := &callErrand{id: id, call: call, deadline: time.Now().Add(within), hear: func(r protocol.Reply) { busy = r.Busy }}
	reply, err := h.deliver(ctx, to, e, within)
	switch {
	case err == nil && !reply.Moved:
		return reply
	case ctx.Err() != nil, errors.Is(err, ErrShutdown), errors.Is(err, errFate), err == nil:
		return protocol.Reply{Accepted: true, Busy: busy}
	}
	return protocol.Reply{Error: protocol.NewFailure(fmt.Errorf("call %s of agent %q: %w", call.Method, to, err))}
}
