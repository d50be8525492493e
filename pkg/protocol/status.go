package protocol

import (
	"encoding/json"
	"fmt"
	"time"
)

// State is what an instance is doing.
type State string

// States of an instance. The names are those of Cloudflare Workflows.
const (
	StateQueued   State = "queued"
	StateRunning  State = "running"
	StateWaiting  State = "waiting"
	StateComplete State = "complete"
	StateErrored  State = "errored"
	// StateTerminated is the end of an instance that was told to stop.
	StateTerminated State = "terminated"
	StatePaused     State = "paused"
	// StateWaitingForPause lets the bodies of steps finish before it becomes StatePaused.
	StateWaitingForPause State = "waitingForPause"
	StateRollingBack     State = "rollingBack"
	// StateHeld waits for a person: code and log contradict each other.
	StateHeld State = "held"
	// StateDeleted is told to those who wait for the end of an instance that was deleted.
	StateDeleted State = "deleted"
)

// Finished reports whether the state is final.
func (s State) Finished() bool {
	return s == StateComplete || s == StateErrored || s == StateTerminated || s == StateDeleted
}

// Done announces the end of an instance. It may be announced more than once, and late.
type Done struct {
	V           int             `json:"v"`
	Workflow    string          `json:"workflow"`
	ID          string          `json:"id"`
	Incarnation uint64          `json:"incarnation"`
	Log         uint64          `json:"log"`
	State       State           `json:"state"`
	Created     time.Time       `json:"created"`
	Finished    time.Time       `json:"finished"`
	Output      json.RawMessage `json:"output,omitempty"`
	Error       *Failure        `json:"error,omitempty"`
	// OutputObject is where the output is if it is too large for a message.
	OutputObject *Object `json:"output_object,omitempty"`
	// Mark is the newest control that was settled when this was said: a restart after it makes it void.
	Mark  uint64 `json:"mark,omitempty"`
	Epoch int    `json:"epoch,omitempty"`
	// Rollback is what became of undoing the steps, nil if that was not asked for.
	Rollback *Rollback `json:"rollback,omitempty"`
	// Expires is when the instance can be cleaned away; nil: never.
	Expires *time.Time `json:"expires,omitempty"`
}

// Rollback is what became of undoing the steps of an instance.
type Rollback struct {
	// Outcome is "complete" or "failed".
	Outcome string   `json:"outcome"`
	Error   *Failure `json:"error,omitempty"`
}

// Timer is the body of a timer, before and after it fires.
type Timer struct {
	V           int       `json:"v"`
	Workflow    string    `json:"workflow"`
	ID          string    `json:"id"`
	Incarnation uint64    `json:"incarnation"`
	Park        uint64    `json:"park"`
	Due         time.Time `json:"due"`
}

// Poke tells whoever executes an instance that it has new input. It is a hint and may be lost.
type Poke struct {
	V        int    `json:"v"`
	Shard    int    `json:"shard"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
	Input    uint64 `json:"input,omitempty"`
	// Wake asks who executes the instance under it: that runner answers, the others are silent.
	Wake *Wake `json:"wake,omitempty"`
	// Control is the sequence of a control that is to be obeyed: whoever executes the instance answers that it does so.
	Control uint64 `json:"control,omitempty"`
}

// Ask is a request for the status of an instance, Answer what a runner of its project says.
type Ask struct {
	V        int    `json:"v"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
	// Step asks for this step alone.
	Step *Key `json:"step,omitempty"`
	// Follow asks for what happened to the instance, and not for its status.
	Follow *Following `json:"follow,omitempty"`
	// Steps asks for a part of the steps, which may be more than an answer holds.
	Steps *StepPage `json:"steps,omitempty"`
}

// StepPage asks for steps in their order, as many as an answer holds. The status tells how many are Omitted before them,
// and how many are Further.
type StepPage struct {
	// From is the number of the first, from 0.
	From int `json:"from"`
	// Log is that of the status that began with step 0: a runner that remembers it goes on there.
	Log uint64 `json:"log,omitempty"`
}

// Answer is the reply to Ask: a status or notices, or a failure named FailureNotFound.
type Answer struct {
	V       int      `json:"v"`
	Status  *Status  `json:"status,omitempty"`
	Error   *Failure `json:"error,omitempty"`
	Notices *Notices `json:"notices,omitempty"`
	// Runner is who told a part of the steps, and goes on most easily.
	Runner string `json:"runner,omitempty"`
}

// FailureNotFound names the failure of an Answer about an instance that does not exist.
const FailureNotFound = "NotFoundError"

// Status is what is known of an instance.
type Status struct {
	Workflow string          `json:"workflow"`
	ID       string          `json:"id"`
	State    State           `json:"state"`
	Created  time.Time       `json:"created"`
	Finished *time.Time      `json:"finished,omitempty"`
	Output   json.RawMessage `json:"output,omitempty"`
	Error    *Failure        `json:"error,omitempty"`
	Steps    []StepStatus    `json:"steps,omitempty"`
	// Runs tells which runner took the instance and when; Lost runs ended without a word.
	Runs []RunStatus `json:"runs,omitempty"`

	Source       Source          `json:"source,omitzero"`
	Params       json.RawMessage `json:"params,omitempty"`
	ParamsObject *Object         `json:"params_object,omitempty"`
	OutputObject *Object         `json:"output_object,omitempty"`
	// Incarnation and Log are the sequences of the create and of the newest log message, Mark that of the newest
	// control that is settled, Epoch the number of restarts.
	Incarnation uint64 `json:"incarnation,omitempty"`
	Log         uint64 `json:"log,omitempty"`
	Mark        uint64 `json:"mark,omitempty"`
	Epoch       int    `json:"epoch,omitempty"`
	// Version is that of the code of the newest run.
	Version    string      `json:"version,omitempty"`
	Parent     *Parent     `json:"parent,omitempty"`
	Rollback   *Rollback   `json:"rollback,omitempty"`
	Divergence *Divergence `json:"divergence,omitempty"`
	Expires    *time.Time  `json:"expires,omitempty"`
	// Omitted is how many of the oldest steps are left out, because the answer would have been too large for a message.
	Omitted int `json:"omitted,omitempty"`
	// OmittedRuns is that of the oldest runs, Further that of steps that follow those that were asked for.
	OmittedRuns int `json:"omitted_runs,omitempty"`
	Further     int `json:"further,omitempty"`
	// Cursor is where a list goes on after this instance.
	Cursor uint64 `json:"cursor,omitempty"`
}

// cursorShift leaves room for 70 trillion messages per shard, and keeps cursors of 64 shards exact in JavaScript.
const cursorShift = 46

// ListCursor is the place of a message in a list over the shards of a project, which goes shard by shard. In the only shard
// of a project it is the sequence.
func ListCursor(shard int, sequence uint64) uint64 { return uint64(shard)<<cursorShift | sequence }

// ParseListCursor is the inverse of ListCursor.
func ParseListCursor(cursor uint64) (shard int, sequence uint64) {
	return int(cursor >> cursorShift), cursor & (1<<cursorShift - 1)
}

// StepStatus is one step of an instance in the order of first appearance in the log.
type StepStatus struct {
	Key
	// State is "running", "waiting", "retrying", "completed", "failed", or "canceled" if the branch that called the step
	// lost a race before it had an outcome.
	State    string          `json:"state"`
	Attempts []AttemptStatus `json:"attempts,omitempty"`
	Until    *time.Time      `json:"until,omitempty"`
	Output   json.RawMessage `json:"output,omitempty"`
	Error    *Failure        `json:"error,omitempty"`
	LostRuns int             `json:"lost_runs,omitempty"`
	// OutputObject is where the output is if it is too large for a message. The output of a sensitive step is Redacted.
	OutputObject *Object     `json:"output_object,omitempty"`
	Config       *StepConfig `json:"config,omitempty"`
	// Heartbeat is what the last sign of life of the body said.
	Heartbeat json.RawMessage `json:"heartbeat,omitempty"`
	// Type is the event type of a wait, Callee the instance that a call is about.
	Type   string  `json:"type,omitempty"`
	Callee *Callee `json:"callee,omitempty"`
	Branch string  `json:"branch,omitempty"`
	// Winner, of a race, is the index of the branch that was first; Within is how the Branch of each step in it begins.
	Winner *int   `json:"winner,omitempty"`
	Within string `json:"within,omitempty"`
}

// Redacted is shown in place of what is sensitive.
const Redacted = `"[REDACTED]"`

// AttemptStatus is one attempt of a step. Of those of one step that no message can hold, the oldest are left out.
type AttemptStatus struct {
	Attempt  int        `json:"attempt"`
	Runner   string     `json:"runner"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Error    *Failure   `json:"error,omitempty"`
}

// RunStatus is one activation of an instance. Runner is empty if the run was lost before it wrote anything.
type RunStatus struct {
	Runner string    `json:"runner"`
	Time   time.Time `json:"time"`
	Wake   string    `json:"wake"`
	Lost   bool      `json:"lost,omitempty"`
	// Version is that of the code.
	Version string `json:"version,omitempty"`
}

// History is everything that is stored of an instance but what was sent to it and not taken: as it is exported, to be
// looked at or replayed elsewhere. It shows the results of sensitive steps, without which nothing can be replayed.
type History struct {
	V       int    `json:"v"`
	Project string `json:"project"`
	Shard   int    `json:"shard,omitempty"`
	Create  Create `json:"create"`
	// Sequence is that under which the create was first stored: the number by which the instance goes.
	Sequence uint64 `json:"sequence"`
	// Log has the messages of the log in their order. Those of another incarnation are left out.
	Log []LoggedAppend `json:"log"`
	// Objects are the values that were too large for messages, by the names that those have for them. Values that were
	// void when it was exported are left out.
	Objects map[string]json.RawMessage `json:"objects,omitempty"`
}

// Value is a value that the history has among its Objects.
func (h History) Value(o Object) (json.RawMessage, error) {
	value, ok := h.Objects[o.Name]
	if !ok {
		return nil, fmt.Errorf("the history of %q has no object %q", h.Create.ID, o.Name)
	}
	return value, nil
}

// LoggedAppend is a message of a log with the sequence under which it is stored.
type LoggedAppend struct {
	Sequence uint64 `json:"sequence"`
	Append   Append `json:"append"`
}
