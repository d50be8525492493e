package protocol

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Notice tells of one thing that happened to an instance. Which fields are set depends on Kind.
type Notice struct {
	Cursor Cursor     `json:"cursor"`
	Kind   NoticeKind `json:"kind"`
	Time   time.Time  `json:"time"`
	// Runner is who recorded it.
	Runner string `json:"runner,omitempty"`
	// Step, Branch and Attempt are set for everything about a step, Attempt for what is about one body of it.
	Step    *Key   `json:"step,omitempty"`
	Branch  string `json:"branch,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	// Config is how a step is tried, with NoticeStepStarted; nil: by default.
	Config *StepConfig `json:"config,omitempty"`
	// Until is when a wait ends at the latest, or the next attempt may begin.
	Until *time.Time `json:"until,omitempty"`
	// Type is the event type of a wait or of an event that was reported, Callee the instance that a call is about.
	Type   string  `json:"type,omitempty"`
	Callee *Callee `json:"callee,omitempty"`
	// Value is what came of it: params, the result of a step, the payload of an event, the details of a heartbeat, the
	// output. Object is where it is if it is too large for a message. What is sensitive is Redacted.
	Value  json.RawMessage `json:"value,omitempty"`
	Object *Object         `json:"object,omitempty"`
	Error  *Failure        `json:"error,omitempty"`
	// Version is that of the code of a run, Lost is set if the run before it ended without a word.
	Version string `json:"version,omitempty"`
	Lost    bool   `json:"lost,omitempty"`
	// Winner and GivenUp come with NoticeRaceDecided: which branch was first (nil: none), and what the branches had called
	// that counts for nothing any more.
	Winner  *int  `json:"winner,omitempty"`
	GivenUp []Key `json:"given_up,omitempty"`
	// Divergence comes with NoticeHeld.
	Divergence *Divergence `json:"divergence,omitempty"`
	// State is what the instance was doing, with NoticeCleaned.
	State State `json:"state,omitempty"`
}

// NoticeKind says what a Notice tells of.
type NoticeKind string

// Kinds of notices about the instance as a whole.
const (
	// NoticeQueued: the instance was created, or waits for a free slot.
	NoticeQueued NoticeKind = "queued"
	// NoticeStarted is told once, NoticeRunning of each run: a runner has taken the instance.
	NoticeStarted NoticeKind = "started"
	NoticeRunning NoticeKind = "running"
	// NoticeWaiting: nothing moves until one of its waits ends; it holds no slot.
	NoticeWaiting NoticeKind = "waiting"
	// NoticeWaitingForPause: a pause was asked for, and lets the bodies of steps finish.
	NoticeWaitingForPause NoticeKind = "waiting-for-pause"
	NoticePaused          NoticeKind = "paused"
	// NoticeHeld: code and log contradict each other.
	NoticeHeld    NoticeKind = "held"
	NoticeResumed NoticeKind = "resumed"
	// NoticeRestarted makes void what was told from Step on, or everything.
	NoticeRestarted  NoticeKind = "restarted"
	NoticeCompleted  NoticeKind = "completed"
	NoticeErrored    NoticeKind = "errored"
	NoticeTerminated NoticeKind = "terminated"
	NoticeDeleted    NoticeKind = "deleted"
	// NoticeCleaned: what happened before is not stored any more.
	NoticeCleaned NoticeKind = "cleaned"
)

// Kinds of notices about steps, waits and calls.
const (
	NoticeStepStarted      NoticeKind = "step-started"
	NoticeStepCompleted    NoticeKind = "step-completed"
	NoticeStepFailed       NoticeKind = "step-failed"
	NoticeAttemptStarted   NoticeKind = "attempt-started"
	NoticeAttemptCompleted NoticeKind = "attempt-completed"
	NoticeAttemptFailed    NoticeKind = "attempt-failed"
	NoticeHeartbeat        NoticeKind = "heartbeat"
	NoticeSleepStarted     NoticeKind = "sleep-started"
	NoticeSleepEnded       NoticeKind = "sleep-ended"
	NoticeWaitStarted      NoticeKind = "wait-started"
	// NoticeWaitEnded: a wait took an event.
	NoticeWaitEnded     NoticeKind = "wait-ended"
	NoticeWaitTimedOut  NoticeKind = "wait-timed-out"
	NoticeCallStarted   NoticeKind = "call-started"
	NoticeCallCompleted NoticeKind = "call-completed"
	NoticeCallFailed    NoticeKind = "call-failed"
	NoticeCallTimedOut  NoticeKind = "call-timed-out"
	// NoticeRaceDecided: one of several branches was first.
	NoticeRaceDecided NoticeKind = "race-decided"
	// NoticeProgress and NoticeEventReported: the code has said so.
	NoticeProgress      NoticeKind = "progress"
	NoticeEventReported NoticeKind = "event-reported"
)

// Kinds of notices about undoing steps.
const (
	NoticeRollbackStarted          NoticeKind = "rollback-started"
	NoticeRollbackCompleted        NoticeKind = "rollback-completed"
	NoticeRollbackFailed           NoticeKind = "rollback-failed"
	NoticeRollbackStepStarted      NoticeKind = "rollback-step-started"
	NoticeRollbackStepCompleted    NoticeKind = "rollback-step-completed"
	NoticeRollbackStepFailed       NoticeKind = "rollback-step-failed"
	NoticeRollbackAttemptStarted   NoticeKind = "rollback-attempt-started"
	NoticeRollbackAttemptCompleted NoticeKind = "rollback-attempt-completed"
	NoticeRollbackAttemptFailed    NoticeKind = "rollback-attempt-failed"
)

// NoticeKinds are all of them.
func NoticeKinds() []NoticeKind {
	return []NoticeKind{
		NoticeQueued, NoticeStarted, NoticeRunning, NoticeWaiting, NoticeWaitingForPause, NoticePaused, NoticeHeld, NoticeResumed,
		NoticeRestarted, NoticeCompleted, NoticeErrored, NoticeTerminated, NoticeDeleted, NoticeCleaned,
		NoticeStepStarted, NoticeStepCompleted, NoticeStepFailed, NoticeAttemptStarted, NoticeAttemptCompleted, NoticeAttemptFailed,
		NoticeHeartbeat, NoticeSleepStarted, NoticeSleepEnded, NoticeWaitStarted, NoticeWaitEnded, NoticeWaitTimedOut,
		NoticeCallStarted, NoticeCallCompleted, NoticeCallFailed, NoticeCallTimedOut, NoticeRaceDecided,
		NoticeRollbackStarted, NoticeRollbackCompleted, NoticeRollbackFailed, NoticeRollbackStepStarted, NoticeRollbackStepCompleted,
		NoticeRollbackStepFailed, NoticeRollbackAttemptStarted, NoticeRollbackAttemptCompleted, NoticeRollbackAttemptFailed,
		NoticeProgress, NoticeEventReported,
	}
}

// Cursor is a place in what happened to an instance. Those of its notices rise, and stay the same for ever: they come from
// where the thing is recorded. The zero Cursor comes before everything.
type Cursor struct {
	// Sequence is that of the message which records it.
	Sequence uint64
	// Index is its place in the message, 0 for the last one there: nothing of the message comes after that.
	Index int
}

// Compare is negative if c comes before other, positive if it comes after.
func (c Cursor) Compare(other Cursor) int {
	return cmp.Or(cmp.Compare(c.Sequence, other.Sequence), cmp.Compare(uint(c.Index-1), uint(other.Index-1)))
}

func (c Cursor) String() string {
	if c.Index == 0 {
		return strconv.FormatUint(c.Sequence, 10)
	}
	return strconv.FormatUint(c.Sequence, 10) + "." + strconv.Itoa(c.Index)
}

// MarshalText writes "sequence" or "sequence.index".
func (c Cursor) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is the inverse of MarshalText. The empty text is the zero Cursor.
func (c *Cursor) UnmarshalText(text []byte) error {
	*c = Cursor{}
	if len(text) == 0 {
		return nil
	}
	sequence, index, within := strings.Cut(string(text), ".")
	n, err := parseCanonical(sequence)
	if err != nil {
		return fmt.Errorf("cursor %q: %w", text, err)
	}
	c.Sequence = n
	if !within {
		return nil
	}
	if n, err = parseCanonical(index); err != nil || n == 0 || n > 1<<31-1 {
		return fmt.Errorf("cursor %q: %w: index %q", text, ErrName, index)
	}
	c.Index = int(n)
	return nil
}

// Following asks for what happened to an instance after a cursor.
type Following struct {
	// Incarnation is the instance that is meant; 0: whichever has the id.
	Incarnation uint64 `json:"incarnation,omitempty"`
	After       Cursor `json:"after,omitzero"`
	// Kinds are wanted; none: all.
	Kinds []NoticeKind `json:"kinds,omitempty"`
	// Wait is how long the answer may take if nothing has happened yet.
	Wait Duration `json:"wait,omitempty"`
}

// Notices is what a runner tells of an instance at a time.
type Notices struct {
	// Runner goes on most easily from here (see AskRunnerSubject).
	Runner string `json:"runner"`
	// Incarnation is the instance that it is about.
	Incarnation uint64   `json:"incarnation"`
	Notices     []Notice `json:"notices,omitempty"`
	// Cursor is where to go on: also past notices that were not wanted.
	Cursor Cursor `json:"cursor,omitzero"`
	// End is set if nothing follows: the instance has ended.
	End bool `json:"end,omitempty"`
}
