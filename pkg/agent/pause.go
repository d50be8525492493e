package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// PauseSchedule lets a schedule of the agent not fire any more, from when the turn is stored; the note, of up to 1 KiB, says
// why. A firing that is on its way to the agent still comes. It reports whether there is such a schedule. To pause it again
// changes the note.
func PauseSchedule(ctx context.Context, id, note string) (bool, error) {
	if err := checkNote(note); err != nil {
		return false, err
	}
	return changeSchedule(ctx, id, func(d *draft, row *protocol.Schedule) bool { return row.Pause(d.now(), note) })
}

func checkNote(note string) error {
	if len(note) <= protocol.MaxNote {
		return nil
	}
	return &ScheduleError{Field: "note", Value: fmt.Sprintf("of %d bytes", len(note)), Reason: fmt.Sprintf("at most %d are allowed", protocol.MaxNote)}
}

// ResumeSchedule lets a schedule that is paused fire again, when the turn is stored. What was planned meanwhile does not
// fire, nor is it missed; but one that fires once does, at once if its moment has passed. It reports whether there is such
// a schedule.
func ResumeSchedule(ctx context.Context, id string) (bool, error) {
	return changeSchedule(ctx, id, func(d *draft, row *protocol.Schedule) bool { return row.Resume(d.now()) })
}

// TriggerSchedule lets a schedule of the agent fire when the turn is stored, once, also if it is paused. Its plan and its
// counts stay as they are; Firing tells the moment of the trigger as the planned one. It reports whether there is such a
// schedule.
func TriggerSchedule(ctx context.Context, id string) (bool, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return false, err
	}
	row, err := d.currentSchedule(ctx, id)
	if err != nil {
		return false, fmt.Errorf("read schedule %q: %w", id, err)
	}
	if row == nil {
		return false, nil
	}
	return true, d.change(func() error {
		// The key follows from the turn: what is projected twice is applied once.
		mail := triggerOf(row, "trigger "+d.nextID(), d.now())
		d.put(protocol.Outgoing{Kind: protocol.OutgoingMail, Tell: &protocol.OutgoingTell{
			Project: d.agent.Project, Class: d.agent.Class, Name: d.agent.Name, Mail: mail,
		}})
		return nil
	})
}

// triggerOf is the mail that lets a schedule fire now. It has a key, and so no place in the order of the firings: it hides
// none that is late, and none hides it.
func triggerOf(row *protocol.Schedule, key string, now time.Time) protocol.Mail {
	now = now.UTC()
	return protocol.Mail{
		V: protocol.Version, Source: protocol.KeySource(key), Key: key, Schedule: row.ID, Life: row.Life,
		Callback: row.Callback, Payload: row.Payload, Retry: row.Retry, Planned: &now, Sent: now,
	}
}

// changeSchedule drafts the row of a schedule that change has changed. It reports whether there is one.
func changeSchedule(ctx context.Context, id string, change func(*draft, *protocol.Schedule) bool) (bool, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return false, err
	}
	current, err := d.currentSchedule(ctx, id)
	if err != nil {
		return false, fmt.Errorf("read schedule %q: %w", id, err)
	}
	if current == nil {
		return false, nil
	}
	row := *current
	if !change(d, &row) {
		return true, nil
	}
	return true, d.change(func() error {
		d.put(protocol.Outgoing{Kind: protocol.OutgoingSchedule, Schedule: &row})
		return nil
	})
}

// currentSchedule is the row of a schedule as it is to be changed: a replica could have an older one. It is nil if there is
// none, or if the turn is for its last firing.
func (d *draft) currentSchedule(ctx context.Context, id string) (*protocol.Schedule, error) {
	if id == "" || id == d.ends {
		return nil, nil
	}
	ids, rows := d.knownSchedules(id)
	if len(rows) > 0 {
		return rows[0], nil
	}
	if len(ids) == 0 || d.actor == nil {
		return nil, nil
	}
	bucket := bucketOf(protocol.SchedulesBucket(d.agent.Project))
	row, err := d.actor.host.scheduleRow(ctx, bucket, nil, bucket.subject(protocol.ScheduleKey(d.agent.Class, d.agent.Name, id)), id)
	if err != nil || row == nil || row.Life != d.stored.Life {
		return nil, err
	}
	return row, nil
}
