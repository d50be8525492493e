package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// soon is how near the moment of a timer is that nobody needs to take away: it fires, and is acknowledged.
const soon = time.Minute

// scanTimers goes through what is armed. A timer is taken back without waiting for it when its park is left, so a runner
// that dies then leaves one.
func (d *Doctor) scanTimers(ctx context.Context) error {
	if d.Project.Shards == 0 {
		return nil
	}
	var batch []armed
	err := d.each(ctx, d.timers(), ">", func(m *journal.Message) error {
		d.pace.advance(1)
		if t, ok := readTimer(m); ok {
			batch = append(batch, t)
		}
		if len(batch) < together {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return d.glanceAtTimers(ctx, batch)
	})
	if err != nil {
		return err
	}
	return d.glanceAtTimers(ctx, batch)
}

// armed is a timer that stands for a while.
type armed struct {
	subject     string
	sequence    uint64
	instance    protocol.Instance
	park        uint64
	incarnation uint64
}

// readTimer reads a timer; ok is false if it has fired, is taken back, or fires soon.
func readTimer(m *journal.Message) (a armed, ok bool) {
	i, park, err := protocol.ParseTimerSubject(m.Subject)
	if err != nil || len(m.Data) == 0 {
		return a, false
	}
	var t protocol.Timer
	if json.Unmarshal(m.Data, &t) == nil && time.Until(t.Due) < soon {
		return a, false
	}
	return armed{m.Subject, m.Sequence, i, park, t.Incarnation}, true
}

// glanceAtTimers suspects those of some timers that nothing seems to wait for.
func (d *Doctor) glanceAtTimers(ctx context.Context, batch []armed) error {
	return glanceAt(ctx, d, batch, func(t armed) protocol.Instance { return t.instance }, armed.stray,
		func(ctx context.Context, t armed) ([]complaint, error) { return d.examineTimer(ctx, t.subject) })
}

// glanceAt suspects those of a batch that look stray beside what is newest of their instances.
func glanceAt[T any](
	ctx context.Context, d *Doctor, batch []T, instanceOf func(T) protocol.Instance, stray func(T, facts) bool,
	examine func(context.Context, T) ([]complaint, error),
) error {
	if len(batch) == 0 {
		return nil
	}
	instances := make([]protocol.Instance, len(batch))
	for n, one := range batch {
		instances[n] = instanceOf(one)
	}
	all, err := d.newest(ctx, instances)
	if err != nil {
		return err
	}
	of := map[protocol.Instance]facts{}
	for _, f := range all {
		of[f.instance] = f
	}
	for _, one := range batch {
		if !stray(one, of[instanceOf(one)]) {
			continue
		}
		if err := d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return examine(ctx, one) }); err != nil {
			return err
		}
	}
	return nil
}

// stray reports whether nothing waits for a timer.
func (a armed) stray(f facts) bool {
	return !f.newer && (!f.Exists || a.incarnation != f.Incarnation || f.Phase != engine.Parked || f.Park != a.park)
}

func (d *Doctor) examineTimer(ctx context.Context, subject string) ([]complaint, error) {
	m, err := d.last(ctx, d.timers(), subject)
	if err != nil || m == nil {
		return nil, err
	}
	t, ok := readTimer(m)
	if !ok {
		return nil, nil
	}
	f, err := d.factsAtLeader(ctx, t.instance)
	if err != nil || !t.stray(f) {
		return nil, err
	}
	return []complaint{{
		Finding: Finding{
			Kind: TimerWithoutWait, Subject: subject, Problem: fmt.Sprintf("instance %s is not parked at %d: the timer will fire in vain", t.instance, t.park),
			Remedy: "take the timer back",
		},
		evidence: fmt.Sprint(t.sequence),
		mend:     func(ctx context.Context) (string, error) { return d.disarm(ctx, subject, t.sequence) },
	}}, nil
}

// disarm replaces a timer by a tombstone: a delete would leave it in the server's memory until it is due. Nobody arms the
// timer of a park again that was left.
func (d *Doctor) disarm(ctx context.Context, subject string, sequence uint64) (string, error) {
	_, err := d.Store.AppendWith(ctx, d.timers(), subject, sequence, nats.Header{
		protocol.HeaderRollup: {protocol.RollupSubject}, protocol.HeaderTTL: {"1s"},
	}, nil)
	if errors.Is(err, journal.ErrConflict) {
		return seen, nil
	}
	return fmt.Sprintf("took back message %d", sequence), err
}
