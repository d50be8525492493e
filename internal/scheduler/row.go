package scheduler

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/cronline"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// RowError says why a row can never fire. Waiting does not mend it: only another row does.
type RowError struct {
	// Field is the row's field as JSON names it, Value what it holds; both are empty if the row is no JSON.
	Field, Value string
	// Reason says what is wrong with it and what is allowed.
	Reason string
}

func (e *RowError) Error() string {
	if e.Field == "" {
		return "schedule row: " + e.Reason
	}
	return fmt.Sprintf("schedule row: %s %q: %s", e.Field, e.Value, e.Reason)
}

// errNewerRow is returned for a row that a newer program wrote: a newer scheduler will know what it means.
var errNewerRow = errors.New("schedule row is of a newer version than this program knows")

// lastMoment is the latest that can be armed: the server counts nanoseconds in 64 bits.
var lastMoment = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// row is a schedule that can be armed.
type row struct {
	protocol.Schedule
	// revision is the sequence of the row, definition a digest of its content.
	revision   uint64
	definition string
	// plan is set if Kind is cron.
	plan cronline.Plan
}

// parseRow reads the newest message of a row's subject. It returns nil if the row is deleted, and a *RowError if it
// can never fire.
func parseRow(k key, m *journal.Message) (*row, error) {
	if m.Header.Get(protocol.HeaderKVOperation) != "" || len(m.Data) == 0 {
		return nil, nil
	}
	digest := sha256.Sum256(m.Data)
	r := &row{revision: m.Sequence, definition: hex.EncodeToString(digest[:8])}
	if err := json.Unmarshal(m.Data, &r.Schedule); err != nil {
		return nil, &RowError{Reason: err.Error()}
	}
	if r.V > protocol.Version {
		return nil, fmt.Errorf("%w: it has version %d, known is %d", errNewerRow, r.V, protocol.Version)
	}
	if err := r.check(k); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *row) check(k key) error {
	switch {
	case r.Class != k.agent.Class:
		return &RowError{"class", r.Class, fmt.Sprintf("its key says %q", k.agent.Class)}
	case r.Name != k.agent.Name:
		return &RowError{"name", r.Name, fmt.Sprintf("its key says %q", k.agent.Name)}
	case r.ID != k.id:
		return &RowError{"id", r.ID, fmt.Sprintf("its key says %q", k.id)}
	case r.Callback == "":
		return &RowError{"callback", "", "is empty"}
	case r.Created.IsZero():
		return &RowError{"created", "", "is missing"}
	case r.Created.After(lastMoment):
		return &RowError{"created", r.Created.Format(time.RFC3339), "allowed is before " + lastMoment.Format(time.DateOnly)}
	}
	switch r.Kind {
	case protocol.ScheduleDelay, protocol.ScheduleDate:
		return r.checkMoment()
	case protocol.ScheduleCron:
		return r.parseLines()
	case protocol.ScheduleInterval:
		if d := time.Duration(r.Interval); d < protocol.MinInterval || d > protocol.MaxInterval {
			return &RowError{"interval", d.String(), "allowed is 1s to 365 days"}
		}
		return nil
	}
	return &RowError{"kind", string(r.Kind), fmt.Sprintf("allowed are %q, %q, %q and %q",
		protocol.ScheduleDelay, protocol.ScheduleDate, protocol.ScheduleCron, protocol.ScheduleInterval)}
}

func (r *row) checkMoment() error {
	if r.At == nil || r.At.IsZero() {
		return &RowError{"at", "", fmt.Sprintf("a %s needs a moment", r.Kind)}
	}
	if r.At.After(lastMoment) {
		return &RowError{"at", r.At.Format(time.RFC3339), "allowed is before " + lastMoment.Format(time.DateOnly)}
	}
	return nil
}

func (r *row) parseLines() error {
	plan, err := cronline.Stored(r.Zone, r.Cron)
	if refused, ok := errors.AsType[*cronline.LineError](err); ok {
		return &RowError{"cron", r.Cron, refused.Error()}
	}
	r.plan = plan.From(r.Created)
	return err
}

// first is the moment at which the schedule fires if it never did. It may have passed.
func (r *row) first() time.Time {
	switch r.Kind {
	case protocol.ScheduleCron:
		return r.plan.Next(r.Created)
	case protocol.ScheduleInterval:
		return r.NextInterval(r.Created)
	}
	return *r.At
}

// next is the moment of a schedule that recurs after the one that fired. Those that have passed since are skipped: they have
// collapsed into it.
func (r *row) next(fired, now time.Time) time.Time {
	after := laterOf(fired, now)
	if r.Kind == protocol.ScheduleInterval {
		return r.NextInterval(after)
	}
	return r.plan.Next(after)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
