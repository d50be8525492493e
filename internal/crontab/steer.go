package crontab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// ErrNone is returned if there is no such schedule.
var ErrNone = errors.New("no such schedule")

// Get returns one schedule. The error wraps ErrNone if there is none.
func (t Table) Get(ctx context.Context, workflow, id string) (Status, error) {
	row, _, err := t.find(ctx, workflow, id)
	if err != nil {
		return Status{}, err
	}
	return t.status(ctx, row)
}

// Row is the row of one schedule.
func (t Table) Row(ctx context.Context, workflow, id string) (*protocol.Schedule, error) {
	row, _, err := t.find(ctx, workflow, id)
	return row, err
}

// Change changes the row of a schedule, unless change reports that there is nothing to change.
func (t Table) Change(ctx context.Context, workflow, id string, change func(*protocol.Schedule) bool) error {
	for {
		row, sequence, err := t.find(ctx, workflow, id)
		if err != nil || !change(row) {
			return err
		}
		body, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("change schedule %q of workflow %q: %w", id, workflow, err)
		}
		_, err = t.Store.Append(journal.Refusing(ctx), t.stream(), t.subject(*row), sequence, body)
		if errors.Is(err, journal.ErrConflict) {
			continue // a runner or somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("change schedule %q of workflow %q: %w", id, workflow, err)
		}
		return nil
	}
}

func (t Table) find(ctx context.Context, workflow, id string) (*protocol.Schedule, uint64, error) {
	row, sequence, err := t.look(ctx, t.subject(protocol.Schedule{Workflow: workflow, ID: id}))
	switch {
	case errors.Is(err, journal.ErrNoStream) || err == nil && (row == nil || row.Workflow == ""):
		return nil, 0, fmt.Errorf("schedule %q of workflow %q: %w", id, workflow, ErrNone)
	case err != nil:
		return nil, 0, fmt.Errorf("read schedule %q of workflow %q: %w", id, workflow, err)
	case row.V > protocol.ScheduleVersion:
		return nil, 0, fmt.Errorf("schedule %q of workflow %q is of version %d, known is %d", id, workflow, row.V, protocol.ScheduleVersion)
	}
	return row, sequence, nil
}
