package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
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

// row is a schedule that can be armed.
type row struct {
	protocol.Schedule
	// revision is the sequence of the row, definition a digest of what the schedule was made as.
	revision   uint64
	definition string
	// bounds is a digest of what decides the moments.
	bounds string
	plan   moments.Plan
}

// parseRow reads the newest message of a row's subject. It returns nil if the row is deleted, and a *RowError if it
// can never fire.
func parseRow(k key, m *journal.Message) (*row, error) {
	if m.Header.Get(protocol.HeaderKVOperation) != "" || len(m.Data) == 0 {
		return nil, nil
	}
	r := &row{revision: m.Sequence}
	err := json.Unmarshal(m.Data, &r.Schedule)
	if r.V > protocol.ScheduleVersion { // what a newer program means by a field may not fit: that says nothing against the row
		return nil, fmt.Errorf("%w: it has version %d, known is %d", errNewerRow, r.V, protocol.ScheduleVersion)
	}
	if err != nil {
		return nil, &RowError{Reason: err.Error()}
	}
	if err := r.check(k); err != nil {
		return nil, err
	}
	return r, r.define(m.Data)
}

// define finds what of the schedule, stored as data, never changes, so that it goes on where it stood when the rest was changed.
func (r *row) define(data []byte) (err error) {
	switch {
	case r.Workflow != "":
		r.definition, err = (&protocol.Schedule{
			ID: r.ID, Class: r.Class, Name: r.Name, Kind: r.Kind, Cron: r.Cron, Zone: r.Zone, Created: r.Created,
		}).Digest()
	case r.Paused == nil && r.Resumed == nil && r.Origin == "":
		r.definition = protocol.DigestRow(data)
	default:
		r.definition, err = r.Made()
	}
	if err != nil {
		return err
	}
	r.bounds, err = r.Bounds()
	return err
}

func (r *row) check(k key) error {
	switch {
	case r.Class != k.agent.Class:
		return &RowError{"class", r.Class, fmt.Sprintf("its key says %q", k.agent.Class)}
	case r.Name != k.agent.Name:
		return &RowError{"name", r.Name, fmt.Sprintf("its key says %q", k.agent.Name)}
	case r.ID != k.id:
		return &RowError{"id", r.ID, fmt.Sprintf("its key says %q", k.id)}
	case r.Class == protocol.ClassCron && r.Workflow != k.agent.Name:
		return &RowError{"workflow", r.Workflow, fmt.Sprintf("its key says %q", k.agent.Name)}
	case r.Class != protocol.ClassCron && r.Workflow != "":
		return &RowError{"workflow", r.Workflow, "is for schedules of workflows only"}
	case r.Workflow != "" && r.Kind != protocol.ScheduleCron:
		return &RowError{"kind", string(r.Kind), fmt.Sprintf("allowed for workflows is %q", protocol.ScheduleCron)}
	case r.Workflow == "" && r.Callback == "":
		return &RowError{"callback", "", "is empty"}
	case r.Created.IsZero():
		return &RowError{"created", "", "is missing"}
	}
	plan, err := moments.Of(&r.Schedule)
	if refused, ok := errors.AsType[*moments.FieldError](err); ok {
		return &RowError{refused.Field, refused.Value, refused.Reason}
	}
	r.plan = plan
	return err
}
