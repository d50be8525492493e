// Package client is the way in for everybody outside of the engine: it stores what is sent to instances (creates, events
// and controls) and tells whether an instance is there and how it has ended. Bindings and the outboxes of agents go
// through it alike, so that what one is refused the other is refused, too.
//
// It must never write anything but inputs and controls, and it must never read a log: whoever uses another project's
// workflows may not.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Errors about instances.
var (
	// ErrExists is returned for a create whose id is taken.
	ErrExists = errors.New("instance exists")
	// ErrNotFound is returned if there is no such instance, or none any more: it has expired or was deleted.
	ErrNotFound = errors.New("instance not found")
)

// Client reaches the instances of any project through one connection.
type Client struct{ Store *journal.Store }

// Presence is what the create of an instance and the announcements of its end say of it.
type Presence struct {
	// Incarnation is the number by which the instance goes.
	Incarnation uint64
	Create      protocol.Create
	// Done is how it has ended; nil if it has not, or has begun again since.
	Done *protocol.Done
}

// Look reads from the stream's leader whether the instance is there. The error is ErrNotFound if it is not.
func (c Client) Look(ctx context.Context, at protocol.Instance) (Presence, error) {
	m, err := c.Store.Last(ctx, at.Stream(), at.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return Presence{}, ErrNotFound
	}
	if err != nil {
		return Presence{}, err
	}
	p := present(m)
	if p.Done, err = c.end(ctx, at, p.Incarnation); err == nil && p.gone(time.Now()) {
		err = ErrNotFound
	}
	return p, err
}

// present reads a create. One that says nothing is that of an instance that nobody will ever execute.
func present(m *journal.Message) Presence {
	var p Presence
	if json.Unmarshal(m.Data, &p.Create) != nil {
		p.Create = protocol.Create{}
	}
	p.Incarnation = p.Create.Incarnation(m.Sequence)
	return p
}

// gone reports whether readers do not find the instance any more.
func (p Presence) gone(now time.Time) bool {
	return p.Done != nil && (p.Done.State == protocol.StateDeleted || expired(p.Done, now))
}

func expired(done *protocol.Done, now time.Time) bool {
	return done.Expires != nil && !now.Before(*done.Expires)
}

// Send stores an event. Its Input is chosen once per call: a repetition is void.
func (c Client) Send(ctx context.Context, at protocol.Instance, event protocol.Event) error {
	return c.publish(ctx, at.EventSubject(), event)
}

// Steer stores a control. Its Input is chosen once per call: a repetition is void.
func (c Client) Steer(ctx context.Context, at protocol.Instance, control protocol.Control) error {
	return c.publish(ctx, at.ControlSubject(), control)
}

// SteerAfter stores a control if the newest one of the instance is still that at sequence, 0: none. The error is
// journal.ErrConflict if it is not.
func (c Client) SteerAfter(ctx context.Context, at protocol.Instance, sequence uint64, control protocol.Control) error {
	body, err := json.Marshal(control)
	if err != nil {
		return fmt.Errorf("publish to %s: %w", at.ControlSubject(), err)
	}
	_, err = c.Store.Append(ctx, at.Stream(), at.ControlSubject(), sequence, body)
	return err
}

func (c Client) publish(ctx context.Context, subject string, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	_, err = c.Store.Publish(ctx, subject, nil, body)
	return err
}
