package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cronline"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// When says at which moments a schedule fires. After, At, Cron, CronLines and Every make one; the zero When is refused.
type When struct {
	kind  protocol.ScheduleKind
	delay time.Duration
	at    time.Time
	lines []string
	zones []string
}

// After fires once, when the delay has passed since Schedule was called.
func After(delay time.Duration) When { return When{kind: protocol.ScheduleDelay, delay: delay} }

// At fires once, at the moment, or at once if it has passed.
func At(moment time.Time) When { return When{kind: protocol.ScheduleDate, at: moment} }

// Cron fires at every moment of the line: five fields (minute, hour, day of month, month, day of week), six with
// seconds first, or a descriptor like "@hourly". The zone is an IANA name such as "Europe/Oslo"; without one it is UTC.
//
// Among the days of a month, L is the last one. If both the day of month and the day of week are named, one of them is
// enough. Where the zone's clock is changed, a line that names its hours fires once for each of its times: if the clock
// skips it, at the first moment after the change (several of them then are one firing), and if the clock shows it twice,
// the first time. A line of every hour fires whenever the clock shows one of its times.
func Cron(line string, zone ...string) When {
	return When{kind: protocol.ScheduleCron, lines: []string{line}, zones: zone}
}

// CronLines fires at every moment of each line, once where moments of several lines are one. Up to 32 lines.
func CronLines(lines []string, zone ...string) When {
	return When{kind: protocol.ScheduleCron, lines: slices.Clone(lines), zones: zone}
}

// Every fires again and again: an interval after Schedule was called, and then after every further one. It keeps to that
// plan however late a firing is; moments that passed while no scheduler ran collapse into one. The interval is 1 s to 365
// days.
func Every(interval time.Duration) When {
	return When{kind: protocol.ScheduleInterval, delay: interval}
}

// Task is a schedule of an agent.
type Task struct {
	// ID is what CancelSchedule takes.
	ID       string                `json:"id"`
	Kind     protocol.ScheduleKind `json:"kind"`
	Callback string                `json:"callback"`
	Payload  json.RawMessage       `json:"payload,omitempty"`
	Cron     string                `json:"cron,omitempty"`
	// Lines come in place of Cron if there are several.
	Lines    []string          `json:"lines,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Interval protocol.Duration `json:"interval,omitempty"`
	// From, Until, Times, Jitter, CatchUp and Overlap are what the options of that name have said.
	From    *time.Time        `json:"from,omitempty"`
	Until   *time.Time        `json:"until,omitempty"`
	Times   int               `json:"times,omitempty"`
	Jitter  protocol.Duration `json:"jitter,omitempty"`
	CatchUp *int              `json:"catch_up,omitempty"`
	Overlap Overlap           `json:"overlap,omitempty"`
	// Paused is set while it does not fire; then Next is zero.
	Paused *protocol.Pause `json:"paused,omitempty"`
	// Created is when it was made, Next the next moment. Both are zero if it has fired for the last time and the firing
	// is on its way to the agent.
	Created time.Time `json:"created"`
	Next    time.Time `json:"next,omitzero"`
	// Last is the moment that fired last; zero if none has. Runs counts firings, and Missed moments that did not fire
	// because no scheduler could serve them in time: up to 1,000 at a time. Skipped counts those that did not because of
	// Overlap. Only lists tell these.
	Last    time.Time `json:"last,omitzero"`
	Runs    int       `json:"runs"`
	Missed  int       `json:"missed"`
	Skipped int       `json:"skipped"`
}

// Schedule calls the callback with the payload at the moments of when, each in a turn of its own. The callback is a
// method value of the agent, such as a.RunWorkflow: it is stored by the method's name, so closures are refused.
//
// The schedule exists when the turn is stored. A schedule that recurs is known by its callback, line and zone or interval,
// and payload: scheduling it again returns the one there is, whatever its other options are, unless Idempotent(false) is
// given. One that fires once is another one each time, unless Idempotent(true) is given: then it is known by callback and
// payload.
func Schedule[P any](ctx context.Context, when When, callback func(context.Context, P) error, payload P, options ...ScheduleOption) (Task, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return Task{}, err
	}
	var o scheduleOptions
	for _, option := range options {
		option.applySchedule(&o)
	}
	if o.idempotent == nil {
		o.idempotent = new(Idempotent(when.kind.Recurs()))
	}
	if err := o.retry.check(d.class.retry); err != nil {
		return Task{}, err
	}
	name, err := d.class.callbackName(callback, reflect.TypeFor[P]())
	if err != nil {
		return Task{}, err
	}
	raw, err := encodePayload(payload)
	if err != nil {
		return Task{}, err
	}
	row := protocol.Schedule{
		V: protocol.Version, Class: d.agent.Class, Name: d.agent.Name, Life: d.stored.Life,
		Kind: when.kind, Callback: name, Payload: raw, Retry: o.retry.stored(), Created: d.now().UTC(),
	}
	if err := when.resolve(&row); err != nil {
		return Task{}, err
	}
	if err := setBounds(&row, o.bounds, false); err != nil {
		return Task{}, err
	}
	exists, err := d.schedule(&row, bool(*o.idempotent))
	if err != nil {
		return Task{}, err
	}
	if !exists {
		return taskOf(&row, row.Created), nil
	}
	return d.task(ctx, row.ID, row.Kind, name)
}

// ScheduleOption is an option of Schedule.
type ScheduleOption interface{ applySchedule(*scheduleOptions) }

type scheduleOptions struct {
	retry      Retry
	idempotent *Idempotent
	bounds     []bound
}

// Idempotent says whether scheduling the same again returns the schedule there is.
type Idempotent bool

func (i Idempotent) applySchedule(o *scheduleOptions) { o.idempotent = &i }

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

// resolve fills in the row's moments.
func (w When) resolve(row *protocol.Schedule) error {
	switch w.kind {
	case protocol.ScheduleDelay:
		if w.delay < 0 {
			return &ScheduleError{Field: "when", Value: w.delay.String(), Reason: "a delay must not be negative"}
		}
		return setMoment(row, row.Created.Add(w.delay))
	case protocol.ScheduleDate:
		if w.at.IsZero() {
			return &ScheduleError{Field: "when", Value: w.at.String(), Reason: "the moment is not set"}
		}
		return setMoment(row, w.at.UTC())
	case protocol.ScheduleCron:
		return w.resolveCron(row)
	case protocol.ScheduleInterval:
		if w.delay < protocol.MinInterval || w.delay > protocol.MaxInterval {
			return &ScheduleError{Field: "when", Value: w.delay.String(), Reason: "an interval must be 1s to 365 days long"}
		}
		row.Interval = protocol.Duration(w.delay)
		return nil
	}
	return &ScheduleError{Field: "when", Value: "zero", Reason: "wanted is agent.After, agent.At, agent.Cron or agent.Every"}
}

// lastMoment is the latest that can be armed: the server counts nanoseconds in 64 bits.
var lastMoment = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func setMoment(row *protocol.Schedule, at time.Time) error {
	if at.After(lastMoment) {
		return &ScheduleError{Field: "when", Value: at.Format(time.RFC3339), Reason: "allowed is before 2200-01-01"}
	}
	row.At = &at
	return nil
}

func (w When) resolveCron(row *protocol.Schedule) error {
	if len(w.zones) > 1 {
		return &ScheduleError{Field: "when", Value: fmt.Sprintf("%q", w.zones), Reason: "one time zone at most is allowed"}
	}
	if len(w.zones) == 1 {
		row.Zone = w.zones[0]
	}
	lines, plain := make([]string, len(w.lines)), make([]string, len(w.lines))
	for i, line := range w.lines {
		lines[i], plain[i] = strings.TrimSpace(line), strings.Join(strings.Fields(line), " ")
	}
	if len(plain) == 1 {
		row.Cron = plain[0]
	} else {
		row.Lines = plain
	}
	_, err := cronline.Parse(row.Zone, lines...)
	if refused, ok := errors.AsType[*cronline.LineError](err); ok {
		value := fmt.Sprintf("%q", refused.Line)
		if row.Zone != "" {
			value += fmt.Sprintf(" in time zone %q", row.Zone)
		}
		return &ScheduleError{Field: "when", Value: value, Reason: refused.Explain()}
	}
	return err
}

// Prefixes of the ids of schedules. Those that fire once have none, or oncePrefix.
const (
	cronPrefix     = "cron-"
	intervalPrefix = "every-"
	oncePrefix     = "once-"
)

// schedulePrefix begins the ids of schedules of a kind that derive from what the schedule is.
func schedulePrefix(kind protocol.ScheduleKind) string {
	switch kind {
	case protocol.ScheduleCron:
		return cronPrefix
	case protocol.ScheduleInterval:
		return intervalPrefix
	}
	return oncePrefix
}

// firesOnce reports whether the schedule of an id is over when it has fired.
func firesOnce(id string) bool {
	return !strings.HasPrefix(id, cronPrefix) && !strings.HasPrefix(id, intervalPrefix)
}

// digestID derives the id from what the schedule is, so that the same one is one schedule however often it is made.
func digestID(row *protocol.Schedule) string {
	parts := []string{row.Callback, strings.Join(moments.Lines(row), "\n"), row.Zone, string(row.Payload)}
	switch row.Kind {
	case protocol.ScheduleInterval:
		parts = []string{row.Callback, time.Duration(row.Interval).String(), string(row.Payload)}
	case protocol.ScheduleDelay, protocol.ScheduleDate:
		parts = []string{row.Callback, string(row.Payload)}
	}
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return schedulePrefix(row.Kind) + hex.EncodeToString(h.Sum(nil)[:12])
}

// schedule drafts the row and gives it its id, unless the schedule exists.
func (d *draft) schedule(row *protocol.Schedule, idempotent bool) (exists bool, err error) {
	err = d.change(func() error {
		switch {
		case idempotent:
			row.ID = digestID(row)
		case row.Kind.Recurs():
			row.ID = schedulePrefix(row.Kind) + d.nextID()
		default:
			row.ID = d.nextID()
		}
		source := protocol.ScheduleSource(row.ID)
		if _, exists = d.applied(source); exists {
			return nil
		}
		if err := d.mark(source, firstMark(row)); err != nil {
			return &ScheduleError{Field: "count", Value: fmt.Sprint(maxSources), Reason: err.Error()}
		}
		d.put(protocol.Outgoing{Kind: protocol.OutgoingSchedule, Schedule: row})
		return nil
	})
	return exists, err
}

// firstMark is the mark of a schedule that is made. It is below all firings to come and not below those of an earlier
// schedule of the same id, which may still be on their way.
func firstMark(row *protocol.Schedule) uint64 {
	if row.Kind.Recurs() {
		return protocol.FiringNumber(row.Created)
	}
	return protocol.FiringNumber(*row.At) - 1
}

// dropSchedule drafts that a schedule is no more. The draft is locked.
func (d *draft) dropSchedule(id string) {
	d.forget(protocol.ScheduleSource(id))
	d.put(protocol.Outgoing{Kind: protocol.OutgoingCancelSchedule, Cancel: id})
}
