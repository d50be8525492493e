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

// putRow stores the row of a schedule that a turn has asked for. If that may have been done before, what an operator has done to
// the schedule since must not be undone.
func (a *actor) putRow(ctx context.Context, o protocol.Outgoing) error {
	subject := a.scheduleRow(o.Schedule.ID)
	if !a.again[o.ID] {
		return a.host.publish(ctx, subject, o.Schedule)
	}
	if a.isSuperseded(o) {
		return nil
	}
	stream := protocol.KVStream(protocol.SchedulesBucket(a.id.Project))
	for {
		m, err := a.host.store.Last(ctx, stream, subject)
		switch {
		case errors.Is(err, journal.ErrNotFound):
			m = &journal.Message{}
		case errors.Is(err, journal.ErrNoStream): // nothing can be undone, and it is tried on
			return a.host.publish(ctx, subject, o.Schedule)
		case err != nil:
			return fmt.Errorf("read schedule %q: %w", o.Schedule.ID, err)
		}
		body, err := json.Marshal(rowAgain(*o.Schedule, m))
		if err != nil || bytes.Equal(body, m.Data) {
			return err
		}
		if _, err = a.host.store.Append(ctx, stream, subject, m.Sequence, body); !isConflict(err) {
			return err
		}
	}
}

// cancelRow takes the row of a schedule away.
func (a *actor) cancelRow(ctx context.Context, o protocol.Outgoing) error {
	if a.again[o.ID] && a.isSuperseded(o) {
		return nil
	}
	return a.host.dropRow(ctx, a.scheduleRow(o.Cancel))
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
