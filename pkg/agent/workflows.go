package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

const (
	// defaultWorkflows and maxWorkflows bound one page of a list.
	defaultWorkflows = 50
	maxWorkflows     = 100
)

// ErrNotTracked is wrapped if an agent does not track a workflow: it has not started it with RunWorkflow, has deleted it, or
// it ended so long ago that the record has forgotten it.
var ErrNotTracked = errors.New("the agent does not track this workflow")

// NotTrackedError says which workflow an agent does not track.
type NotTrackedError struct{ Agent, Workflow, ID string }

func (e *NotTrackedError) Error() string {
	return fmt.Sprintf("agent %q, instance %q of workflow %q: %v", e.Agent, e.ID, e.Workflow, ErrNotTracked)
}

// Unwrap makes errors.Is(err, ErrNotTracked) true.
func (e *NotTrackedError) Unwrap() error { return ErrNotTracked }

// FailureName is how the error is called where it is stored or answered.
func (e *NotTrackedError) FailureName() string { return "NotTrackedError" }

// WorkflowFilter says which workflows ListWorkflows returns. The zero value takes all.
type WorkflowFilter struct {
	// Binding leads to the workflow whose instances are wanted.
	Binding Binding
	// States are wanted; none: all.
	States []workflow.State
	// Metadata must be among that of the workflow.
	Metadata map[string]string
	// From and To bound when it was started: not before From, and before To.
	From, To time.Time
	// OldestFirst turns the order round.
	OldestFirst bool
	// Limit is how many are returned at most: 1 to 100; 0 is 50.
	Limit int
	// After is where to go on: the Next of the page before.
	After string
}

// WorkflowPage is a part of a list of workflows.
type WorkflowPage struct {
	Workflows []Tracked
	// Total is how many there are in all that the filter takes, Next where the list goes on; empty at its end.
	Total int
	Next  string
}

// WorkflowFilterError says which part of a filter cannot be used.
type WorkflowFilterError struct {
	Field, Value, Allowed string
}

func (e *WorkflowFilterError) Error() string {
	return fmt.Sprintf("filter of workflows: %s is %s, allowed is %s", e.Field, e.Value, e.Allowed)
}

// FailureName is how the error is called where it is stored or answered.
func (e *WorkflowFilterError) FailureName() string { return "WorkflowFilterError" }

// ListWorkflows returns the workflows that the agent tracks, with what it was told of them and the turn's own changes, those
// first that were started last. It reads the record alone.
func ListWorkflows(ctx context.Context, filter WorkflowFilter) (WorkflowPage, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return WorkflowPage{}, err
	}
	takes, err := filter.compile(d)
	if err != nil {
		return WorkflowPage{}, err
	}
	after, err := parseWorkflowCursor(filter.After)
	if err != nil {
		return WorkflowPage{}, err
	}
	all := slices.DeleteFunc(d.known(), func(w protocol.Tracked) bool { return !takes(w) })
	order := func(a, b protocol.Tracked) int {
		n := compareTracked(a, b)
		if filter.OldestFirst {
			return n
		}
		return -n
	}
	slices.SortFunc(all, order)
	page := WorkflowPage{Total: len(all)}
	if after != nil {
		all = slices.DeleteFunc(all, func(w protocol.Tracked) bool { return order(w, *after) <= 0 })
	}
	limit := min(cmp.Or(filter.Limit, defaultWorkflows), len(all))
	for _, w := range all[:limit] {
		page.Workflows = append(page.Workflows, trackedOf(w))
	}
	if limit < len(all) {
		page.Next = workflowCursor(all[limit-1])
	}
	return page, nil
}

// known are the workflows that the agent tracks and that can still be read, for the caller to change.
func (d *draft) known() []protocol.Tracked {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.workflows
	if all == nil {
		all = d.stored.Workflows
	}
	return remember(all, time.Now())
}

func compareTracked(a, b protocol.Tracked) int {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Input, b.Input))
}

// workflowCursor is where a list goes on after a workflow.
func workflowCursor(w protocol.Tracked) string {
	return strconv.FormatInt(w.Created.UnixNano(), 36) + "." + w.Input
}

func parseWorkflowCursor(text string) (*protocol.Tracked, error) {
	if text == "" {
		return nil, nil
	}
	created, input, ok := strings.Cut(text, ".")
	nanos, err := strconv.ParseInt(created, 36, 64)
	if !ok || err != nil || input == "" {
		return nil, &WorkflowFilterError{Field: "After", Value: fmt.Sprintf("%q", text), Allowed: "the Next of a page"}
	}
	return &protocol.Tracked{Created: time.Unix(0, nanos).UTC(), Input: input}, nil
}

// filterStates are those that an agent can be told of.
var filterStates = []workflow.State{
	workflow.Queued, workflow.Running, workflow.Paused, workflow.Held, workflow.Complete, workflow.Errored, workflow.Terminated,
}

// compile checks a filter and returns what it takes.
func (f WorkflowFilter) compile(d *draft) (takes func(protocol.Tracked) bool, err error) {
	for _, s := range f.States {
		if !slices.Contains(filterStates, s) {
			return nil, &WorkflowFilterError{Field: "States", Value: fmt.Sprintf("%q", s), Allowed: fmt.Sprintf("%q", filterStates)}
		}
	}
	if f.Limit < 0 || f.Limit > maxWorkflows {
		return nil, &WorkflowFilterError{Field: "Limit", Value: strconv.Itoa(f.Limit), Allowed: fmt.Sprintf("0 to %d", maxWorkflows)}
	}
	if !f.From.IsZero() && !f.To.IsZero() && !f.To.After(f.From) {
		return nil, &WorkflowFilterError{Field: "To", Value: f.To.Format(time.RFC3339Nano), Allowed: "after From"}
	}
	ofBinding := func(protocol.Tracked) bool { return true }
	if f.Binding != nil {
		target, err := d.actor.host.project.Config.Binding(f.Binding.BindingName())
		if err != nil {
			return nil, err
		}
		ofBinding = func(w protocol.Tracked) bool { return w.Project == target.Project && w.Workflow == target.Workflow }
	}
	return func(w protocol.Tracked) bool {
		for key, value := range f.Metadata {
			if got, ok := w.Metadata[key]; !ok || got != value {
				return false
			}
		}
		return ofBinding(w) && (len(f.States) == 0 || slices.Contains(f.States, w.State)) &&
			!w.Created.Before(f.From) && (f.To.IsZero() || w.Created.Before(f.To))
	}, nil
}

// GetWorkflow returns what the agent knows of a workflow that it tracks. The error is a *NotTrackedError if it does not.
func GetWorkflow(ctx context.Context, binding Binding, id string) (Tracked, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return Tracked{}, err
	}
	target, err := d.actor.host.project.Config.Binding(binding.BindingName())
	if err != nil {
		return Tracked{}, err
	}
	if w, ok := d.find(target.Project, target.Workflow, id); ok {
		return trackedOf(w), nil
	}
	return Tracked{}, &NotTrackedError{Agent: d.agent.Name, Workflow: target.Workflow, ID: id}
}

func (d *draft) find(project, name, id string) (w protocol.Tracked, ok bool) {
	all := d.known()
	i := slices.IndexFunc(all, func(w protocol.Tracked) bool { return w.Project == project && w.Workflow == name && w.ID == id })
	if i < 0 {
		return w, false
	}
	return all[i], true
}

// Instance is a handle to the workflow, in a turn of the agent that tracks it: to approve or reject, to send it an event, to
// pause, resume, terminate, restart or delete it, each as a part of the turn's commit, or to ask for its status. Deleting it
// ends the tracking: nothing more is told. The error is a *NotTrackedError if the agent does not track it any more, a
// *workflow.NotFoundError if it is gone.
func (t Tracked) Instance(ctx context.Context) (*workflow.Instance[json.RawMessage], error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return nil, err
	}
	w, ok := d.find(t.Project, t.Workflow, t.ID)
	if !ok {
		return nil, &NotTrackedError{Agent: d.agent.Name, Workflow: t.Workflow, ID: t.ID}
	}
	return workflow.Find(ctx, d.actor.host.project, w.Instance(), w.Input)
}

// Untrack ends the tracking of the workflow when the turn is stored: it goes on, and the agent is told nothing more of it. The
// error is a *NotTrackedError if the agent does not track it.
func (t Tracked) Untrack(ctx context.Context) error {
	d, err := anyDraft(ctx)
	if err != nil {
		return err
	}
	return d.change(func() error {
		all := d.tracked()
		i := slices.IndexFunc(all, func(w protocol.Tracked) bool {
			return w.Project == t.Project && w.Workflow == t.Workflow && w.ID == t.ID
		})
		if i < 0 {
			return &NotTrackedError{Agent: d.agent.Name, Workflow: t.Workflow, ID: t.ID}
		}
		d.workflows, d.untracks = slices.Delete(all, i, i+1), true
		return nil
	})
}

// steered drafts what a control means for the tracking of its instance. The draft is locked.
func (d *draft) steered(target protocol.Instance, action protocol.Action) {
	to := *outgoingTarget(target)
	all := d.tracked()
	i := slices.IndexFunc(all, func(w protocol.Tracked) bool { return w.OutgoingTarget == to })
	if i < 0 {
		return
	}
	switch action {
	case protocol.ActionDelete:
		d.workflows = slices.Delete(all, i, i+1)
	case protocol.ActionRestart: // among those that have ended, it is not the first to be forgotten
		all[i].Updated = time.Now().UTC()
		d.workflows = all
	}
}
