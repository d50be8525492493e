package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// WorkflowProgressHandler is implemented by agents that want a turn when a workflow that they track says how far it is, with
// workflow.ReportProgress. [Decode] reads what it said.
type WorkflowProgressHandler interface {
	OnWorkflowProgress(ctx context.Context, w Tracked, progress Value) error
}

// WorkflowEventHandler is implemented by agents that want a turn when a workflow that they track says that something has
// happened, with workflow.ReportEvent.
type WorkflowEventHandler interface {
	OnWorkflowEvent(ctx context.Context, w Tracked, event WorkflowEvent) error
}

// WorkflowEvent is something that a workflow says has happened. [Decode] reads its payload.
type WorkflowEvent struct {
	Type    string
	Payload Value
}

// WorkflowCompletionHandler is implemented by agents that want a turn when a workflow that they track completes. [Decode]
// reads its result.
type WorkflowCompletionHandler interface {
	OnWorkflowComplete(ctx context.Context, w Tracked, result Value) error
}

// WorkflowErrorHandler is implemented by agents that want a turn when a workflow that they track ends in any other way, or
// could not be started. The error is a *workflow.InstanceError if it failed, or was terminated or deleted;
// errors.Is(err, workflow.ErrExists) holds if somebody else had taken its id when the turn was stored. Without this method
// it goes to OnError.
type WorkflowErrorHandler interface {
	OnWorkflowError(ctx context.Context, w Tracked, err error) error
}

// voidNotice says why what a workflow tells must not be applied; empty if it must.
func (a *actor) voidNotice(l *letter) string {
	n := l.mail.Notice
	i := trackedAs(a.at.record.Workflows, n)
	switch {
	case l.mail.Life == 0:
		return "of the agent's own, without a life"
	case i < 0, l.from != n.Project && l.from != a.id.Project: // no project may speak for another
		return "of a workflow that is not tracked"
	case n.Cursor.Compare(a.at.record.Workflows[i].Mark) <= 0:
		return "applied before"
	}
	return ""
}

// trackedAs is the place of the workflow that a notice is about; −1 if it is not tracked.
func trackedAs(tracked []protocol.Tracked, n *protocol.WorkflowNotice) int {
	return slices.IndexFunc(tracked, func(w protocol.Tracked) bool {
		return w.Project == n.Project && w.Workflow == n.Workflow && w.ID == n.ID && w.Input == n.Input
	})
}

// note drafts what a notice makes of its workflow, once, and returns how that is then, and how it was. The draft is locked.
func (d *draft) note(n *protocol.WorkflowNotice) (now, before protocol.Tracked) {
	all := d.tracked()
	i := trackedAs(all, n)
	if i < 0 { // a dead letter, redriven
		unknown := protocol.Tracked{
			OutgoingTarget: protocol.OutgoingTarget{Project: n.Project, Workflow: n.Workflow, ID: n.ID}, Input: n.Input,
		}
		return told(unknown, n), unknown
	}
	before = all[i]
	if n.Cursor.Compare(before.Mark) <= 0 {
		return before, before
	}
	now = told(before, n)
	all[i] = now
	if n.Kind == protocol.NoticeDeleted {
		all = slices.Delete(all, i, i+1)
	}
	d.workflows = all
	return now, before
}

// told is a workflow after a notice.
func told(w protocol.Tracked, n *protocol.WorkflowNotice) protocol.Tracked {
	w.Mark, w.Updated, w.Expires, w.Error = n.Cursor, n.Time, n.Expires, brief(n.Error)
	switch n.Kind {
	case protocol.NoticeCompleted:
		w.State = protocol.StateComplete
	case protocol.NoticeErrored:
		w.State = protocol.StateErrored
	case protocol.NoticeTerminated:
		w.State = protocol.StateTerminated
	case protocol.NoticeDeleted:
		w.State = protocol.StateDeleted
	case protocol.NoticePaused:
		w.State = protocol.StatePaused
	case protocol.NoticeHeld:
		w.State = protocol.StateHeld
	default:
		w.State = protocol.StateRunning
	}
	return w
}

// maxBrief is the most bytes of a message that a record keeps of an error.
const maxBrief = 200

// brief is what a record keeps of an error.
func brief(f *protocol.Failure) *protocol.Failure {
	if f == nil {
		return nil
	}
	message := f.Message
	if len(message) > maxBrief {
		message = strings.ToValidUTF8(message[:maxBrief], "") + "…"
	}
	return &protocol.Failure{Name: f.Name, Message: message}
}

// hear gives the agent what a notice tells, after the draft knows.
func (a *actor) hear(ctx context.Context, d *draft, n *protocol.WorkflowNotice) error {
	var now, before protocol.Tracked
	err := d.change(func() error { now, before = d.note(n); return nil })
	if err != nil {
		return err
	}
	switch n.Kind {
	case protocol.NoticeProgress:
		if handler, ok := d.self.(WorkflowProgressHandler); ok {
			return handler.OnWorkflowProgress(ctx, trackedOf(now), valueOf(n))
		}
	case protocol.NoticeEventReported:
		return a.hearEvent(ctx, d, trackedOf(now), n)
	case protocol.NoticeCompleted:
		if handler, ok := d.self.(WorkflowCompletionHandler); ok {
			return handler.OnWorkflowComplete(ctx, trackedOf(now), valueOf(n))
		}
	case protocol.NoticeErrored, protocol.NoticeTerminated:
		return a.hearError(ctx, d, trackedOf(now), n)
	case protocol.NoticeDeleted:
		if !before.State.Finished() { // else it had ended, and that was told
			return a.hearError(ctx, d, trackedOf(now), n)
		}
	}
	return nil
}

func (a *actor) hearEvent(ctx context.Context, d *draft, w Tracked, n *protocol.WorkflowNotice) error {
	handler, ok := d.self.(WorkflowEventHandler)
	switch {
	case !ok && a.deaf:
		return nil
	case !ok:
		a.deaf = true
		a.log.WarnContext(ctx, "agent has no OnWorkflowEvent, events of its workflows are dropped",
			slog.String(logkey.Workflow, w.Workflow), slog.String(logkey.Instance, w.ID), slog.String(logkey.Event, n.Type))
		return nil
	}
	return handler.OnWorkflowEvent(ctx, w, WorkflowEvent{Type: n.Type, Payload: valueOf(n)})
}

// hearError gives the agent how a workflow has ended that did not complete.
func (a *actor) hearError(ctx context.Context, d *draft, w Tracked, n *protocol.WorkflowNotice) error {
	err := howEnded(n)
	if handler, ok := d.self.(WorkflowErrorHandler); ok {
		return handler.OnWorkflowError(ctx, w, err)
	}
	if handler, ok := d.self.(ErrorHandler); ok {
		return handler.OnError(ctx, err)
	}
	a.log.ErrorContext(ctx, "agent has neither OnWorkflowError nor OnError for a workflow that did not complete",
		slog.String(logkey.Workflow, w.Workflow), slog.String(logkey.Instance, w.ID), slog.Any(logkey.Error, err))
	return nil
}

// howEnded is the error by which a workflow ended.
func howEnded(n *protocol.WorkflowNotice) error {
	failure := n.Error
	if failure == nil {
		failure = &protocol.Failure{Name: protocol.FailureError, Message: "the instance has not completed"}
	}
	switch {
	case n.Refused() && failure.Name == protocol.FailureExists:
		return &workflow.ExistsError{Workflow: n.Workflow, ID: n.ID}
	case n.Refused():
		return &RefusedError{What: "start of instance " + protocol.Instance{Project: n.Project, Workflow: n.Workflow, ID: n.ID}.String(), Err: failure}
	}
	return &workflow.InstanceError{Workflow: n.Workflow, ID: n.ID, Failure: failure}
}

func valueOf(n *protocol.WorkflowNotice) Value {
	return Value{project: n.Project, raw: n.Value, object: n.Object}
}
