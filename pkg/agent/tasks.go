package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// ScheduleFilter says which schedules ListSchedules returns. The zero value takes all.
type ScheduleFilter struct {
	ID   string
	Kind protocol.ScheduleKind
	// From and To bound the next moment: not before From, and before To.
	From, To time.Time
}

// ListSchedules returns the agent's schedules, the turn's own changes among them, by their next moment. One that has
// fired for the last time is no more in the list.
func ListSchedules(ctx context.Context, filter ScheduleFilter) ([]Task, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return nil, err
	}
	if err := filter.check(); err != nil {
		return nil, err
	}
	rows, err := d.scheduleRows(ctx, filter.ID)
	if err != nil {
		return nil, fmt.Errorf("list schedules of agent %q: %w", d.agent.Name, err)
	}
	var tasks []Task
	now := d.now()
	for _, row := range rows {
		if t := taskOf(row, now); filter.takes(t) {
			tasks = append(tasks, t)
		}
	}
	if err := d.addProgress(ctx, tasks); err != nil {
		return nil, fmt.Errorf("list schedules of agent %q: %w", d.agent.Name, err)
	}
	slices.SortFunc(tasks, func(a, b Task) int { return cmp.Or(a.Next.Compare(b.Next), strings.Compare(a.ID, b.ID)) })
	return tasks, nil
}

func (f ScheduleFilter) check() error {
	kinds := []protocol.ScheduleKind{"", protocol.ScheduleDelay, protocol.ScheduleDate, protocol.ScheduleCron, protocol.ScheduleInterval}
	if !slices.Contains(kinds, f.Kind) {
		return &ScheduleError{Field: "filter", Value: fmt.Sprintf("%q", f.Kind), Reason: fmt.Sprintf("kinds are %q", kinds[1:])}
	}
	if !f.From.IsZero() && !f.To.IsZero() && !f.To.After(f.From) {
		return &ScheduleError{Field: "filter", Value: f.To.Format(time.RFC3339Nano), Reason: "To must be after From"}
	}
	return nil
}

func (f ScheduleFilter) takes(t Task) bool {
	return (f.Kind == "" || f.Kind == t.Kind) && (f.From.IsZero() || !t.Next.Before(f.From)) && (f.To.IsZero() || t.Next.Before(f.To))
}

// taskOf is a schedule as users see it.
func taskOf(row *protocol.Schedule, now time.Time) Task {
	t := Task{
		ID: row.ID, Kind: row.Kind, Callback: row.Callback, Payload: row.Payload, Cron: row.Cron, Lines: row.Lines, Zone: row.Zone,
		Interval: row.Interval, From: row.From, Until: row.Until, Times: row.Times, Jitter: row.Jitter, CatchUp: row.CatchUp,
		Overlap: Overlap(row.Overlap), Paused: row.Paused, Created: row.Created,
	}
	plan, err := moments.Of(row)
	switch {
	case row.Paused != nil:
	case err != nil: // of a newer program: it was read when the row was made
	case row.Kind.Recurs():
		t.Next = plan.After(now)
	default:
		t.Next = plan.First()
	}
	return t
}

// task is a schedule that exists.
func (d *draft) task(ctx context.Context, id string, kind protocol.ScheduleKind, callback string) (Task, error) {
	rows, err := d.scheduleRows(ctx, id)
	if err != nil {
		return Task{}, fmt.Errorf("read schedule %q: %w", id, err)
	}
	if len(rows) == 0 {
		return Task{ID: id, Kind: kind, Callback: callback}, nil
	}
	return taskOf(rows[0], d.now()), nil
}

// scheduleRows returns the rows of the schedules that the draft knows, or that of one id. Which ones there are, the record
// says; what a turn has asked for stands in an outbox until it stands in its row.
func (d *draft) scheduleRows(ctx context.Context, only string) ([]*protocol.Schedule, error) {
	ids, rows := d.knownSchedules(only)
	if len(ids) == 0 || d.actor == nil {
		return rows, nil
	}
	stored, err := d.actor.host.readSchedules(ctx, d.agent, ids)
	for _, row := range stored {
		if row.Life == d.stored.Life {
			rows = append(rows, row)
		}
	}
	return rows, err
}

// knownSchedules returns the rows that stand in an outbox, and the ids of all others.
func (d *draft) knownSchedules(only string) (ids []string, rows []*protocol.Schedule) {
	d.mu.Lock()
	defer d.mu.Unlock()
	drafted := map[string]*protocol.Schedule{}
	for _, o := range slices.Concat(d.pending, d.out) {
		if o.Kind == protocol.OutgoingSchedule {
			drafted[o.Schedule.ID] = o.Schedule
		}
	}
	seen := d.seen
	if seen == nil {
		seen = d.stored.Seen
	}
	for source := range seen {
		id, ok := strings.CutPrefix(source, protocol.ScheduleSource(""))
		switch {
		case !ok || only != "" && id != only:
		case drafted[id] != nil:
			rows = append(rows, drafted[id])
		default:
			ids = append(ids, id)
		}
	}
	return ids, rows
}

const schedulePage = 200

// readSchedules reads rows of an agent's schedules. Those that are not there are left out.
func (h *host) readSchedules(ctx context.Context, agent protocol.Agent, ids []string) (rows []*protocol.Schedule, err error) {
	bucket := bucketOf(protocol.SchedulesBucket(agent.Project))
	for size := schedulePage; len(ids) > 0; {
		size = min(size, len(ids))
		subjects := make([]string, size)
		for i, id := range ids[:size] {
			subjects[i] = bucket.subject(protocol.ScheduleKey(agent.Class, agent.Name, id))
		}
		batch, err := h.store.LastOfMany(ctx, bucket.stream, subjects)
		if err != nil {
			return nil, err
		}
		if batch.Cut && size > 1 {
			size = max(size/4, 1)
			continue
		}
		for i, id := range ids[:size] {
			row, err := h.scheduleRow(ctx, bucket, batch.Messages, subjects[i], id)
			if err != nil {
				return nil, err
			}
			if row != nil {
				rows = append(rows, row)
			}
		}
		ids = ids[size:]
	}
	return rows, nil
}

// scheduleRow finds the row in what a replica had. It asks the leader for one that is missing there, and for one whose
// id can be that of an earlier schedule at another moment.
func (h *host) scheduleRow(ctx context.Context, bucket bucket, had []journal.Message, subject, id string) (*protocol.Schedule, error) {
	i := slices.IndexFunc(had, func(m journal.Message) bool { return m.Subject == subject })
	if i < 0 || had[i].Header.Get(protocol.HeaderKVOperation) != "" || strings.HasPrefix(id, oncePrefix) {
		m, err := h.store.Last(ctx, bucket.stream, subject)
		if errors.Is(err, journal.ErrNotFound) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		had, i = []journal.Message{*m}, 0
	}
	row := new(protocol.Schedule)
	if err := json.Unmarshal(had[i].Data, row); err != nil {
		return nil, fmt.Errorf("row of schedule %q: %w", id, err)
	}
	return row, nil
}
