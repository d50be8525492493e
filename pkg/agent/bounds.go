package agent

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// BoundOption is an option of Schedule and UpdateSchedule that says more of a schedule that recurs.
type BoundOption interface {
	ScheduleOption
	UpdateOption
}

// bound sets a bound, or takes it away if it has the zero value and lift is true.
type bound func(row *protocol.Schedule, lift bool) *ScheduleError

func (b bound) applySchedule(o *scheduleOptions) { o.bounds = append(o.bounds, b) }

func (b bound) applyUpdate(u *scheduleUpdate) { u.bounds = append(u.bounds, b) }

// From leaves out the moments before t. Those of Every count from t: the first is t itself.
func From(t time.Time) BoundOption {
	return bound(func(row *protocol.Schedule, lift bool) *ScheduleError {
		return setBound(&row.From, "from", t, lift)
	})
}

// Until leaves out the moments after t. When the last one has fired, the schedule is gone.
func Until(t time.Time) BoundOption {
	return bound(func(row *protocol.Schedule, lift bool) *ScheduleError {
		return setBound(&row.Until, "until", t, lift)
	})
}

// Times lets the schedule fire n times; then it is gone.
func Times(n int) BoundOption {
	return bound(func(row *protocol.Schedule, lift bool) *ScheduleError {
		if n < 1 && !(lift && n == 0) {
			return &ScheduleError{Field: "times", Value: strconv.Itoa(n), Reason: fmt.Sprintf("allowed are 1 to %d", protocol.MaxTimes)}
		}
		row.Times = n
		return nil
	})
}

// Jitter delays each firing by something between nothing and most, but not beyond the next moment: so what is planned for
// the same moment in many agents is spread. The delay of a moment is always the same.
func Jitter(most time.Duration) BoundOption {
	return bound(func(row *protocol.Schedule, lift bool) *ScheduleError {
		if most <= 0 && !(lift && most == 0) {
			return &ScheduleError{Field: "jitter", Value: most.String(), Reason: "allowed is more than nothing, up to 365 days"}
		}
		row.Jitter = protocol.Duration(most)
		return nil
	})
}

// CatchUp says how many moments fire late that passed while no scheduler could serve them: the n oldest, 0 to 1,000, one
// after the other. The others are missed. Without it n is 1: all that passed collapse into one firing. With 0, a moment
// that is more than a minute late does not fire at all.
func CatchUp(n int) BoundOption {
	return bound(func(row *protocol.Schedule, lift bool) *ScheduleError {
		if row.CatchUp = &n; lift && n == 1 {
			row.CatchUp = nil
		}
		return nil
	})
}

func setBound(to **time.Time, field string, t time.Time, lift bool) *ScheduleError {
	switch {
	case !t.IsZero():
		*to = new(t.UTC())
	case lift:
		*to = nil
	default:
		return &ScheduleError{Field: field, Value: t.String(), Reason: "the moment is not set"}
	}
	return nil
}

// setBounds applies the options to a row, and checks the whole of it. If lift is true, zero values take bounds away.
func setBounds(row *protocol.Schedule, bounds []bound, lift bool) error {
	for _, b := range bounds {
		if err := b(row, lift); err != nil {
			return err
		}
	}
	row.SetVersion()
	_, err := moments.Of(row)
	if refused, ok := errors.AsType[*moments.FieldError](err); ok {
		return &ScheduleError{Field: refused.Field, Value: refused.Value, Reason: refused.Reason}
	}
	return err
}
