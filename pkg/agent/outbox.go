package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// afterTurn carries out what turns asked for, and tells the agent of a state that has changed and of what was refused
// for good. What follows the end of the agent is no matter of its turns: see finish.
func (a *actor) afterTurn(ctx context.Context) error {
	for !a.at.record.Condemned {
		if err := a.carryOut(ctx); err != nil {
			return err
		}
		if a.changed {
			if err := a.observe(ctx); err != nil {
				return err
			}
			continue
		}
		if len(a.refused) == 0 {
			a.states.tidy(ctx)
			return nil
		}
		first := a.refused[0]
		a.refused = a.refused[1:]
		if err := a.report(ctx, first); err != nil {
			return err
		}
	}
	return nil
}

// carryOut tries every pending entry once, in their order, and then acks the mail of the turns. What cannot be done now
// stays in the record until it is time to try again, and whoever takes the agent then begins with it; it holds up only
// what concerns the same thing. Not the acks: what waits for room in an inbox would wait for itself.
func (a *actor) carryOut(ctx context.Context) error {
	if !time.Now().Before(a.retry.at) {
		clear(a.stuck)
	}
	idle := len(a.pending)+len(a.mail.settled) == 0
	var rest []protocol.Outgoing
	for i, o := range a.pending {
		if err := a.fit(ctx); err != nil {
			return err
		}
		about := concern(o)
		if a.stuck[about] {
			rest = append(rest, o)
			continue
		}
		done, err := a.carryOne(ctx, o)
		delete(a.again, o.ID)
		switch {
		case !done && ctx.Err() != nil:
			a.pending = append(rest, a.pending[i:]...)
			return &endError{context.Cause(ctx)}
		case !done:
			a.stuck[about], a.again[o.ID] = true, true
			rest = append(rest, o)
			a.putOff(ctx, o, err)
		case err != nil:
			a.refused = append(a.refused, &RefusedError{What: describe(o), Err: err})
		}
	}
	a.pending = rest
	if len(rest) == 0 {
		a.retry = backoff{}
		if !idle {
			testsignal.At(testsignal.AgentProjected)
		}
	}
	a.mail.ackSettled(a.host.nc)
	return nil
}

// putOff notes when to try a pending entry again.
func (a *actor) putOff(ctx context.Context, o protocol.Outgoing, err error) {
	a.retry.again(a.host.times.retryFirst, a.host.times.retryMost)
	a.log.WarnContext(ctx, "cannot carry out what a turn asked for, trying on", slog.String(logkey.Outgoing, describe(o)),
		slog.Duration(logkey.Delay, a.retry.wait), slog.Any(logkey.Error, err))
}

// carryOne does what one entry asks for. If done is false, it may be tried again; else err says why it was refused.
func (a *actor) carryOne(ctx context.Context, o protocol.Outgoing) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.host.times.carryOut)
	defer cancel()
	switch o.Kind {
	case protocol.OutgoingCreate:
		err = a.host.create(ctx, o)
	case protocol.OutgoingEvent:
		err = a.host.instances().Send(ctx, instance(o.Instance), *o.Event)
	case protocol.OutgoingControl:
		err = a.host.steer(ctx, o)
	case protocol.OutgoingSchedule:
		err = a.putRow(ctx, o)
	case protocol.OutgoingCancelSchedule:
		err = a.cancelRow(ctx, o)
	case protocol.OutgoingMail:
		err = a.host.sendTold(ctx, o.Tell.Agent(), o.Tell.Mail)
	case protocol.OutgoingDead:
		err = a.storeDeadRow(ctx, o)
	case protocol.OutgoingDropDead:
		err = a.host.dropDeadRow(ctx, a.deadRow(o.DropDead))
	case protocol.OutgoingFrames:
		err = a.sendFrames(ctx, o)
	case protocol.OutgoingQueue:
		err = sendMail(ctx, a.host.store, a.id, a.id.Project, *o.Queued)
	default:
		// Of a newer program: its next host will know.
		return false, fmt.Errorf("unknown kind %q", o.Kind)
	}
	done = err == nil || !mayComeRight(err) && ctx.Err() == nil
	if o.Kind == protocol.OutgoingCreate && o.Create.Tracker != nil && done && err != nil {
		err = a.tellRefused(ctx, o, err)
		return err == nil, err
	}
	return done, err
}

// mayComeRight reports whether what ended with err may succeed later.
func mayComeRight(err error) bool {
	return errors.Is(err, journal.ErrUnknownOutcome) || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, journal.ErrFull) ||
		errors.Is(err, ErrNoSpace) || door.Is(err, protocol.FailureBusy)
}

// tellRefused tells the agent itself, by mail that outlives this host, that a workflow which it tracks was not started.
func (a *actor) tellRefused(ctx context.Context, o protocol.Outgoing, why error) error {
	failure := protocol.NewFailure(why)
	if errors.Is(why, workflow.ErrExists) {
		failure.Name = protocol.FailureExists
	}
	now := time.Now().UTC()
	mail := protocol.NoticeMail(*o.Create.Tracker, protocol.RefusedNotice(*o.Instance, *o.Create, failure, now), now)
	return sendMail(ctx, a.host.store, a.id, a.id.Project, mail)
}

func (a *actor) scheduleRow(id string) string {
	rows := bucketOf(protocol.SchedulesBucket(a.id.Project))
	return rows.subject(protocol.ScheduleKey(a.id.Class, a.id.Name, id))
}

// instances reaches instances of workflows. What cannot be said now at the door of another project stays in the outbox.
func (h *host) instances() client.Client {
	c := h.project.Instances()
	c.Store, c.Doors = h.store, c.Doors.Hasty()
	return c
}

// create starts an instance. Finding one that this very call has started is a success.
func (h *host) create(ctx context.Context, o protocol.Outgoing) error {
	i := instance(o.Instance)
	_, _, err := h.instances().Create(ctx, i, *o.Create, o.Existing)
	if errors.Is(err, client.ErrExists) {
		return &workflow.ExistsError{Workflow: i.Workflow, ID: i.ID}
	}
	return err
}

// steer stores a control. If it is meant for what a certain create has made, another instance of the id is left alone.
func (h *host) steer(ctx context.Context, o protocol.Outgoing) error {
	i, control := instance(o.Instance), *o.Control
	if o.Of != "" {
		p, err := h.instances().Look(ctx, i)
		if errors.Is(err, client.ErrNotFound) || err == nil && (p.Create.Input != o.Of || p.Done != nil) {
			return nil
		}
		if err != nil {
			return err
		}
		control.Incarnation = p.Incarnation
	}
	return h.instances().Steer(ctx, i, control)
}

// publish stores a message that is harmless twice.
func (h *host) publish(ctx context.Context, subject string, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = h.store.Publish(ctx, subject, nil, body)
	return err
}

func instance(t *protocol.OutgoingTarget) protocol.Instance {
	return protocol.Instance{Project: t.Project, Shard: t.Shard, Workflow: t.Workflow, ID: t.ID}
}

// concern names what an entry is about: entries about the same thing keep their order.
func concern(o protocol.Outgoing) string {
	switch o.Kind {
	case protocol.OutgoingCreate, protocol.OutgoingEvent, protocol.OutgoingControl:
		return "instance " + instance(o.Instance).String()
	case protocol.OutgoingSchedule:
		return protocol.ScheduleSource(o.Schedule.ID)
	case protocol.OutgoingCancelSchedule:
		return protocol.ScheduleSource(o.Cancel)
	case protocol.OutgoingMail:
		return "mail of " + o.Tell.Agent().String()
	case protocol.OutgoingQueue:
		return protocol.SourceQueue
	case protocol.OutgoingFrames:
		return concernFrames
	}
	return o.ID
}

// describe says what an entry asks for.
func describe(o protocol.Outgoing) string {
	switch o.Kind {
	case protocol.OutgoingCreate:
		return "start of instance " + instance(o.Instance).String()
	case protocol.OutgoingEvent:
		return fmt.Sprintf("event %q to instance %s", o.Event.Type, instance(o.Instance))
	case protocol.OutgoingControl:
		return fmt.Sprintf("%s of instance %s", o.Control.Action, instance(o.Instance))
	case protocol.OutgoingSchedule:
		return fmt.Sprintf("schedule %q", o.Schedule.ID)
	case protocol.OutgoingCancelSchedule:
		return fmt.Sprintf("end of schedule %q", o.Cancel)
	case protocol.OutgoingMail:
		return fmt.Sprintf("mail for %s of agent %q", o.Tell.Mail.Callback, o.Tell.Agent())
	case protocol.OutgoingDead:
		return fmt.Sprintf("dead letter %q", o.ID)
	case protocol.OutgoingQueue:
		return fmt.Sprintf("queue item %q", o.ID)
	case protocol.OutgoingFrames:
		return fmt.Sprintf("batch %q of frames for clients", o.ID)
	case protocol.OutgoingDropDead:
		return fmt.Sprintf("end of dead letter %q", o.DropDead)
	}
	return fmt.Sprintf("entry %q of kind %q", o.ID, o.Kind)
}
