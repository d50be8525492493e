package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// UpdateSchedule changes a schedule of the agent when the turn is stored. What no option names stays as it is, and so do the
// id, what it has counted, and a pause. An option that sets a bound takes it away if it has the zero value: Times(0),
// Until(time.Time{}). It reports whether there is such a schedule.
//
// The schedule goes on where it stood. Of what is due already, what fires first still comes, if it is a moment of what the
// schedule is now; moments that are new begin with the update. Every counts as before, from when the schedule was made, or
// From. What is in the agent's inbox comes as it was sent; but one that fires once and is moved to a later moment does not
// come before that. A schedule that recurs cannot become one that fires once, nor the other way round.
//
// In the callback of its last firing a schedule is no more. If one that recurs ends while the turn runs that changes it, by this
// or a pause, the change is refused, and OnError gets a *RefusedError that wraps ErrNoSchedule.
//
// Schedule with what the schedule was made of still returns it, as it is now.
func UpdateSchedule(ctx context.Context, id string, options ...UpdateOption) (bool, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return false, err
	}
	row, err := d.currentSchedule(ctx, id)
	if err != nil {
		return false, fmt.Errorf("read schedule %q: %w", id, err)
	}
	if row == nil {
		return false, nil
	}
	updated, to := *row, *row
	if err := d.update(&to, options); err != nil {
		return true, err
	}
	changed, err := updated.Update(to, d.now())
	if err != nil || !changed {
		return true, err
	}
	if err := d.mayGoOn(ctx, row, &updated); err != nil {
		return true, err
	}
	return true, d.change(func() error {
		if !row.Kind.Recurs() && !updated.At.Equal(*row.At) {
			// A firing of the earlier moment that is on its way has a lower number.
			if err := d.mark(protocol.ScheduleSource(id), firstMark(&updated)); err != nil {
				return &ScheduleError{Field: "count", Value: fmt.Sprint(maxSources), Reason: err.Error()}
			}
		}
		d.put(protocol.Outgoing{Kind: protocol.OutgoingSchedule, Schedule: &updated})
		return nil
	})
}

// UpdateOption says what UpdateSchedule changes: a When, a Retry, what Calling returns, or an option that bounds a schedule.
type UpdateOption interface{ applyUpdate(*scheduleUpdate) }

type scheduleUpdate struct {
	when   []When
	calls  []func(*draft, *protocol.Schedule) error
	retry  *Retry
	bounds []bound
}

func (w When) applyUpdate(u *scheduleUpdate)  { u.when = append(u.when, w) }
func (r Retry) applyUpdate(u *scheduleUpdate) { u.retry = &r }

type calling func(*draft, *protocol.Schedule) error

func (c calling) applyUpdate(u *scheduleUpdate) { u.calls = append(u.calls, c) }

// Calling lets a schedule call another method of the agent, or the same one with another payload.
func Calling[P any](callback func(context.Context, P) error, payload P) UpdateOption {
	return calling(func(d *draft, row *protocol.Schedule) (err error) {
		if row.Callback, err = d.class.callbackName(callback, reflect.TypeFor[P]()); err != nil {
			return err
		}
		row.Payload, err = encodePayload(payload)
		return err
	})
}

func encodePayload[P any](payload P) (json.RawMessage, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return nil, &ScheduleError{Field: "payload", Value: fmt.Sprintf("of type %T", payload), Reason: err.Error()}
	}
	if len(raw) > protocol.MaxPayload {
		return nil, &ScheduleError{Field: "payload", Value: fmt.Sprintf("of type %T", payload),
			Reason: fmt.Sprintf("is %d bytes long as JSON, at most %d are allowed", len(raw), protocol.MaxPayload)}
	}
	return raw, nil
}

// update applies options to a row, and checks the whole of it.
func (d *draft) update(row *protocol.Schedule, options []UpdateOption) error {
	var u scheduleUpdate
	for _, option := range options {
		option.applyUpdate(&u)
	}
	switch {
	case len(u.when) > 1:
		return &ScheduleError{Field: "when", Value: "given twice", Reason: "one is allowed"}
	case len(u.calls) > 1:
		return &ScheduleError{Field: "callback", Value: "given twice", Reason: "one is allowed"}
	case len(u.when) == 1:
		if err := u.when[0].replace(row, d.now()); err != nil {
			return err
		}
	}
	for _, call := range u.calls {
		if err := call(d, row); err != nil {
			return err
		}
	}
	if u.retry != nil {
		if err := u.retry.check(d.class.retry); err != nil {
			return err
		}
		row.Retry = u.retry.stored()
	}
	return setBounds(row, u.bounds, true)
}

// replace puts the moments of w in the place of those of a row.
func (w When) replace(row *protocol.Schedule, now time.Time) error {
	if w.kind != "" && w.kind.Recurs() != row.Kind.Recurs() {
		return &ScheduleError{Field: "when", Value: string(w.kind),
			Reason: fmt.Sprintf("the schedule is a %s: one that fires once cannot become one that recurs, nor the other way round", row.Kind)}
	}
	// A delay counts from now, whatever the schedule is made of.
	moved := protocol.Schedule{Created: now.UTC()}
	if err := w.resolve(&moved); err != nil {
		return err
	}
	row.Kind, row.At, row.Cron, row.Lines, row.Zone, row.Interval = w.kind, moved.At, moved.Cron, moved.Lines, moved.Zone, moved.Interval
	return nil
}

// mayGoOn refuses an update that leaves a schedule no moment.
func (d *draft) mayGoOn(ctx context.Context, row, updated *protocol.Schedule) error {
	if !updated.Kind.Recurs() {
		return nil
	}
	plan, err := moments.Of(updated)
	if err != nil {
		return err
	}
	if updated.Until != nil && plan.After(d.now()).IsZero() {
		return &ScheduleError{Field: "until", Value: updated.Until.Format(time.RFC3339), Reason: "leaves no moment to fire at"}
	}
	if updated.Times == 0 || updated.Times == row.Times {
		return nil
	}
	tasks := []Task{{ID: updated.ID, Kind: updated.Kind}}
	if err := d.addProgress(ctx, tasks); err != nil {
		return fmt.Errorf("read schedule %q: %w", updated.ID, err)
	}
	if runs := tasks[0].Runs; runs >= updated.Times {
		return &ScheduleError{Field: "times", Value: strconv.Itoa(updated.Times),
			Reason: fmt.Sprintf("it has fired %d times: allowed is more than that; CancelSchedule ends it", runs)}
	}
	return nil
}
