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

	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
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
type Client struct {
	Store *journal.Store
	// Doors lead to projects that have an account of their own. Nil: every project is reached directly.
	Doors *door.Caller
	// Objects has the large values that this project keeps until they are handed over at a door. Nil: there are none.
	Objects *objects.Store
}

// Presence is what the create of an instance and the announcements of its end say of it.
type Presence struct {
	// Incarnation is the number by which the instance goes.
	Incarnation uint64
	// Create is the create; behind a door only its Input is known.
	Create protocol.Create
	// Done is how it has ended; nil if it has not, or has begun again since.
	Done *protocol.Done
}

// Look reads from the stream's leader whether the instance is there. The error is ErrNotFound if it is not.
func (c Client) Look(ctx context.Context, at protocol.Instance) (Presence, error) {
	behind, err := c.behind(ctx, at)
	if err != nil {
		return Presence{}, err
	}
	if behind {
		return c.lookBehind(ctx, at)
	}
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

// Send stores an event. Its Input is chosen once per call: a repetition is void. Behind a door the error is ErrNotFound if the
// instance is not there.
func (c Client) Send(ctx context.Context, at protocol.Instance, event protocol.Event) error {
	behind, err := c.behind(ctx, at)
	if err != nil {
		return err
	}
	if behind {
		return c.sendBehind(ctx, at, event)
	}
	return c.publish(ctx, at.EventSubject(), event)
}

// Steer stores a control. Its Input is chosen once per call: a repetition is void. Behind a door the error is ErrNotFound if
// the instance is not there.
func (c Client) Steer(ctx context.Context, at protocol.Instance, control protocol.Control) error {
	behind, err := c.behind(ctx, at)
	if err != nil {
		return err
	}
	if behind {
		_, err := c.say(ctx, at, protocol.DoorOpControl, protocol.DoorRequest{Control: &control})
		return err
	}
	return c.publish(ctx, at.ControlSubject(), control)
}

// SteerAfter stores a control of an instance of the own project if the newest one is still that at sequence, 0: none. The
// error is journal.ErrConflict if it is not.
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
