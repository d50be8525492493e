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
	// Params are those of the instances that it starts.
	Params json.RawMessage `json:"params,omitempty"`
	// From, Until, Times, Jitter, CatchUp and Overlap are the fields of that name in skein.jsonc.
	From    *time.Time        `json:"from,omitempty"`
	Until   *time.Time        `json:"until,omitempty"`
	Times   int               `json:"times,omitempty"`
	Jitter  protocol.Duration `json:"jitter,omitempty"`
	CatchUp *int              `json:"catch_up,omitempty"`
	Overlap protocol.Overlap  `json:"overlap,omitempty"`
	Created time.Time         `json:"created"`
	// Updated is when the rest of it was changed last; nil: never.
	Updated *time.Time `json:"updated,omitempty"`
	// Last is the moment that started an instance last, Next the one that is next; nil if it is paused or over.
	Last *time.Time `json:"last,omitempty"`
	Next *time.Time `json:"next,omitempty"`
	// Waits is since when Next waits for the end of the instance of an earlier moment; nil if it does not.
	Waits *time.Time `json:"waits,omitempty"`
	// Runs counts moments that have started an instance, Missed those that nobody could serve in time, Skipped those that came
	// while what an earlier one had started was not done.
	Runs    int             `json:"runs"`
	Missed  int             `json:"missed"`
	Skipped int             `json:"skipped"`
	Paused  *protocol.Pause `json:"paused,omitempty"`
	// Over says that it has no moment any more.
	Over bool `json:"over,omitempty"`
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
		status, err := t.status(ctx, row)
		if err != nil {
			return nil, err
		}
		all = append(all, status)
	}
	return all, nil
}

func (t Table) status(ctx context.Context, row *protocol.Schedule) (Status, error) {
	tick, err := t.tick(ctx, row)
	if err != nil {
		return Status{}, fmt.Errorf("read the clock of schedule %q of workflow %q: %w", row.ID, row.Workflow, err)
	}
	return statusOf(row, tick), nil
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
	s := Status{
		Workflow: row.Workflow, ID: row.ID, Cron: row.Cron, Zone: row.Zone, Params: row.Payload, From: row.From, Until: row.Until,
		Times: row.Times, Jitter: row.Jitter, CatchUp: row.CatchUp, Overlap: row.Overlap, Created: row.Created, Updated: row.Updated,
		Paused: row.Paused,
	}
	if tick != nil && tick.Progress != nil {
		p := tick.Progress
		s.Last, s.Runs, s.Missed, s.Skipped = p.Last, p.Runs, p.Missed, p.Skipped
	}
	if s.Over = tick != nil && tick.Over; s.Over || row.Paused != nil {
		return s
	}
	plan, err := moments.Of(row)
	switch {
	case tick != nil:
		s.Next, s.Waits = new(tick.Planned.UTC()), tick.Since
	case err != nil: // of a newer program
	default:
		if first := plan.First(); !first.IsZero() {
			s.Next = new(first.UTC())
		}
	}
	return s
}
