package doctor

import (
	"context"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// wakeState is what can be told from outside of a wake.
type wakeState string

const (
	// settled: it is acknowledged, or gone, and never comes again.
	settled wakeState = "settled"
	// open: it is not acknowledged.
	open wakeState = "open"
	// unknown: it was delivered, and an older wake is open. The server tells up to where all are acknowledged, and not which
	// are after that.
	unknown wakeState = "unknown"
)

// mark is how far a consumer has come.
type mark struct {
	// floor is the sequence up to which everything is acknowledged, delivered that of the newest message that was delivered.
	floor, delivered uint64
	// first is the first message after the floor: open if there is one.
	first uint64
	// alone is set if that is the only one that was delivered and is open.
	alone bool
}

func (m mark) state(sequence uint64) wakeState {
	switch {
	case sequence <= m.floor:
		return settled
	case sequence > m.delivered, sequence <= m.first:
		return open
	case m.alone:
		return settled
	}
	return unknown
}

// marks are those of the consumers of a project's instances, by shard.
type marks struct{ wakes, controls []mark }

// marksAge is how old marks may be: what is settled stays so, and what was open is looked at again.
const marksAge = time.Second

// recentMarks are marks that need not be asked for again for each instance.
func (d *Doctor) recentMarks(ctx context.Context) (marks, error) {
	if time.Since(d.markedAt) < marksAge {
		return d.marked, nil
	}
	m, err := d.marks(ctx)
	if err == nil {
		d.marked, d.markedAt = m, time.Now()
	}
	return m, err
}

// marks asks how far the consumers have come. One that is missing is an error: whoever serves the project makes it.
func (d *Doctor) marks(ctx context.Context) (marks, error) {
	var all marks
	for shard := range d.Project.Shards {
		stream := protocol.WorkflowsStream(d.Project.Name, shard)
		wakes, err := d.mark(ctx, stream, protocol.ConsumerWakes(shard), protocol.InputSubjects(d.Project.Name, shard))
		if err != nil {
			return all, err
		}
		controls, err := d.mark(ctx, stream, protocol.ConsumerControls(shard), protocol.ControlSubjects(d.Project.Name, shard))
		if err != nil {
			return all, err
		}
		all.wakes, all.controls = append(all.wakes, wakes), append(all.controls, controls)
	}
	return all, nil
}

func (d *Doctor) mark(ctx context.Context, stream, name, subjects string) (mark, error) {
	p, err := d.Store.Progress(ctx, stream, name)
	if err != nil {
		return mark{}, err
	}
	m := mark{floor: p.Floor, delivered: p.Delivered}
	if p.Unacked == 0 { // nothing that was delivered is open
		m.floor = max(m.floor, m.delivered)
		return m, nil
	}
	first, err := d.Store.NextFromLeader(ctx, stream, subjects, m.floor+1)
	switch {
	case errors.Is(err, journal.ErrNotFound):
	case err != nil:
		return mark{}, err
	default:
		m.first, m.alone = first.Sequence, p.Unacked == 1
	}
	return m, nil
}

// of is the state of the wake of a message, by the subject that it was sent to.
func (m marks) of(i protocol.Instance, class protocol.Class, sequence uint64) wakeState {
	of := m.wakes
	if class == protocol.ClassControl {
		of = m.controls
	}
	if i.Shard >= len(of) {
		return unknown
	}
	return of[i.Shard].state(sequence)
}
