package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/protocol"
)

// together is how many instances are looked at with one read of what is newest of them.
const together = 64

// doubt is an instance of which nobody can tell now whether it has a wake.
type doubt struct {
	instance protocol.Instance
	wake     uint64
}

func (d *Doctor) doubt(i protocol.Instance, wake uint64) { d.doubts = append(d.doubts, doubt{i, wake}) }

// scanInstances goes through the creates. What it sees may be stale: it only says what is to be looked at.
func (d *Doctor) scanInstances(ctx context.Context) error {
	if d.Project.Shards == 0 {
		return nil // it has no workflows
	}
	var batch []protocol.Instance
	look := func() error {
		err := d.glance(ctx, batch)
		d.report.Instances += len(batch)
		d.pace.advance(len(batch))
		batch = batch[:0]
		return err
	}
	for shard := range d.Project.Shards {
		err := d.each(ctx, protocol.WorkflowsStream(d.Project.Name, shard), protocol.AllCreates(d.Project.Name), func(m *journal.Message) error {
			i, _, err := protocol.ParseInstanceSubject(m.Subject)
			if err != nil {
				return nil // nobody can reach it
			}
			if batch = append(batch, i); len(batch) < together {
				return nil
			}
			return look()
		})
		if err == nil && len(batch) > 0 {
			err = look()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pageSize is how many messages one read brings. Those that are wanted may be far from each other.
const pageSize = 256

// each goes through what a stream holds of a subject now, page by page.
func (d *Doctor) each(ctx context.Context, stream, subject string, f func(*journal.Message) error) error {
	state, err := d.Store.State(ctx, stream)
	if err != nil {
		return err
	}
	for from := state.First; from <= state.Last; {
		began := time.Now()
		page, _, err := d.Store.Page(ctx, stream, subject, from, pageSize)
		if err == nil && len(page) == 0 {
			page, err = d.nextAtLeader(ctx, stream, subject, from)
		}
		if err != nil || len(page) == 0 {
			return err
		}
		if err := d.pace.rest(ctx, began, len(page)); err != nil {
			return err
		}
		for n := range page {
			if page[n].Sequence > state.Last {
				return nil
			}
			if err := f(&page[n]); err != nil {
				return err
			}
		}
		from = page[len(page)-1].Sequence + 1
	}
	return nil
}

// nextAtLeader asks the leader for what a replica may not have.
func (d *Doctor) nextAtLeader(ctx context.Context, stream, subject string, from uint64) ([]journal.Message, error) {
	m, err := d.Store.NextFromLeader(ctx, stream, subject, from)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []journal.Message{*m}, nil
}

// glance looks at some instances with few reads, and suspects those that may lack something.
func (d *Doctor) glance(ctx context.Context, instances []protocol.Instance) error {
	all, err := d.newest(ctx, instances)
	if err != nil {
		return err
	}
	marks, err := d.marks(ctx, shardsOf(all, func(f facts) protocol.Instance { return f.instance }))
	if err != nil {
		return err
	}
	beside, err := d.beside(ctx, all)
	if err != nil {
		return err
	}
	for _, f := range all {
		switch verdict := d.verdict(f, marks, beside); {
		case f.newer:
			d.report.Unreadable++
		case verdict == settled:
			err = d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examine(ctx, f.instance) })
		case verdict == unknown:
			wake := f.Holder.Sequence
			if f.Phase == engine.Parked {
				wake = f.nudge
			}
			d.doubt(f.instance, wake)
		}
		if err != nil {
			return err
		}
	}
	return d.glanceAtCalls(ctx, all)
}

// newest reads what is newest of some instances from whichever replica answers.
func (d *Doctor) newest(ctx context.Context, instances []protocol.Instance) ([]facts, error) {
	byStream := map[string][]protocol.Instance{}
	for _, i := range instances {
		byStream[i.Stream()] = append(byStream[i.Stream()], i)
	}
	var all []facts
	for _, stream := range slices.Sorted(maps.Keys(byStream)) {
		found, err := d.newestOf(ctx, stream, byStream[stream])
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// newestOf is newest for instances of one stream. It reads half as many at a time if one answer cannot hold them.
func (d *Doctor) newestOf(ctx context.Context, stream string, instances []protocol.Instance) ([]facts, error) {
	filters := make([]string, 0, 2*len(instances))
	for _, i := range instances {
		filters = append(filters, i.EverySubject(), i.InputsSubject())
	}
	began := time.Now()
	batch, err := d.Store.LastOfMany(ctx, stream, filters)
	if err != nil {
		return nil, err
	}
	if err := d.pace.rest(ctx, began, len(batch.Messages)); err != nil {
		return nil, err
	}
	if batch.Cut && len(instances) > 1 {
		half := len(instances) / 2
		first, err := d.newestOf(ctx, stream, instances[:half])
		if err != nil {
			return nil, err
		}
		second, err := d.newestOf(ctx, stream, instances[half:])
		return append(first, second...), err
	}
	seen := map[protocol.Instance][]journal.Message{}
	for _, m := range batch.Messages {
		if i, _, err := protocol.ParseInstanceSubject(m.Subject); err == nil {
			seen[i] = append(seen[i], m)
		}
	}
	all := make([]facts, 0, len(instances))
	for _, i := range instances {
		if f := factsOf(i, seen[i]); f.Exists || f.newer {
			all = append(all, f)
		}
	}
	return all, nil
}

// beside has the subjects of what stands beside the logs of parked instances: timers, and places in queues for slots.
type beside map[string]bool

// beside reads what parked instances should have.
func (d *Doctor) beside(ctx context.Context, all []facts) (beside, error) {
	var timers, places []string
	for _, f := range all {
		if f.Phase != engine.Parked {
			continue
		}
		if f.Until != nil {
			timers = append(timers, f.instance.TimerSubject(f.Park), f.instance.DueSubject(f.Park))
		}
		if f.WaitsForSlot() {
			places = append(places, d.placeOf(f.instance))
		}
	}
	found := beside{}
	for _, of := range []struct {
		stream   string
		subjects []string
	}{{d.timers(), timers}, {d.slotsStream(), places}} {
		if len(of.subjects) == 0 {
			continue
		}
		batch, err := d.Store.LastOfMany(ctx, of.stream, of.subjects)
		if err != nil {
			return nil, err
		}
		for _, m := range batch.Messages {
			found[m.Subject] = len(m.Data) > 0
		}
	}
	return found, nil
}

func (d *Doctor) slotsStream() string { return protocol.KVStream(protocol.SlotsBucket(d.Project.Name)) }

// placeOf is the subject that queues an instance for a slot.
func (d *Doctor) placeOf(i protocol.Instance) string {
	return d.slotsSubject(protocol.SlotWaitKey(i))
}

// verdict says, from a glance, whether somebody will see to an instance: open if so, settled if it may be that nobody does,
// and unknown if nobody can tell.
func (d *Doctor) verdict(f facts, m marks, b beside) wakeState {
	if f.newer {
		return open
	}
	if f.control > f.Mark && f.steer.Action != protocol.ActionCompact && m.of(f.instance, protocol.ClassControl, f.control) == settled {
		return settled
	}
	switch f.Phase {
	case engine.Paused:
		if f.control == f.Mark && f.steer.Source.Kind == sourceKind {
			return settled
		}
		return open
	case engine.Finished:
		if f.told && !f.deleted {
			return open
		}
		return settled
	case engine.Running:
		if f.carried && !f.Begun || f.Holder.Sequence != f.createAt || f.Holder.Stream != f.instance.Stream() {
			return settled // whether its wake is there takes a look
		}
		return m.of(f.instance, protocol.ClassCreate, f.createAt)
	}
	return parkedVerdict(f, m, b, d.placeOf(f.instance))
}

func parkedVerdict(f facts, m marks, b beside, place string) wakeState {
	switch {
	case f.nudge > f.Park: // it goes on when that is delivered
		return m.of(f.instance, protocol.ClassNudge, f.nudge)
	case f.Until != nil && !b[f.instance.TimerSubject(f.Park)] && !b[f.instance.DueSubject(f.Park)]:
		return settled
	case f.WaitsForSlot() && !b[place]:
		return settled
	case f.WaitsForEvents() && f.event > f.Incarnation && m.of(f.instance, protocol.ClassEvent, f.event) == settled:
		return settled
	}
	return open
}

// examine looks at an instance at the leaders. The tail is read before and after everything else: if it is the same, all
// that was seen between belongs to it.
func (d *Doctor) examine(ctx context.Context, i protocol.Instance) ([]complaint, error) {
	f, err := d.factsAtLeader(ctx, i)
	if err != nil || !f.Exists || f.newer {
		return nil, err
	}
	m, err := d.recentMarks(ctx, i)
	if err != nil {
		return nil, err
	}
	seen, err := d.evidence(ctx, f, m)
	if err != nil {
		return nil, err
	}
	if seen.holder == unknown && (f.Phase == engine.Running || f.Phase == engine.Parked) {
		d.doubt(i, f.Holder.Sequence)
	}
	tail, err := d.last(ctx, i.Stream(), i.LogSubject())
	if err != nil || tail != nil && tail.Sequence != f.Tail || tail == nil && f.Tail != 0 {
		return nil, err // it moves
	}
	kind, problem := diagnose(f, seen)
	if kind == "" {
		return nil, nil
	}
	c := complaint{
		Finding:  Finding{Kind: kind, Subject: i.String(), Problem: problem, Remedy: remedies[kind]},
		evidence: fmt.Sprint(f.Incarnation, f.Tail, f.Holder, f.event, f.nudge, f.control),
	}
	c.mend = func(ctx context.Context) (string, error) { return d.mend(ctx, kind, f) }
	return []complaint{c}, nil
}

// evidence is what stands beside the log of an instance.
type evidence struct {
	// holder is the state of the wake that it is held under, event, nudge and control those of the newest ones.
	holder, event, nudge, control wakeState
	timer, queued                 bool
	debt                          runner.Debt
}

func (d *Doctor) evidence(ctx context.Context, f facts, m marks) (e evidence, err error) {
	if e.holder, err = d.wake(ctx, f, m); err != nil {
		return e, err
	}
	e.event = m.of(f.instance, protocol.ClassEvent, f.event)
	e.nudge = m.of(f.instance, protocol.ClassNudge, f.nudge)
	e.control = m.of(f.instance, protocol.ClassControl, f.control)
	if f.Phase == engine.Parked && f.Until != nil {
		if e.timer, err = d.hasTimer(ctx, f); err != nil {
			return e, err
		}
	}
	if f.WaitsForSlot() {
		if e.queued, err = d.isQueued(ctx, f); err != nil {
			return e, err
		}
	}
	if f.control > f.Mark && e.control == settled || f.Phase == engine.Parked && f.WaitsForEvents() && f.event > 0 && e.event == settled {
		e.debt, err = d.reader.Debt(ctx, f.instance)
	}
	return e, err
}

// hasTimer reads what is armed before what has fired: it goes from one to the other.
func (d *Doctor) hasTimer(ctx context.Context, f facts) (bool, error) {
	for _, subject := range []string{f.instance.TimerSubject(f.Park), f.instance.DueSubject(f.Park)} {
		m, err := d.last(ctx, d.timers(), subject)
		if err != nil || m != nil && len(m.Data) > 0 {
			return true, err
		}
	}
	return false, nil
}

// isQueued reports whether an instance has a place in the queue for a slot that is that of its park.
func (d *Doctor) isQueued(ctx context.Context, f facts) (bool, error) {
	m, err := d.last(ctx, d.slotsStream(), d.placeOf(f.instance))
	if err != nil || m == nil {
		return false, err
	}
	var w protocol.SlotWait
	return json.Unmarshal(m.Data, &w) == nil && w.Incarnation == f.Incarnation, nil
}

// settleDoubts looks once more at instances whose wakes nobody could tell of: those that are settled now are suspects.
func (d *Doctor) settleDoubts(ctx context.Context) error {
	if len(d.doubts) == 0 {
		return nil
	}
	d.pace.begin("instances in doubt", d.Progress)
	m, err := d.marks(ctx, shardsOf(d.doubts, func(x doubt) protocol.Instance { return x.instance }))
	if err != nil {
		return err
	}
	doubts := d.doubts
	d.doubts = nil
	for _, x := range doubts {
		// The wake may be an input or a control: of both it must be known.
		input, control := m.of(x.instance, protocol.ClassEvent, x.wake), m.of(x.instance, protocol.ClassControl, x.wake)
		switch {
		case input == unknown, control == unknown:
			d.report.Undecided++
		case input == settled, control == settled:
			if err := d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examine(ctx, x.instance) }); err != nil {
				return err
			}
		}
	}
	return d.confirm(ctx)
}
