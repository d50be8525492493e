package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

func (d *Doctor) schedules() bucket { return bucketOf(protocol.SchedulesBucket(d.Project.Name)) }

// hasSchedules reports whether the project has what schedules need.
func (d *Doctor) hasSchedules() bool { return d.hasAgents() || d.Project.Schedules }

// scanSchedules goes through the rows, then through what is armed.
func (d *Doctor) scanSchedules(ctx context.Context) error {
	if !d.hasSchedules() {
		return nil
	}
	rows := d.schedules()
	err := d.each(ctx, rows.stream, ">", func(m *journal.Message) error { return d.glanceAtSchedule(ctx, rows.key(m.Subject)) })
	if err != nil {
		return err
	}
	return d.each(ctx, protocol.StreamClock, protocol.ClockSubjectsOf(d.Project.Name), func(m *journal.Message) error {
		if len(m.Data) == 0 {
			return nil // a tombstone
		}
		return d.glanceAtSchedule(ctx, protocol.ClockKey(d.Project.Name, m.Subject))
	})
}

func (d *Doctor) glanceAtSchedule(ctx context.Context, key string) error {
	d.pace.advance(1)
	if _, _, _, err := protocol.ParseScheduleKey(key); err != nil {
		return nil // it is no schedule, and no scheduler takes it for one
	}
	look := func(ctx context.Context) ([]complaint, error) { return d.examineSchedule(ctx, key) }
	found, err := paced(ctx, d, look)
	if err != nil || len(found) == 0 {
		return err
	}
	return d.suspect(ctx, look)
}

// examineSchedule compares the row of a schedule with its agent, and with the clock, as a scheduler does that gets the row.
func (d *Doctor) examineSchedule(ctx context.Context, key string) ([]complaint, error) {
	rows := d.schedules()
	m, err := d.last(ctx, rows.stream, rows.subject(key))
	if err != nil {
		return nil, err
	}
	if m != nil {
		c, err := d.orphan(ctx, key, m)
		if err != nil {
			return nil, err
		}
		if c != nil {
			return []complaint{*c}, nil
		}
		p, err := d.mark(ctx, rows.stream, protocol.ConsumerScheduler, rows.subject(">"))
		if err != nil || p.state(m.Sequence) != settled {
			return nil, err // a scheduler will see the row, or the marker that it has left
		}
	}
	found, err := d.inspector.Look(ctx, d.Project.Name, key)
	if err != nil || found == nil {
		return nil, err
	}
	c := complaint{Finding: Finding{Subject: rows.subject(key)}, evidence: found.Evidence}
	if found.Missing {
		c.Kind, c.Problem, c.Remedy = NotArmed, "its next moment is not armed: it will not fire", "arm the next moment"
	} else {
		c.Kind, c.Problem, c.Remedy = ClockWithoutRow, "a moment is armed that no row of a schedule asks for", "take back what is armed"
	}
	c.mend = func(ctx context.Context) (string, error) {
		return "brought the clock in line with the row", d.inspector.Settle(ctx, d.Project.Name, key)
	}
	return []complaint{c}, nil
}

// orphan is a complaint of a row whose agent is gone, or has another life; nil if it is none. Rows follow from records, so one
// that is there was asked for by a record that was there before.
func (d *Doctor) orphan(ctx context.Context, key string, m *journal.Message) (*complaint, error) {
	var row protocol.Schedule
	if m.Header.Get(protocol.HeaderKVOperation) != "" || json.Unmarshal(m.Data, &row) != nil || row.Workflow != "" || row.Life == 0 {
		return nil, nil
	}
	class, name, _, err := protocol.ParseScheduleKey(key)
	if err != nil || class == protocol.ClassCron {
		return nil, nil
	}
	r, _, err := d.record(ctx, class, name)
	if err != nil || r != nil && r.Life == row.Life {
		return nil, err
	}
	return &complaint{
		Finding: Finding{
			Kind: ScheduleWithoutAgent, Subject: m.Subject, Remedy: "delete the row: a scheduler takes back what is armed",
			Problem: fmt.Sprintf("the life of agent %s/%s that made the schedule is over", class, name),
		},
		evidence: fmt.Sprint(m.Sequence),
		mend: func(ctx context.Context) (string, error) {
			_, err := d.Store.AppendWith(ctx, d.schedules().stream, m.Subject, m.Sequence,
				nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}, nil)
			if errors.Is(err, journal.ErrConflict) {
				return seen, nil
			}
			return fmt.Sprintf("deleted revision %d of the row", m.Sequence), err
		},
	}, nil
}
