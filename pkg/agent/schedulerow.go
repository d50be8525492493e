package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// putRow stores the row of a schedule that a turn has asked for.
func (a *actor) putRow(ctx context.Context, o protocol.Outgoing) error {
	again := a.again[o.ID]
	if !again && !isChange(o.Schedule) {
		return a.host.publish(ctx, a.scheduleRow(o.Schedule.ID), o.Schedule)
	}
	if again && a.isSuperseded(o) {
		return nil
	}
	for {
		err := a.changeRow(ctx, *o.Schedule, again)
		if !isConflict(err) {
			return err
		}
	}
}

// isChange reports whether a row that a turn has asked for changes that of a schedule that recurs.
func isChange(row *protocol.Schedule) bool {
	return row.Kind.Recurs() && (row.Origin != "" || row.Paused != nil || row.Resumed != nil)
}

// changeRow stores the row of a schedule in the place of what stands there. If that may have been done before, what an operator
// has done to the schedule since must not be undone. If it changes a schedule that recurs and is gone, the turn was too late: a
// scheduler would begin to count anew.
func (a *actor) changeRow(ctx context.Context, asked protocol.Schedule, again bool) error {
	stream, subject := protocol.KVStream(protocol.SchedulesBucket(a.id.Project)), a.scheduleRow(asked.ID)
	m, err := a.host.store.Last(ctx, stream, subject)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		m = &journal.Message{}
	case errors.Is(err, journal.ErrNoStream): // there is nothing to undo, and it is tried on
		return a.host.publish(ctx, subject, asked)
	case err != nil:
		return fmt.Errorf("read schedule %q: %w", asked.ID, err)
	}
	isGone := len(m.Data) == 0 || m.Header.Get(protocol.HeaderKVOperation) != ""
	if isGone && isChange(&asked) {
		if again {
			return nil
		}
		return fmt.Errorf("it has ended before the turn was stored: %w", ErrNoSchedule)
	}
	if again {
		asked = rowAgain(asked, m)
	}
	body, err := json.Marshal(asked)
	if err != nil || bytes.Equal(body, m.Data) {
		return err
	}
	_, err = a.host.store.Append(ctx, stream, subject, m.Sequence, body)
	return err
}

// endsSchedule reports whether the agent forgets the schedule of its own that a letter stems from when that is applied: it was the last
// firing, and the schedule was not given others meanwhile.
func (a *actor) endsSchedule(ctx context.Context, l *letter) (bool, error) {
	id, own := a.schedule(l)
	switch {
	case !own || l.redrive != "":
		return false, nil
	case firesOnce(id), l.mail.Last && l.mail.Bounds == "":
		return true, nil
	case !l.mail.Last:
		return false, nil
	}
	m, err := a.host.store.Last(ctx, protocol.KVStream(protocol.SchedulesBucket(a.id.Project)), a.scheduleRow(id))
	if errors.Is(err, journal.ErrNotFound) || errors.Is(err, journal.ErrNoStream) || err == nil && m.Header.Get(protocol.HeaderKVOperation) != "" {
		return true, nil
	}
	if err != nil {
		return false, &endError{fmt.Errorf("read schedule %q: %w", id, err)}
	}
	var row protocol.Schedule
	if json.Unmarshal(m.Data, &row) != nil || row.Life != a.at.record.Life {
		return true, nil
	}
	bounds, err := row.Bounds()
	return err != nil || bounds == l.mail.Bounds, nil
}

// cancelRow takes the row of a schedule away.
func (a *actor) cancelRow(ctx context.Context, o protocol.Outgoing) error {
	if a.again[o.ID] && a.isSuperseded(o) {
		return nil
	}
	return dropRow(ctx, a.host.store, a.host.name, a.scheduleRow(o.Cancel), anyLife)
}

// isSuperseded reports whether a pending entry is about a schedule that a later one takes away, or takes it away to be made anew
// by a later one: to carry it out again would do away with what that later one may have put there.
func (a *actor) isSuperseded(o protocol.Outgoing) bool {
	i := slices.IndexFunc(a.pending, func(p protocol.Outgoing) bool { return p.ID == o.ID })
	return i >= 0 && slices.ContainsFunc(a.pending[i+1:], func(p protocol.Outgoing) bool {
		isCancel := p.Kind == protocol.OutgoingCancelSchedule || o.Kind == protocol.OutgoingCancelSchedule
		return isCancel && concern(p) == concern(o)
	})
}

// rowAgain is what the row of a schedule has to be that a turn has asked for, if m stands there. What the turn has asked for is
// the newest that the agent knows, unless the row was updated later; but whether it is paused, the newer word says.
func rowAgain(asked protocol.Schedule, m *journal.Message) protocol.Schedule {
	var there protocol.Schedule
	if m.Header.Get(protocol.HeaderKVOperation) != "" || json.Unmarshal(m.Data, &there) != nil ||
		there.Life != asked.Life || !there.Created.Equal(asked.Created) || max(asked.V, there.V) > protocol.ScheduleVersion {
		return asked
	}
	row := asked
	if there.Updated != nil && (asked.Updated == nil || there.Updated.After(*asked.Updated)) {
		row = there
	}
	word := asked
	if !pausedOrResumed(there).Before(pausedOrResumed(asked)) {
		word = there // also if the note alone was changed
	}
	row.Paused, row.Resumed = word.Paused, word.Resumed
	row.SetVersion()
	return row
}

// pausedOrResumed is when a schedule was paused or resumed last; zero: never.
func pausedOrResumed(row protocol.Schedule) (last time.Time) {
	if row.Resumed != nil {
		last = *row.Resumed
	}
	if row.Paused != nil && row.Paused.Since.After(last) {
		last = row.Paused.Since
	}
	return last
}
