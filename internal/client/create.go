package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Outcome says what a create came to.
type Outcome int

// Outcomes of a create.
const (
	// Created: the instance is new.
	Created Outcome = iota
	// Found: the instance was there.
	Found
	// Restarted: the instance was there and begins again.
	Restarted
)

// Create stores the create of an instance and returns the number by which the instance goes that has the id now. Finding
// one that this very create has made is a success, so it may be called again after an error. If the id is taken, it does
// what existing says; ErrExists is the error of protocol.ExistingFail.
//
// The id of an instance that has expired is free: a runner of the project is told to delete the instance, and the create
// waits for that. So it does for an instance that was told to be deleted.
func (c Client) Create(ctx context.Context, at protocol.Instance, create protocol.Create, existing protocol.Existing) (Outcome, uint64, error) {
	behind, err := c.behind(ctx, at)
	if err != nil {
		return Created, 0, err
	}
	if behind {
		return c.createBehind(ctx, at, create, existing)
	}
	body, err := json.Marshal(create)
	if err != nil {
		return Created, 0, err
	}
	for wait := firstPoll; ; wait = min(2*wait, maxPoll) {
		sequence, err := c.Store.Append(ctx, at.Stream(), at.CreateSubject(), 0, body)
		conflict, ok := errors.AsType[*journal.ConflictError](err)
		if !ok {
			return Created, sequence, err
		}
		if conflict.Tail == nil {
			continue // it went in this moment
		}
		there := present(conflict.Tail)
		if there.Create.Input == create.Input {
			return Created, there.Incarnation, nil
		}
		if there.Done, err = c.end(ctx, at, there.Incarnation); err != nil {
			return Found, 0, err
		}
		leaving := there.gone(time.Now())
		if leaving && (wait == firstPoll || wait == maxPoll) {
			err = c.clear(ctx, at, there, create)
		} else if !leaving {
			leaving, err = c.doomed(ctx, at, there.Incarnation)
		}
		if err != nil {
			return Found, 0, err
		}
		if !leaving {
			still, err := c.holds(ctx, at, conflict.Tail.Sequence)
			switch {
			case err != nil:
				return Found, 0, err
			case still:
				return c.taken(ctx, at, there, create, existing)
			}
			continue // it went while it was looked at, and what asked for that with it
		}
		if err := ctxtime.Sleep(ctx, wait); err != nil {
			return Found, 0, fmt.Errorf("wait until the instance is deleted that had the id: %w", err)
		}
	}
}

// clear tells an instance to go that has expired: unless it has begun again at the last moment.
func (c Client) clear(ctx context.Context, at protocol.Instance, there Presence, create protocol.Create) error {
	if there.Done.State == protocol.StateDeleted {
		return nil
	}
	return c.Steer(ctx, at, protocol.Control{
		V: protocol.Version, Input: uuid.NewString(), Action: protocol.ActionDelete, Sent: time.Now().UTC(), Source: create.Source,
		Incarnation: there.Incarnation, Expired: true,
	})
}

// doomed reports whether the newest control asks to delete the instance.
func (c Client) doomed(ctx context.Context, at protocol.Instance, incarnation uint64) (bool, error) {
	m, err := c.Store.Last(ctx, at.Stream(), at.ControlSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	control, ok := readControl(m, incarnation)
	return ok && control.Action == protocol.ActionDelete && !control.Expired, nil
}

// holds reports whether the id still is that of the create at sequence. Deleting an instance removes its create first: if
// that is there, so was the control that asks for it, when it was looked for.
func (c Client) holds(ctx context.Context, at protocol.Instance, sequence uint64) (bool, error) {
	m, err := c.Store.Last(ctx, at.Stream(), at.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return false, nil
	}
	return err == nil && m.Sequence == sequence, err
}

// taken does what a create wants if its id is that of another instance.
func (c Client) taken(
	ctx context.Context, at protocol.Instance, there Presence, create protocol.Create, existing protocol.Existing,
) (Outcome, uint64, error) {
	switch existing {
	case protocol.ExistingReturn:
		return Found, there.Incarnation, nil
	case protocol.ExistingRestart:
		return Restarted, there.Incarnation, c.Steer(ctx, at, Restart(create, there.Incarnation))
	}
	return Found, there.Incarnation, ErrExists
}

// Restart is the control by which a create lets the instance that has its id begin again.
func Restart(create protocol.Create, incarnation uint64) protocol.Control {
	return protocol.Control{
		V: protocol.Version, Input: create.Input + "/restart", Action: protocol.ActionRestart, Sent: time.Now().UTC(),
		Source: create.Source, Incarnation: incarnation,
	}
}
