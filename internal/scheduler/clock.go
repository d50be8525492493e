package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// tombstoneTTL lets what cancelled a moment disappear; it is the least the server takes.
const tombstoneTTL = "1s"

// firing is a moment that has come due, and with what was found then, as of the row by. Without now it was found that the
// schedule is paused.
type firing struct {
	tick *protocol.Tick
	by   *row
	now  time.Time
	found
}

// errFires is returned for a row that was put again while a moment of it fires. Who handles that has perhaps deleted the row that it knew
// already, as an agent whose host was lost puts its rows again, and does not go on from there.
var errFires = errors.New("a moment of the schedule fires that may be of an older row")

// settle brings the clock subject of a schedule in line with its row. f is the firing that was just put into the inbox, or
// left out, or that is kept if it has no now; the zero value if this is not about one. A row that can never fire is disarmed, and returned as a *RowError. The error is
// errFires if the message of the row must come again.
func (s *Scheduler) settle(ctx context.Context, k key, f firing) error {
	// What is handled late may be handled by others as well, who may have armed a moment that has fired already.
	withFired := f.tick == nil || f.now.Sub(f.tick.Planned) > lateAfter
	for ; ; withFired = true {
		v, tail, err := s.look(ctx, k, withFired)
		bad, isBad := errors.AsType[*RowError](err)
		if err != nil && !isBad {
			return err
		}
		v.handled, v.by, v.now, v.found = f.tick, f.by, f.now, f.found
		switch do, next := decide(v); do {
		case arm:
			err = s.arm(ctx, k, v.row, next, tail)
		case park:
			err = s.park(ctx, k, v.row, next, tail)
		case disarm:
			err = s.disarm(ctx, k, tail)
		case await:
			err = errFires
		default:
			err = nil
		}
		switch {
		case errors.Is(err, journal.ErrConflict): // another scheduler was faster: look again
		case err != nil:
			return err
		case isBad:
			return bad
		default:
			return nil
		}
	}
}

// look reads a view in the order that decide relies on, and the sequence that the clock subject is at. A *RowError
// comes with a view that has no row.
func (s *Scheduler) look(ctx context.Context, k key, withFired bool) (v view, tail uint64, err error) {
	if v.armed, tail, err = s.tick(ctx, k.clockSubject()); err != nil {
		return v, 0, err
	}
	if v.armed == nil && withFired {
		if v.fired, _, err = s.tick(ctx, k.dueSubject()); err != nil {
			return v, 0, err
		}
	}
	v.row, err = s.row(ctx, k)
	return v, tail, err
}

// tick reads the newest message of a subject of the clock, and its sequence. A tombstone is no tick; what is not of
// ours is one of no row, so that it is replaced.
func (s *Scheduler) tick(ctx context.Context, subject string) (*protocol.Tick, uint64, error) {
	m, err := s.store.Last(ctx, protocol.StreamClock, subject)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("read %s: %w", subject, err)
	case len(m.Data) == 0:
		return nil, m.Sequence, nil
	}
	t, err := parseTick(m.Data)
	if err != nil {
		t = &protocol.Tick{}
	}
	return t, m.Sequence, nil
}

func parseTick(data []byte) (*protocol.Tick, error) {
	t := new(protocol.Tick)
	if err := json.Unmarshal(data, t); err != nil {
		return nil, err
	}
	if t.Planned.IsZero() || t.Revision == 0 || t.Definition == "" {
		return nil, errors.New("revision, definition or planned moment is missing")
	}
	return t, nil
}

// row reads the row of a schedule; nil if there is none.
func (s *Scheduler) row(ctx context.Context, k key) (*row, error) {
	m, err := s.store.Last(ctx, k.rowStream(), k.rowSubject())
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k.rowSubject(), err)
	}
	return parseRow(k, m)
}

func (s *Scheduler) arm(ctx context.Context, k key, r *row, next step, tail uint64) error {
	body, err := json.Marshal(r.tick(next))
	if err != nil {
		return fmt.Errorf("arm %s: %w", k.clockSubject(), err)
	}
	at := next.at
	switch {
	case next.over:
		at = next.moment
	case at.IsZero():
		at = r.plan.Due(next.moment)
	}
	_, err = s.store.AppendWith(ctx, protocol.StreamClock, k.clockSubject(), tail, nats.Header{
		protocol.HeaderSchedule:       {"@at " + fireAt(at)},
		protocol.HeaderScheduleTarget: {k.dueSubject()},
		protocol.HeaderRollup:         {protocol.RollupSubject},
	}, body)
	return err
}

// tick is what stands on the clock for a step.
func (r *row) tick(next step) protocol.Tick {
	t := protocol.Tick{
		V: protocol.Version, Revision: r.revision, Definition: r.definition, Bounds: r.bounds, Planned: next.moment.UTC(), Over: next.over,
		Since: next.since,
	}
	if next.progress != (protocol.Progress{}) {
		t.Progress = &next.progress
	}
	return t
}

// park puts a moment in the place of what is armed that has no timer.
func (s *Scheduler) park(ctx context.Context, k key, r *row, next step, tail uint64) error {
	t := r.tick(next)
	t.Parked = true
	body, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("park %s: %w", k.clockSubject(), err)
	}
	_, err = s.store.AppendWith(ctx, protocol.StreamClock, k.clockSubject(), tail, nats.Header{
		protocol.HeaderRollup: {protocol.RollupSubject},
	}, body)
	return err
}

// fireAt writes a moment with all its digits: a schedule cut to the second fires early. What is long past is written
// as a moment that the server can count in nanoseconds.
func fireAt(moment time.Time) string {
	if moment.Before(time.Unix(0, 0)) {
		moment = time.Unix(0, 0)
	}
	return moment.UTC().Format(time.RFC3339Nano)
}

// disarm replaces what is armed by a tombstone. A purge would leave the server's timer in memory until it is due.
func (s *Scheduler) disarm(ctx context.Context, k key, tail uint64) error {
	_, err := s.store.AppendWith(ctx, protocol.StreamClock, k.clockSubject(), tail, nats.Header{
		protocol.HeaderRollup: {protocol.RollupSubject},
		protocol.HeaderTTL:    {tombstoneTTL},
	}, nil)
	return err
}

// deleteRow deletes the row that has fired for the last time. The error is journal.ErrConflict if it was replaced.
func (s *Scheduler) deleteRow(ctx context.Context, k key, revision uint64) error {
	header := nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}
	_, err := s.store.AppendWith(ctx, k.rowStream(), k.rowSubject(), revision, header, nil)
	return err
}

// removeMarker removes the delete marker at sequence. A row that was put since then is not touched.
func (s *Scheduler) removeMarker(ctx context.Context, k key, sequence uint64) error {
	return s.store.Delete(ctx, k.rowStream(), sequence)
}
