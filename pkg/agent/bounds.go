package agent

import (
	"errors"
	"strconv"
	"time"

	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// bound is an option that says more of a schedule that recurs.
type bound func(*protocol.Schedule) *ScheduleError

func (b bound) applySchedule(o *scheduleOptions) { o.bounds = append(o.bounds, b) }

// From leaves out the moments before t. Those of Every count from t: the first is t itself.
func From(t time.Time) ScheduleOption {
	return bound(func(row *protocol.Schedule) *ScheduleError {
		if t.IsZero() {
			return &ScheduleError{Field: "from", Value: t.String(), Reason: "the moment is not set"}
		}
		row.From = new(t.UTC())
		return nil
	})
}

// Until leaves out the moments after t. When the last one has fired, the schedule is gone.
func Until(t time.Time) ScheduleOption {
	return bound(func(row *protocol.Schedule) *ScheduleError {
		if t.IsZero() {
			return &ScheduleError{Field: "until", Value: t.String(), Reason: "the moment is not set"}
		}
		row.Until = new(t.UTC())
		return nil
	})
}

// Times lets the schedule fire n times; then it is gone.
func Times(n int) ScheduleOption {
	return bound(func(row *protocol.Schedule) *ScheduleError {
		if n < 1 {
			return &ScheduleError{Field: "times", Value: strconv.Itoa(n), Reason: "allowed is 1 and more"}
		}
		row.Times = n
		return nil
	})
}

// Jitter delays each firing by something between nothing and most, but not beyond the next moment: so what is planned for
// the same moment in many agents is spread. The delay of a moment is always the same.
func Jitter(most time.Duration) ScheduleOption {
	return bound(func(row *protocol.Schedule) *ScheduleError {
		if most <= 0 {
			return &ScheduleError{Field: "jitter", Value: most.String(), Reason: "allowed is more than nothing"}
		}
		row.Jitter = protocol.Duration(most)
		return nil
	})
}

// CatchUp says how many moments fire late that passed while no scheduler could serve them: the n oldest, 0 to 1,000, one
// after the other. The others are missed. Without it n is 1: all that passed collapse into one firing. With 0, a moment
// that is more than a minute late does not fire at all.
func CatchUp(n int) ScheduleOption {
	return bound(func(row *protocol.Schedule) *ScheduleError {
		row.CatchUp = &n
		return nil
	})
}

// setBounds applies the options to a row, and checks the whole of it.
func setBounds(row *protocol.Schedule, bounds []bound) error {
	for _, b := range bounds {
		if err := b(row); err != nil {
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
