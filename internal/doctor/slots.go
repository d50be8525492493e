package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/slots"
	"github.com/skein-run/skein/pkg/protocol"
)

// slotsOf are those of a workflow. The doctor does not know the limit, and grants nothing.
func (d *Doctor) slotsOf(workflow string) slots.Slots {
	return slots.Slots{Store: d.Store, Project: d.Project.Name, Workflow: workflow, Queue: &slots.Queue{}}
}

func (d *Doctor) slotsSubject(key string) string {
	return protocol.KVSubject(protocol.SlotsBucket(d.Project.Name), key)
}

// scanSlots goes through those who have slots, and those who wait for one.
func (d *Doctor) scanSlots(ctx context.Context) error {
	for _, workflow := range slices.Sorted(maps.Keys(d.Project.Workflows)) {
		if err := d.scanHolders(ctx, workflow); err != nil {
			return err
		}
	}
	var batch []place
	err := d.each(ctx, d.slotsStream(), d.slotsSubject(protocol.SlotWaitKeys("*")), func(m *journal.Message) error {
		d.pace.advance(1)
		if p, ok := d.readPlace(m); ok {
			batch = append(batch, p)
		}
		if len(batch) < together {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return d.glanceAtPlaces(ctx, batch)
	})
	if err != nil {
		return err
	}
	return d.glanceAtPlaces(ctx, batch)
}

// scanHolders looks at each holder of a slot. There are few: as many as may execute at a time.
func (d *Doctor) scanHolders(ctx context.Context, workflow string) error {
	holders, err := d.slotsOf(workflow).Holders(ctx)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if err := d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineHolder(ctx, workflow, h) }); err != nil {
			return err
		}
	}
	return d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineQueue(ctx, workflow) })
}

// examineHolder looks whether an instance will give its slot back. As long as its wake is not acknowledged, somebody may be
// about to.
func (d *Doctor) examineHolder(ctx context.Context, workflow string, h protocol.SlotHolder) ([]complaint, error) {
	holders, err := d.slotsOf(workflow).Holders(ctx)
	if err != nil || !slices.Contains(holders, h) {
		return nil, err
	}
	i := protocol.Instance{Project: d.Project.Name, Shard: h.Shard, Workflow: workflow, ID: h.ID}
	f, err := d.factsAtLeader(ctx, i)
	if err != nil || f.newer || slots.Keeps(f.Situation, h) {
		return nil, err
	}
	if f.Exists {
		m, err := d.recentMarks(ctx, i)
		if err != nil {
			return nil, err
		}
		if wake, err := d.wake(ctx, f, m); err != nil || wake != settled {
			return nil, err
		}
	}
	return []complaint{{
		Finding: Finding{
			Kind: SlotWithoutOwner, Subject: d.slotsSubject(protocol.SlotHoldersKey(workflow)),
			Problem: fmt.Sprintf("instance %s has a slot since %s, and will not give it back: it is gone, or does not execute", i, h.Since.Format(time.RFC3339)),
			Remedy:  "give the slot back, and nudge the instance that waits longest",
		},
		evidence: fmt.Sprint(h, f.Tail),
		mend: func(ctx context.Context) (string, error) {
			dropped, err := d.slotsOf(workflow).Forget(ctx, h)
			if err != nil {
				return "", err
			}
			if !dropped {
				return seen, nil
			}
			done, err := d.nudgeOldest(ctx, workflow)
			return "gave the slot back; " + done, err
		},
	}}, nil
}

// examineQueue looks whether somebody waits for a slot although nobody has one: slots are handed on by those who give theirs
// back, or who come.
func (d *Doctor) examineQueue(ctx context.Context, workflow string) ([]complaint, error) {
	i, at, ok, err := d.slotsOf(workflow).Oldest(ctx)
	if err != nil || !ok {
		return nil, err
	}
	holders, err := d.slotsOf(workflow).Holders(ctx)
	if err != nil || len(holders) > 0 {
		return nil, err
	}
	f, err := d.factsAtLeader(ctx, i)
	if err != nil || f.newer || !f.WaitsForSlot() {
		return nil, err
	}
	m, err := d.recentMarks(ctx, i)
	if err != nil || f.nudge > f.Park && m.of(i, protocol.ClassNudge, f.nudge) != settled {
		return nil, err
	}
	return []complaint{{
		Finding: Finding{
			Kind: IdleSlots, Subject: d.slotsSubject(protocol.SlotHoldersKey(workflow)),
			Problem: fmt.Sprintf("instance %s waits for a slot of workflow %q, and others may, but nobody has one", i, workflow),
			Remedy:  "nudge the instance that waits longest",
		},
		evidence: fmt.Sprint(at, f.Tail, f.nudge),
		mend:     func(ctx context.Context) (string, error) { return d.nudgeOldest(ctx, workflow) },
	}}, nil
}

// nudgeOldest wakes the instance that waits longest for a slot: it takes one that is free, and who gives it back hands it on.
func (d *Doctor) nudgeOldest(ctx context.Context, workflow string) (string, error) {
	i, _, ok, err := d.slotsOf(workflow).Oldest(ctx)
	if err != nil || !ok {
		return "nobody waits for one", err
	}
	f, err := d.factsAtLeader(ctx, i)
	if err != nil {
		return "", err
	}
	if !f.WaitsForSlot() {
		return fmt.Sprintf("instance %s does not wait any more", i), nil
	}
	done, err := d.nudge(ctx, f)
	return fmt.Sprintf("%s to instance %s", done, i), err
}

// place is the key of an instance in the queue for a slot.
type place struct {
	protocol.SlotWait
	subject  string
	sequence uint64
	instance protocol.Instance
}

func (d *Doctor) readPlace(m *journal.Message) (p place, ok bool) {
	i, err := protocol.ParseSlotWaitKey(d.Project.Name, strings.TrimPrefix(m.Subject, d.slotsSubject("")))
	if err != nil || json.Unmarshal(m.Data, &p.SlotWait) != nil || p.V > protocol.Version {
		return p, false
	}
	p.subject, p.sequence, p.instance = m.Subject, m.Sequence, i
	return p, true
}

// stray reports whether nobody waits at a place. Whoever takes it for one that does gives it a slot.
func (p place) stray(f facts) bool {
	if f.newer {
		return false
	}
	return !f.Exists || f.Incarnation != p.Incarnation || f.Tail > p.Park && !(f.Phase == engine.Parked && f.WaitsForSlot())
}

func (d *Doctor) glanceAtPlaces(ctx context.Context, batch []place) error {
	return glanceAt(ctx, d, batch, func(p place) protocol.Instance { return p.instance }, place.stray,
		func(ctx context.Context, p place) ([]complaint, error) { return d.examinePlace(ctx, p.subject) })
}

func (d *Doctor) examinePlace(ctx context.Context, subject string) ([]complaint, error) {
	m, err := d.last(ctx, d.slotsStream(), subject)
	if err != nil || m == nil {
		return nil, err
	}
	p, ok := d.readPlace(m)
	if !ok {
		return nil, nil
	}
	f, err := d.factsAtLeader(ctx, p.instance)
	if err != nil || !p.stray(f) {
		return nil, err
	}
	return []complaint{{
		Finding: Finding{
			Kind: PlaceWithoutWait, Subject: subject, Remedy: "take it out of the queue",
			Problem: fmt.Sprintf("instance %s is queued for a slot, and does not wait for one: who grants one to it loses the slot", p.instance),
		},
		evidence: fmt.Sprint(p.sequence),
		mend: func(ctx context.Context) (string, error) {
			return fmt.Sprintf("removed message %d", p.sequence), d.Store.Purge(ctx, d.slotsStream(), subject, p.sequence+1)
		},
	}}, nil
}
