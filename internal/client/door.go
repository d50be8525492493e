package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// behind reports whether an instance is behind the door of its project: then everything about it is said there. This is the
// one place where that is decided.
func (c Client) behind(ctx context.Context, at protocol.Instance) (bool, error) {
	return c.Doors.Through(ctx, at.Project)
}

// say brings a request about an instance to the door of its project.
func (c Client) say(ctx context.Context, at protocol.Instance, op string, request protocol.DoorRequest) (protocol.DoorAnswer, error) {
	to := c.Doors.To(at.Project)
	request.ID = at.ID
	answer, err := c.Doors.Do(ctx, to, to.WorkflowSubject(at.Workflow, op), request)
	switch {
	case door.Is(err, protocol.FailureNotFound):
		err = ErrNotFound
	case door.Is(err, protocol.FailureExists):
		err = ErrExists
	}
	return answer, err
}

// carry says something that refers to a large value. The value may still be where this project keeps what it has to say: then it is
// handed over first, as one of owner's.
func (c Client) carry(
	ctx context.Context, at protocol.Instance, op string, request protocol.DoorRequest, value *protocol.Object, owner func() (protocol.ObjectOwner, error),
) (protocol.DoorAnswer, error) {
	answer, err := c.say(ctx, at, op, request)
	if !door.Is(err, protocol.FailureNoValue) || value == nil || c.Objects == nil {
		return answer, err
	}
	to, lost := owner()
	if lost != nil {
		return answer, lost
	}
	there, lost := c.Objects.Copy(ctx, c.Doors.Project(), *value, to)
	if missing, ok := errors.AsType[*objects.MissingError](lost); ok {
		return answer, fmt.Errorf("%w (%w)", err, missing)
	}
	if lost != nil {
		return answer, lost
	}
	*value = *there
	return c.say(ctx, at, op, request)
}

var outcomes = map[string]Outcome{"": Created, protocol.OutcomeFound: Found, protocol.OutcomeRestarted: Restarted}

func (c Client) createBehind(ctx context.Context, at protocol.Instance, create protocol.Create, existing protocol.Existing) (Outcome, uint64, error) {
	value := clone(create.ParamsObject)
	create.ParamsObject = value
	answer, err := c.carry(ctx, at, protocol.DoorOpCreate, protocol.DoorRequest{Create: &create, Existing: existing}, value,
		func() (protocol.ObjectOwner, error) { return protocol.OwnerOf(at, create.Input), nil })
	return outcomes[answer.Outcome], answer.Incarnation, err
}

func (c Client) sendBehind(ctx context.Context, at protocol.Instance, event protocol.Event) error {
	value := clone(event.PayloadObject)
	event.PayloadObject = value
	_, err := c.carry(ctx, at, protocol.DoorOpEvent, protocol.DoorRequest{Event: &event}, value, func() (protocol.ObjectOwner, error) {
		there, err := c.Look(ctx, at)
		return protocol.OwnerOf(at, there.Create.Input), err
	})
	return err
}

func clone(o *protocol.Object) *protocol.Object {
	if o == nil {
		return nil
	}
	copied := *o
	return &copied
}

func (c Client) lookBehind(ctx context.Context, at protocol.Instance) (Presence, error) {
	answer, err := c.say(ctx, at, protocol.DoorOpLook, protocol.DoorRequest{})
	return Presence{Incarnation: answer.Incarnation, Create: protocol.Create{Input: answer.Input}, Done: answer.Done}, err
}

// awaitBehind asks until the instance has ended. A door that is away is waited for: it may be back when the instance ends.
func (c Client) awaitBehind(ctx context.Context, at protocol.Instance, incarnation uint64) (*protocol.Done, error) {
	pause := firstPoll
	for {
		asked := time.Now()
		answer, err := c.say(ctx, at, protocol.DoorOpAwait, protocol.DoorRequest{Incarnation: incarnation, Wait: protocol.Duration(MaxWait)})
		_, away := errors.AsType[*door.AwayError](err)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && !away:
			return nil, err
		case answer.Done != nil:
			return answer.Done, nil
		}
		if time.Since(asked) > time.Second { // the door has waited
			pause = firstPoll
			continue
		}
		if err := ctxtime.Sleep(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(2*pause, maxPoll)
	}
}

// MaxWait is the longest that a door waits with its answer.
const MaxWait = 10 * time.Second

// Ask brings a question about an instance to runners of its project: to one of them, by the id that it gives itself, or with
// "" to any. Behind a door, any answers. Nobody's answer is nats.ErrNoResponders or nats.ErrTimeout.
func (c Client) Ask(ctx context.Context, at protocol.Instance, runner string, ask protocol.Ask) (protocol.Answer, error) {
	var answer protocol.Answer
	ask.V, ask.Workflow, ask.ID = protocol.Version, at.Workflow, at.ID
	body, err := json.Marshal(ask)
	if err != nil {
		return answer, err
	}
	behind, err := c.behind(ctx, at)
	if err != nil {
		return answer, err
	}
	subject := protocol.AskSubject(at.Project)
	switch {
	case behind:
		subject = c.Doors.To(at.Project).WorkflowSubject(at.Workflow, protocol.DoorOpAsk)
	case runner != "":
		subject = protocol.AskRunnerSubject(at.Project, runner)
	}
	m, err := c.Store.Conn().RequestWithContext(ctx, subject, body)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return answer, fmt.Errorf("answer of a runner: %w", err)
	}
	return answer, nil
}

// Unanswered reports whether a question came to no answer.
func Unanswered(err error) bool {
	_, away := errors.AsType[*door.AwayError](err)
	return away || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}

// EndChild ends what a call has created: terminate is void for anything else. One that has ended takes no notice. The parent is of the
// project in whose name the client speaks.
func (c Client) EndChild(ctx context.Context, parent protocol.Parent, child protocol.Instance) error {
	_, err := c.say(ctx, child, protocol.DoorOpEnd, protocol.DoorRequest{Parent: &parent})
	return err
}
