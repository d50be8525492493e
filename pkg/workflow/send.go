package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// SendOption is an option of SendEvent.
type SendOption interface{ applySend(*protocol.Event) error }

// EventID names an event: of several that have the same id, an instance takes the first. At most MaxEventID bytes. Use
// what names the fact that the event tells of, as the id of a payment, or in the body of a step its idempotency key.
// Without it every call sends an event of its own.
func EventID(id string) EventIDOption { return EventIDOption(id) }

// EventIDOption is made by [EventID].
type EventIDOption string

func (e EventIDOption) applySend(event *protocol.Event) error {
	event.Input = string(e)
	return protocol.CheckEventID(event.Input)
}

// SendEvent sends an event to the instance: its oldest wait for the type takes it, now or later. The payload travels
// as JSON of at most max_value_size. It returns when the event is durable; in an agent's turn the event is part of the turn's
// commit. The error is a [*FinishedError] if the instance has ended, a [*NotFoundError] if it is gone.
func (i *Instance[R]) SendEvent(ctx context.Context, eventType string, payload any, options ...SendOption) error {
	event := protocol.Event{V: protocol.Version, Input: uuid.NewString(), Type: eventType, Sent: time.Now().UTC()}
	if err := protocol.CheckEventType(eventType); err != nil {
		return err
	}
	for _, option := range options {
		if err := option.applySend(&event); err != nil {
			return err
		}
	}
	raw, err := encode(payload, fmt.Sprintf("payload of event %q", eventType), maxValue(i.project))
	if err != nil {
		return err
	}
	if err := i.send(ctx, event, raw); err != nil {
		return fmt.Errorf("send event %q to instance %s: %w", eventType, i.at, err)
	}
	return nil
}

func (i *Instance[R]) send(ctx context.Context, event protocol.Event, payload json.RawMessage) error {
	if err := betweenSteps(ctx); err != nil {
		return err
	}
	create := i.draft(ctx).Create
	if create == nil {
		p, err := i.lookIfThere(ctx)
		if err != nil {
			return err
		}
		if p.Done != nil {
			return &FinishedError{Workflow: i.at.Workflow, ID: i.at.ID, State: p.Done.State}
		}
		create = &p.Create
	}
	ctx = journal.Refusing(ctx)
	owner := protocol.OwnerOf(i.at, create.Input)
	if create.Input == "" { // whose it is turns out when it is handed over
		owner = protocol.OwnerOf(i.at, event.Input)
	}
	var err error
	event.Payload, event.PayloadObject, err = fit(ctx, i.project, owner, payload)
	if err != nil {
		return err
	}
	if t, ok := turn.From(ctx); ok {
		return t.SendEvent(i.at, event)
	}
	return i.client().Send(ctx, i.at, event)
}
