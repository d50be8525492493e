package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cronline"
	"github.com/skein-run/skein/pkg/protocol"
)

// When says at which moments a schedule fires. After, At and Cron make one; the zero When is refused.
type When struct {
	kind  protocol.ScheduleKind
	delay time.Duration
	at    time.Time
	line  string
	zones []string
}

// After fires once, when the delay has passed since Schedule was called.
func After(delay time.Duration) When { return When{kind: protocol.ScheduleDelay, delay: delay} }

// At fires once, at the moment, or at once if it has passed.
func At(moment time.Time) When { return When{kind: protocol.ScheduleDate, at: moment} }

// Cron fires at every moment of the line: five fields (minute, hour, day of month, month, day of week), six with
// seconds first, or a descriptor like "@hourly". The zone is an IANA name such as "Europe/Oslo"; without one it is UTC.
func Cron(line string, zone ...string) When {
	return When{kind: protocol.ScheduleCron, line: line, zones: zone}
}

// Task is a schedule as Schedule made it.
type Task struct {
	// ID is what CancelSchedule takes.
	ID       string                `json:"id"`
	Kind     protocol.ScheduleKind `json:"kind"`
	Callback string                `json:"callback"`
	Cron     string                `json:"cron,omitempty"`
	Zone     string                `json:"zone,omitempty"`
	// Next is the first moment.
	Next time.Time `json:"next"`
}

// Schedule calls the callback with the payload at the moments of when, each in a turn of its own. The callback is a
// method value of the agent, such as a.RunWorkflow: it is stored by the method's name, so closures are refused.
//
// The schedule exists when the turn is stored. A cron schedule is known by its callback, line, zone and payload:
// scheduling it again returns the one there is.
func Schedule[P any](ctx context.Context, when When, callback func(context.Context, P) error, payload P, options ...ScheduleOption) (Task, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return Task{}, err
	}
	var o scheduleOptions
	for _, option := range options {
		option.applySchedule(&o)
	}
	if err := o.retry.check(d.class.retry); err != nil {
		return Task{}, err
	}
	name, err := d.class.callbackName(callback, reflect.TypeFor[P]())
	if err != nil {
		return Task{}, err
	}
	raw, err := json.Marshal(payload)
	if err != nil {
		return Task{}, &ScheduleError{Field: "payload", Value: fmt.Sprintf("of type %T", payload), Reason: err.Error()}
	}
	if len(raw) > protocol.MaxPayload {
		return Task{}, &ScheduleError{Field: "payload", Value: fmt.Sprintf("of type %T", payload),
			Reason: fmt.Sprintf("is %d bytes long as JSON, at most %d are allowed", len(raw), protocol.MaxPayload)}
	}
	row := protocol.Schedule{
		V: protocol.Version, Class: d.agent.Class, Name: d.agent.Name, Life: d.stored.Life,
		Kind: when.kind, Callback: name, Payload: raw, Retry: o.retry.stored(), Created: time.Now().UTC(),
	}
	next, err := when.resolve(&row)
	if err != nil {
		return Task{}, err
	}
	if err := d.schedule(&row); err != nil {
		return Task{}, err
	}
	return Task{ID: row.ID, Kind: row.Kind, Callback: row.Callback, Cron: row.Cron, Zone: row.Zone, Next: next}, nil
}

// ScheduleOption is an option of Schedule.
type ScheduleOption interface{ applySchedule(*scheduleOptions) }

type scheduleOptions struct{ retry Retry }

func (r Retry) applySchedule(o *scheduleOptions) { o.retry = r }

// CancelSchedule cancels a schedule of the agent when the turn is stored: from then on none of its firings is applied,
// also none that is on its way. It reports whether there is such a schedule; one that fired once for all is gone.
func CancelSchedule(ctx context.Context, id string) (bool, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return false, err
	}
	found := false
	err = d.change(func() error {
		if _, found = d.applied(protocol.ScheduleSource(id)); found {
			d.dropSchedule(id)
		}
		return nil
	})
	return found, err
}

// resolve fills in the row's moments and returns the first one.
func (w When) resolve(row *protocol.Schedule) (time.Time, error) {
	switch w.kind {
	case protocol.ScheduleDelay:
		if w.delay < 0 {
			return time.Time{}, &ScheduleError{Field: "when", Value: w.delay.String(), Reason: "a delay must not be negative"}
		}
		return setMoment(row, row.Created.Add(w.delay))
	case protocol.ScheduleDate:
		if w.at.IsZero() {
			return time.Time{}, &ScheduleError{Field: "when", Value: w.at.String(), Reason: "the moment is not set"}
		}
		return setMoment(row, w.at.UTC())
	case protocol.ScheduleCron:
		return w.resolveCron(row)
	}
	return time.Time{}, &ScheduleError{Field: "when", Value: "zero", Reason: "wanted is agent.After, agent.At or agent.Cron"}
}

// lastMoment is the latest that can be armed: the server counts nanoseconds in 64 bits.
var lastMoment = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func setMoment(row *protocol.Schedule, at time.Time) (time.Time, error) {
	if at.After(lastMoment) {
		return time.Time{}, &ScheduleError{Field: "when", Value: at.Format(time.RFC3339), Reason: "allowed is before 2200-01-01"}
	}
	row.At = &at
	return at, nil
}

func (w When) resolveCron(row *protocol.Schedule) (time.Time, error) {
	if len(w.zones) > 1 {
		return time.Time{}, &ScheduleError{Field: "when", Value: fmt.Sprintf("%q", w.zones), Reason: "one time zone at most is allowed"}
	}
	row.Cron = strings.Join(strings.Fields(w.line), " ")
	if len(w.zones) == 1 {
		row.Zone = w.zones[0]
	}
	line, err := cronline.Parse(row.Cron, row.Zone)
	if refused, ok := errors.AsType[*cronline.LineError](err); ok {
		value := fmt.Sprintf("%q", w.line)
		if row.Zone != "" {
			value += fmt.Sprintf(" in time zone %q", row.Zone)
		}
		return time.Time{}, &ScheduleError{Field: "when", Value: value, Reason: refused.Reason}
	}
	if err != nil {
		return time.Time{}, err
	}
	row.ID = cronID(row)
	return line.Next(row.Created), nil
}

// cronPrefix tells the ids of cron schedules from those of schedules that fire once.
const cronPrefix = "cron-"

// cronID derives the id from what the schedule is, so that the same one is one schedule however often it is made.
func cronID(row *protocol.Schedule) string {
	h := sha256.New()
	for _, part := range []string{row.Callback, row.Cron, row.Zone, string(row.Payload)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return cronPrefix + hex.EncodeToString(h.Sum(nil)[:12])
}

// firesOnce reports whether the schedule of an id is over when it has fired.
func firesOnce(id string) bool { return !strings.HasPrefix(id, cronPrefix) }

// schedule drafts the row, unless the schedule exists. It sets the id of a row that has none.
func (d *draft) schedule(row *protocol.Schedule) error {
	return d.change(func() error {
		if row.ID == "" {
			row.ID = d.nextID()
		}
		source := protocol.ScheduleSource(row.ID)
		if _, exists := d.applied(source); exists {
			return nil
		}
		if err := d.mark(source, 0); err != nil {
			return err
		}
		d.put(protocol.Outgoing{Kind: protocol.OutgoingSchedule, Schedule: row})
		return nil
	})
}

// dropSchedule drafts that a schedule is no more. The draft is locked.
func (d *draft) dropSchedule(id string) {
	d.forget(protocol.ScheduleSource(id))
	d.put(protocol.Outgoing{Kind: protocol.OutgoingCancelSchedule, Cancel: id})
}
