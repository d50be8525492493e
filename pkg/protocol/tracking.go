package protocol

import "time"

const (
	// MaxTracked is how many workflows that have not ended an agent can track.
	MaxTracked = 500
	// MaxTrackedEnded is how many of those that have ended a record remembers: the others go that ended first.
	MaxTrackedEnded = 100
	// MaxMetadata is the most bytes that the metadata of a tracked workflow may have as JSON.
	MaxMetadata = 1 << 10
	// MaxMetadataKey is the most bytes that one key of it may have.
	MaxMetadataKey = 100
)

// Tracker is the agent that started an instance and is told what becomes of it.
type Tracker struct {
	Project string `json:"project"`
	Class   string `json:"class"`
	Name    string `json:"name"`
	// Life is the one in which the agent started it: another is told nothing.
	Life uint64 `json:"life"`
}

// Agent is who is told.
func (t Tracker) Agent() Agent { return Agent{Project: t.Project, Class: t.Class, Name: t.Name} }

// Tracked is what the record of an agent says of a workflow that the agent has started and is told of.
type Tracked struct {
	OutgoingTarget
	// Input is that of the create: it tells the instance from others of its id.
	Input    string            `json:"input"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Created  time.Time         `json:"created"`
	// Mark is the newest notice that was applied, State what the notices so far make of the instance, Updated when that
	// was said.
	Mark    Cursor    `json:"mark,omitzero"`
	State   State     `json:"state"`
	Updated time.Time `json:"updated"`
	// Expires is when the instance that has ended can be cleaned away, Error its name and message if it did not complete.
	Expires *time.Time `json:"expires,omitempty"`
	Error   *Failure   `json:"error,omitempty"`
}

// Instance is the one that is tracked.
func (t Tracked) Instance() Instance {
	return Instance{Project: t.Project, Shard: t.Shard, Workflow: t.Workflow, ID: t.ID}
}

// WorkflowNotice is what an agent is told of a workflow that it tracks. Its cursor is the number under which it is applied:
// those of one instance rise, and stay the same however often it is told.
type WorkflowNotice struct {
	Project  string `json:"project"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
	// Input is that of the create of the instance.
	Input string `json:"input"`
	Notice
	// Expires comes with the end: when the instance can be cleaned away.
	Expires *time.Time `json:"expires,omitempty"`
}

// refusedCursor is that of the notice that the create of a tracked instance was refused. It comes before those of all
// that a log tells.
var refusedCursor = Cursor{Sequence: 1}

// RefusedNotice tells that the create of a tracked instance was refused.
func RefusedNotice(at OutgoingTarget, create Create, why *Failure, now time.Time) WorkflowNotice {
	return WorkflowNotice{
		Project: at.Project, Workflow: at.Workflow, ID: at.ID, Input: create.Input,
		Notice: Notice{Cursor: refusedCursor, Kind: NoticeErrored, Time: now, Error: why},
	}
}

// TrackedSource is the source, in Mail, of what an agent is told of an instance.
func TrackedSource(project, workflow, id string) string {
	return "workflow/" + project + "/" + workflow + "/" + id
}

// Refused reports whether the notice tells that the create of the instance was refused.
func (n WorkflowNotice) Refused() bool { return n.Cursor == refusedCursor }

// Hook is the method of the agent that a notice is for; empty if it only changes what the agent knows of the instance.
func (n WorkflowNotice) Hook() string {
	switch n.Kind {
	case NoticeProgress:
		return "OnWorkflowProgress"
	case NoticeEventReported:
		return "OnWorkflowEvent"
	case NoticeCompleted:
		return "OnWorkflowComplete"
	case NoticeErrored, NoticeTerminated, NoticeDeleted:
		return "OnWorkflowError"
	}
	return ""
}

// NoticeMail is a notice as mail for the tracker of its instance.
func NoticeMail(t Tracker, n WorkflowNotice, sent time.Time) Mail {
	return Mail{
		V: Version, Source: TrackedSource(n.Project, n.Workflow, n.ID), Number: n.Cursor.Sequence, Life: t.Life, Notice: &n,
		Callback: n.Hook(), Sent: sent,
	}
}
