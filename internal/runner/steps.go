package runner

import (
	"context"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// maxSteps bounds the steps of one answer, in bytes.
	maxSteps = 512 << 10
	// maxListings is how many statuses are kept for those who ask on, maxListing how many bytes of steps one of them has.
	maxListings = 4
	maxListing  = 64 << 20
)

// listing names a status of which a part of the steps was told.
type listing struct {
	instance protocol.Instance
	log      uint64
	from     int
}

// steps answers with a part of the steps of an instance.
func (r *Runner) steps(ctx context.Context, ask protocol.Ask) protocol.Answer {
	instance := protocol.Instance{Project: r.Project, Shard: protocol.Shard(ask.ID, r.Shards), Workflow: ask.Workflow, ID: ask.ID}
	by := listing{instance, ask.Steps.Log, ask.Steps.From}
	whole, ok := r.listings.take(by)
	if !ok {
		status, err := r.Status(ctx, ask.Workflow, ask.ID)
		if err != nil {
			return refusal(ask, err)
		}
		whole = &status
	}
	part, next := stepsFrom(*whole, ask.Steps.From)
	if part.Further > 0 && sizeOf(whole.Steps) <= maxListing {
		r.listings.put(listing{instance, whole.Log, next}, whole, maxListings)
	}
	return protocol.Answer{V: protocol.Version, Runner: r.ID, Status: &part}
}

// stepsFrom says of a status what tells it from others, and the steps from a number on: at least one and as many as an
// answer holds. It returns the number of the next.
func stepsFrom(s protocol.Status, from int) (part protocol.Status, next int) {
	from = min(max(from, 0), len(s.Steps))
	part, next = protocol.Status{
		Workflow: s.Workflow, ID: s.ID, State: s.State, Created: s.Created, Incarnation: s.Incarnation, Epoch: s.Epoch, Log: s.Log,
		Omitted: from,
	}, from
	for size := 0; next < len(s.Steps); next++ {
		step := fitStep(s.Steps[next])
		if size += weight(step); size > maxSteps && next > from {
			break
		}
		part.Steps = append(part.Steps, step)
	}
	part.Further = len(s.Steps) - next
	return part, next
}

// fitStep leaves out the oldest attempts of a step that is too large with them.
func fitStep(step protocol.StepStatus) protocol.StepStatus {
	size := weight(step)
	for len(step.Attempts) > 1 && size > maxSteps {
		size -= weight(step.Attempts[0])
		step.Attempts = step.Attempts[1:]
	}
	return step
}

// sizeOf is about how much memory steps take.
func sizeOf(steps []protocol.StepStatus) int {
	size := 0
	for _, s := range steps {
		size += 512 + len(s.Output) + 128*len(s.Attempts)
	}
	return size
}
