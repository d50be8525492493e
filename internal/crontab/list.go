package crontab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// Status is a schedule of a workflow, and what it has done so far.
type Status struct {
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
	Cron     string `json:"cron"`
	Zone     string `json:"zone,omitempty"`
	// Last is the moment that started an instance last, Next the one that is next; nil if it is paused or over.
	Last *time.Time `json:"last,omitempty"`
	Next *time.Time `json:"next,omitempty"`
	// Runs counts moments that have started an instance, Missed those that nobody could serve in time.
	Runs   int             `json:"runs"`
	Missed int             `json:"missed"`
	Paused *protocol.Pause `json:"paused,omitempty"`
}

// List returns the schedules of the project's workflows, by workflow and id.
func (t Table) List(ctx context.Context) ([]Status, error) {
	subjects, err := t.subjects(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the schedules of workflows: %w", err)
	}
	var all []Status
	for _, subject := range subjects {
		row, _, err := t.look(ctx, subject)
		if err != nil {
			return nil, fmt.Errorf("read schedule %s: %w", subject, err)
		}
		if row == nil || row.Workflow == "" { // removed, or nothing that fires
			continue
		}
		tick, err := t.tick(ctx, row)
		if err != nil {
			return nil, fmt.Errorf("read the clock of schedule %q of workflow %q: %w", row.ID, row.Workflow, err)
		}
		all = append(all, statusOf(row, tick))
	}
	return all, nil
}

// tick is what is armed for a schedule, or fires; nil if no scheduler has seen it yet.
func (t Table) tick(ctx context.Context, row *protocol.Schedule) (*protocol.Tick, error) {
	for _, subject := range []string{
		protocol.ClockSubject(t.Project, protocol.ClassCron, row.Workflow, row.ID),
		protocol.ClockDueSubject(t.Project, protocol.ClassCron, row.Workflow, row.ID),
	} {
		m, err := t.Store.Last(ctx, protocol.StreamClock, subject)
		if errors.Is(err, journal.ErrNotFound) || errors.Is(err, journal.ErrNoStream) {
			continue
		}
		if err != nil {
			return nil, err
		}
		tick := new(protocol.Tick)
		if len(m.Data) > 0 && json.Unmarshal(m.Data, tick) == nil {
			return tick, nil
		}
	}
	return nil, nil
}

func statusOf(row *protocol.Schedule, tick *protocol.Tick) Status {
	s := Status{Workflow: row.Workflow, ID: row.ID, Cron: row.Cron, Zone: row.Zone, Paused: row.Paused}
	if tick != nil && tick.Progress != nil {
		s.Last, s.Runs, s.Missed = tick.Progress.Last, tick.Progress.Runs, tick.Progress.Missed
	}
	if row.Paused != nil || tick != nil && tick.Over {
		return s
	}
	plan, err := moments.Of(row)
	switch {
	case tick != nil:
		s.Next = new(tick.Planned.UTC())
	case err != nil: // of a newer program
	default:
		if first := plan.First(); !first.IsZero() {
			s.Next = new(first.UTC())
		}
	}
	return s
}
