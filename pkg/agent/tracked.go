package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// RunWorkflow starts an instance of a workflow, as Create of its binding does, and tracks it: the agent is told what becomes
// of it, in turns of its own and each thing once, however long that takes and whoever dies meanwhile (see
// [WorkflowCompletionHandler], [WorkflowErrorHandler]). Start and tracking are part of the turn's commit. Options are
// those of Create but OnExisting; Metadata describes the instance.
//
// The errors are those of Create, before anything is stored; *TooManyWorkflowsError if the agent tracks protocol.MaxTracked
// that have not ended.
func RunWorkflow[P, R any](
	ctx context.Context, binding workflow.Binding[P, R], params P, options ...workflow.CreateOption,
) (*workflow.Instance[R], error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return nil, err
	}
	return binding.Create(turn.With(ctx, &tracking{draft: d}), params, options...)
}

// tracking is a turn in which a workflow is started that its agent tracks.
type tracking struct {
	*draft
	metadata map[string]string
}

// Describe notes what the agent wants to know of the workflow.
func (t *tracking) Describe(metadata map[string]string) { t.metadata = metadata }

// Create puts the start of an instance into the outbox and tracks it.
func (t *tracking) Create(target protocol.Instance, create protocol.Create, _ protocol.Existing) error {
	d := t.draft
	return d.change(func() error {
		to := outgoingTarget(target)
		tracked := slices.DeleteFunc(d.tracked(), func(w protocol.Tracked) bool { return w.OutgoingTarget == *to })
		if live(tracked) >= protocol.MaxTracked {
			return &TooManyWorkflowsError{Agent: d.agent.Name, Limit: protocol.MaxTracked}
		}
		create.Tracker = &protocol.Tracker{Project: d.agent.Project, Class: d.agent.Class, Name: d.agent.Name, Life: d.stored.Life}
		d.workflows = append(tracked, protocol.Tracked{
			OutgoingTarget: *to, Input: create.Input, Metadata: t.metadata, Created: create.Created,
			State: workflow.Queued, Updated: create.Created,
		})
		d.put(protocol.Outgoing{Kind: protocol.OutgoingCreate, Instance: to, Create: &create})
		return nil
	})
}

// tracked are the workflows that the agent tracks, for the caller to change. The draft is locked.
func (d *draft) tracked() []protocol.Tracked {
	if d.workflows != nil {
		return d.workflows
	}
	return append([]protocol.Tracked{}, d.stored.Workflows...)
}

// terminateAll asks for the end of all workflows that the agent tracks and that have not ended. The draft is locked.
func (d *draft) terminateAll(now time.Time) {
	for _, w := range d.tracked() {
		if w.State.Finished() {
			continue
		}
		to := w.OutgoingTarget
		d.put(protocol.Outgoing{Kind: protocol.OutgoingControl, Instance: &to, Of: w.Input, Control: &protocol.Control{
			V: protocol.Version, Input: uuid.NewString(), Action: protocol.ActionTerminate, Sent: now, Source: d.Source(),
		}})
	}
}

// live counts the workflows that have not ended.
func live(tracked []protocol.Tracked) (n int) {
	for _, w := range tracked {
		if !w.State.Finished() {
			n++
		}
	}
	return n
}

// remember returns the workflows that a record remembers: of those that have ended, the newest that can still be read.
func remember(tracked []protocol.Tracked, now time.Time) []protocol.Tracked {
	all := slices.DeleteFunc(slices.Clone(tracked), func(w protocol.Tracked) bool {
		return w.Expires != nil && !now.Before(*w.Expires)
	})
	ended := slices.DeleteFunc(slices.Clone(all), func(w protocol.Tracked) bool { return !w.State.Finished() })
	over := len(ended) - protocol.MaxTrackedEnded
	if over <= 0 {
		return all
	}
	slices.SortFunc(ended, func(a, b protocol.Tracked) int { return cmp.Or(a.Updated.Compare(b.Updated), cmp.Compare(a.ID, b.ID)) })
	return slices.DeleteFunc(all, func(w protocol.Tracked) bool {
		return slices.ContainsFunc(ended[:over], func(e protocol.Tracked) bool { return e.Input == w.Input })
	})
}

// TooManyWorkflowsError says that an agent cannot track another workflow before one has ended.
type TooManyWorkflowsError struct {
	Agent string
	Limit int
}

func (e *TooManyWorkflowsError) Error() string {
	return fmt.Sprintf("agent %q tracks %d workflows that have not ended, more are not allowed", e.Agent, e.Limit)
}

// FailureName is how the error is called where it is stored or answered.
func (e *TooManyWorkflowsError) FailureName() string { return "TooManyWorkflowsError" }

// Tracked is what an agent knows of a workflow that it has started with RunWorkflow.
type Tracked struct {
	// Project, Workflow and ID name the instance.
	Project, Workflow, ID string
	Metadata              map[string]string
	// State is what the agent was told of last, Updated when that was so: between them, an instance that runs may wait, and one
	// that is about to end may have.
	State   workflow.State
	Created time.Time
	Updated time.Time
	// Error is how it has ended, if it did not complete.
	Error *protocol.Failure
}

func trackedOf(w protocol.Tracked) Tracked {
	return Tracked{
		Project: w.Project, Workflow: w.Workflow, ID: w.ID, Metadata: w.Metadata, State: w.State, Created: w.Created,
		Updated: w.Updated, Error: w.Error,
	}
}

// Value is something that a workflow has handed to its agent, as JSON.
type Value struct {
	project string // of the workflow
	raw     json.RawMessage
	object  *protocol.Object
}

// Decode reads a value as a T.
func Decode[T any](ctx context.Context, v Value) (T, error) {
	var t T
	h := hostOf(ctx)
	if h == nil {
		return t, ErrNoTurn
	}
	raw, err := h.project.Objects().Load(ctx, v.project, v.raw, v.object)
	if err != nil || len(raw) == 0 {
		return t, err
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return t, &payloadError{fmt.Errorf("decode what a workflow handed over as %T: %w", t, err)}
	}
	return t, nil
}
