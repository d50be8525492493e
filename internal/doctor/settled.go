package doctor

import (
	"context"
	"errors"
	"slices"
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
type marks map[int]shardMarks

type shardMarks struct {
	wakes, controls mark
	at              time.Time
}

// marksAge is how old marks may be: what is settled stays so, and what was open is looked at again.
const marksAge = time.Second

// recentMarks are marks of the shards of instances that need not be asked for again for each instance.
func (d *Doctor) recentMarks(ctx context.Context, instances ...protocol.Instance) (marks, error) {
	for _, i := range instances {
		if time.Since(d.marked[i.Shard].at) < marksAge {
			continue
		}
		m, err := d.marks(ctx, []int{i.Shard})
		if err != nil {
			return nil, err
		}
		d.marked[i.Shard] = m[i.Shard]
	}
	return d.marked, nil
}

// shardsOf are the shards of the instances that some things are about.
func shardsOf[T any](all []T, of func(T) protocol.Instance) []int {
	var shards []int
	for _, one := range all {
		if shard := of(one).Shard; !slices.Contains(shards, shard) {
			shards = append(shards, shard)
		}
	}
	return shards
}

// marks asks how far the consumers of shards have come. One that is missing is an error: whoever serves the project makes it.
func (d *Doctor) marks(ctx context.Context, shards []int) (marks, error) {
	all := marks{}
	for _, shard := range shards {
		stream := protocol.WorkflowsStream(d.Project.Name, shard)
		at := time.Now()
		wakes, err := d.mark(ctx, stream, protocol.ConsumerWakes(shard), protocol.InputSubjects(d.Project.Name, shard))
		if err != nil {
			return all, err
		}
		controls, err := d.mark(ctx, stream, protocol.ConsumerControls(shard), protocol.ControlSubjects(d.Project.Name, shard))
		if err != nil {
			return all, err
		}
		all[shard] = shardMarks{wakes, controls, at}
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
	of, known := m[i.Shard]
	switch {
	case !known:
		return unknown
	case class == protocol.ClassControl:
		return of.controls.state(sequence)
	}
	return of.wakes.state(sequence)
}
