package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// doorWait is how long the answer to one request of a call waits at a door. The host that has it may die meanwhile: then the
// next one is asked.
const doorWait = 3 * time.Second

// callAtDoor calls an agent of a project that has an account of its own. It asks again, under the same id, until there is
// an answer: a turn that was stored is not run again for that.
func (c *caller) callAtDoor(ctx context.Context, deadline time.Time) (protocol.Reply, error) {
	doors := c.project.Doors()
	at := doors.To(c.target.Project)
	subject := at.AgentSubject(c.target.Class, protocol.DoorOpCall)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		wait := min(max(time.Until(deadline), time.Millisecond), doorWait)
		answer, err := doors.Do(ctx, at, subject, protocol.DoorRequest{
			ID: c.target.Name, CallID: c.id, Call: c.request(deadline).Call, Wait: protocol.Duration(wait),
		})
		failure, said := errors.AsType[*protocol.Failure](err)
		switch {
		case err == nil && answer.Reply == nil:
			return protocol.Reply{}, fmt.Errorf("the door of project %q answers without a reply", c.target.Project)
		case err == nil && !answer.Reply.Accepted:
			return *answer.Reply, nil
		case said && failure.Name != protocol.FailureBusy:
			return protocol.Reply{Error: failure}, nil
		case err != nil:
			return protocol.Reply{}, c.awayFrom(ctx, err)
		}
		c.hear(*answer.Reply)
		if err := ctxtime.Sleep(ctx, pause); err != nil {
			return protocol.Reply{}, err
		}
	}
}

// awayFrom says what it means that nobody answers for a class at a door: that there is no such class, if its project says so.
func (c *caller) awayFrom(ctx context.Context, err error) error {
	away, ok := errors.AsType[*door.AwayError](err)
	if !ok || ctx.Err() != nil {
		return err
	}
	known, unknown := c.project.AskDoor(ctx, c.target.Project)
	switch {
	case unknown != nil:
		return away
	case slices.Contains(known.Agents, c.target.Class):
		return &NoHostError{Project: c.target.Project, Class: c.target.Class}
	}
	return &NoClassError{Project: c.target.Project, Class: c.target.Class, Classes: append([]string{}, known.Agents...)}
}

// mailAtDoor has mail stored by the project of an agent, at its door.
func mailAtDoor(ctx context.Context, p *project.Project, doors *door.Caller, to protocol.Agent, mail protocol.Mail) error {
	at := doors.To(to.Project)
	_, err := doors.Do(ctx, at, at.AgentSubject(to.Class, protocol.DoorOpMail), protocol.DoorRequest{ID: to.Name, Mail: &mail})
	if err == nil {
		return nil
	}
	return (&caller{project: p, target: to}).awayFrom(ctx, err)
}

// sendTold sends what a turn has told an agent, once: what cannot be sent now stays in the outbox.
func (h *host) sendTold(ctx context.Context, to protocol.Agent, mail protocol.Mail) error {
	doors := h.project.Doors()
	through, err := doors.Through(ctx, to.Project)
	switch {
	case err != nil:
		return err
	case !through:
		return h.publish(ctx, to.InboxSubject(h.name), mail)
	}
	at := doors.To(to.Project)
	_, err = doors.Hasty().Do(ctx, at, at.AgentSubject(to.Class, protocol.DoorOpMail), protocol.DoorRequest{ID: to.Name, Mail: &mail})
	return err
}
