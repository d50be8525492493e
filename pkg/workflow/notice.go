package workflow

import "github.com/skein-run/skein/pkg/protocol"

// Notice tells of one thing that happened to an instance; see [Instance.Subscribe]. Which fields are set depends on Kind.
// What is sensitive is redacted, and of a large value it says where it is stored (Object).
type Notice = protocol.Notice

// Cursor is a place in what happened to an instance. It is a text in JSON, and can be stored.
type Cursor = protocol.Cursor

// NoticeKind says what a [Notice] tells of.
type NoticeKind = protocol.NoticeKind

// Kinds of notices about the instance as a whole.
const (
	// NoticeQueued: it was created, or waits for a free slot.
	NoticeQueued = protocol.NoticeQueued
	// NoticeStarted is told once, NoticeRunning of each run: a runner has taken the instance.
	NoticeStarted = protocol.NoticeStarted
	NoticeRunning = protocol.NoticeRunning
	// NoticeWaiting: for a time, an event, a call or the next attempt of a step.
	NoticeWaiting = protocol.NoticeWaiting
	// NoticeWaitingForPause: a pause was asked for, and lets the bodies of steps finish.
	NoticeWaitingForPause = protocol.NoticeWaitingForPause
	NoticePaused          = protocol.NoticePaused
	// NoticeHeld: code and log contradict each other.
	NoticeHeld    = protocol.NoticeHeld
	NoticeResumed = protocol.NoticeResumed
	// NoticeRestarted makes void what was told from its Step on, or everything.
	NoticeRestarted  = protocol.NoticeRestarted
	NoticeCompleted  = protocol.NoticeCompleted
	NoticeErrored    = protocol.NoticeErrored
	NoticeTerminated = protocol.NoticeTerminated
	NoticeDeleted    = protocol.NoticeDeleted
	// NoticeCleaned: what happened before is not stored any more; State is what the instance was doing then.
	NoticeCleaned = protocol.NoticeCleaned
)

// Kinds of notices about steps, waits and calls.
const (
	NoticeStepStarted      = protocol.NoticeStepStarted
	NoticeStepCompleted    = protocol.NoticeStepCompleted
	NoticeStepFailed       = protocol.NoticeStepFailed
	NoticeAttemptStarted   = protocol.NoticeAttemptStarted
	NoticeAttemptCompleted = protocol.NoticeAttemptCompleted
	NoticeAttemptFailed    = protocol.NoticeAttemptFailed
	NoticeHeartbeat        = protocol.NoticeHeartbeat
	NoticeSleepStarted     = protocol.NoticeSleepStarted
	NoticeSleepEnded       = protocol.NoticeSleepEnded
	NoticeWaitStarted      = protocol.NoticeWaitStarted
	NoticeWaitEnded        = protocol.NoticeWaitEnded
	NoticeWaitTimedOut     = protocol.NoticeWaitTimedOut
	NoticeCallStarted      = protocol.NoticeCallStarted
	NoticeCallCompleted    = protocol.NoticeCallCompleted
	NoticeCallFailed       = protocol.NoticeCallFailed
	NoticeCallTimedOut     = protocol.NoticeCallTimedOut
	NoticeRaceDecided      = protocol.NoticeRaceDecided
	// NoticeProgress is what [ReportProgress] has said, NoticeEventReported what [ReportEvent] has.
	NoticeProgress      = protocol.NoticeProgress
	NoticeEventReported = protocol.NoticeEventReported
)

// Kinds of notices about undoing steps.
const (
	NoticeRollbackStarted          = protocol.NoticeRollbackStarted
	NoticeRollbackCompleted        = protocol.NoticeRollbackCompleted
	NoticeRollbackFailed           = protocol.NoticeRollbackFailed
	NoticeRollbackStepStarted      = protocol.NoticeRollbackStepStarted
	NoticeRollbackStepCompleted    = protocol.NoticeRollbackStepCompleted
	NoticeRollbackStepFailed       = protocol.NoticeRollbackStepFailed
	NoticeRollbackAttemptStarted   = protocol.NoticeRollbackAttemptStarted
	NoticeRollbackAttemptCompleted = protocol.NoticeRollbackAttemptCompleted
	NoticeRollbackAttemptFailed    = protocol.NoticeRollbackAttemptFailed
)
