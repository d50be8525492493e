package runner

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// Glance tells of an instance what its create and the tail of its log say, without reading the log. It returns
// journal.ErrNotFound if there is none.
func (r Reader) Glance(ctx context.Context, workflow, id string) (protocol.Status, error) {
	instance := protocol.Instance{Project: r.Project, Shard: protocol.Shard(id, r.Shards), Workflow: workflow, ID: id}
	s, err := r.look(ctx, instance)
	if err != nil {
		return protocol.Status{}, err
	}
	return r.glance(instance, s)
}

func (r Reader) glance(instance protocol.Instance, s sight) (protocol.Status, error) {
	if s.created == 0 {
		return protocol.Status{}, journal.ErrNotFound
	}
	s.create.Workflow, s.create.ID = instance.Workflow, instance.ID // whatever the body says
	status, err := engine.Glance(instance.Stream(), s.created, s.create, s.tailAt, s.tail)
	if err == nil && gone(status, time.Now()) {
		err = journal.ErrNotFound
	}
	return status, err
}

// gone reports whether readers do not find the instance any more.
func gone(status protocol.Status, now time.Time) bool {
	return status.State == protocol.StateDeleted || status.Expires != nil && !now.Before(*status.Expires)
}

// narrow leaves the one step in a status that was asked for.
func narrow(status *protocol.Status, step protocol.Key) {
	i := slices.IndexFunc(status.Steps, func(s protocol.StepStatus) bool { return s.Key == step })
	if i < 0 {
		status.Steps = nil
		return
	}
	status.Steps = []protocol.StepStatus{fitStep(status.Steps[i])}
}

// maxAnswer keeps an answer below the NATS server's default max_payload of 1 MiB.
const maxAnswer = 900 << 10

// maxRuns is how many runs an answer tells of if it cannot tell all.
const maxRuns = 1000

// fit encodes an answer. Of one that is too large it leaves out the oldest runs, then the oldest steps.
func fit(answer protocol.Answer) ([]byte, error) {
	body, err := json.Marshal(answer)
	if err != nil || len(body) <= maxAnswer || answer.Status == nil {
		return body, err
	}
	status := *answer.Status
	answer.Status = &status
	if n := len(status.Runs) - maxRuns; n > 0 {
		status.Runs, status.OmittedRuns = status.Runs[n:], n
		return fit(answer)
	}
	room := maxAnswer - len(body)
	for i := range status.Steps {
		room += weight(status.Steps[i])
		if room >= len(`"omitted":10000000,`) || i == len(status.Steps)-1 {
			status.Steps, status.Omitted = status.Steps[i+1:], i+1
			break
		}
	}
	return json.Marshal(answer)
}
