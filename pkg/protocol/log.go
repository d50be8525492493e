package protocol

import (
	"encoding/json"
	"fmt"
	"time"
)

// Append is one message of an instance's log: everything that became ready together, stored in one act.
type Append struct {
	V int `json:"v"`
	// ID is chosen once per append: whoever does not know whether it was stored compares it with the tail.
	ID string `json:"id"`
	// Incarnation is the sequence of the instance's create. Appends of another incarnation are void.
	Incarnation uint64 `json:"incarnation"`
	// Holder is the wake that the instance is held under: the tail of a log alone tells who may execute.
	Holder  Wake      `json:"holder"`
	Runner  string    `json:"runner"`
	Time    time.Time `json:"time"`
	Entries []Entry   `json:"entries"`
	// Mark is the sequence of the newest control that counts in this log: older ones are settled.
	Mark uint64 `json:"mark,omitempty"`
	// Epoch counts the restarts of the instance.
	Epoch int `json:"epoch,omitempty"`
	// Version is that of the project's code: on the first message of each run that of this run; where the instance comes to
	// rest, so that the tail of its log alone tells it, that of the newest run.
	Version string `json:"version,omitempty"`
}

// EntryKind says what an entry of a log records.
type EntryKind string

// Kinds of entries. A runner that meets a kind it does not know leaves the instance to a newer one.
const (
	// EntryClaimed makes Wake the holder of the instance. Lost is set if the run before ended without EntryReleased;
	// Blamed are the steps charged with it.
	EntryClaimed EntryKind = "claimed"
	// EntryReleased gives the instance back before its wake is returned.
	EntryReleased EntryKind = "released"
	// EntryStarted tells that the body of a step began, or a race; of a call, that its Callee is about to be created.
	EntryStarted EntryKind = "started"
	// EntryAttemptFailed ends one attempt of a step that will be tried again at Until.
	EntryAttemptFailed EntryKind = "attempt-failed"
	// EntryStepCompleted and EntryStepFailed end a step for good, or decide a race.
	EntryStepCompleted EntryKind = "step-completed"
	EntryStepFailed    EntryKind = "step-failed"
	// EntryGroupFailed ends a group of branches of which one, Winner, has failed with Error. What its branches had called
	// that has no outcome is given up, but for bodies that run: those may still have one.
	EntryGroupFailed EntryKind = "group-failed"
	// EntryGivenUp ends a wait, or a step, because the code has ended its context: Error says why. It has no outcome, and never
	// gets one.
	EntryGivenUp EntryKind = "given-up"
	// EntryWaiting fixes when a sleep or a wait for an event ends (Until; none: never). Of a call it says that its Callee
	// was created: it never will be again.
	EntryWaiting EntryKind = "waiting"
	// EntrySlept ends a sleep.
	EntrySlept EntryKind = "slept"
	// EntryReceived ends a wait with the event at sequence Input, whose payload is Result.
	EntryReceived EntryKind = "received"
	// EntryTimedOut ends a wait for an event without one.
	EntryTimedOut EntryKind = "timed-out"
	// EntryRecorded is a value taken from the world: the time, a new id, a random number.
	EntryRecorded EntryKind = "recorded"
	// EntryReported is what the code says of itself to whoever follows the instance: Result, as progress or, with a Type, as
	// an event.
	EntryReported EntryKind = "reported"
	// EntryParked ends the activity until one of Waits ends or Until comes. Of more than 100 waits, the others are told only
	// if they are for events of a type that no other is for, without their names.
	EntryParked EntryKind = "parked"
	// EntryCompleted, EntryFailed and EntryTerminated end the instance, EntryDeleted takes away what is left of it.
	EntryCompleted  EntryKind = "completed"
	EntryFailed     EntryKind = "failed"
	EntryTerminated EntryKind = "terminated"
	EntryDeleted    EntryKind = "deleted"
	// EntryPaused stops the instance until a control resumes it; EntryHeld does so because code and log contradict each
	// other (Divergence).
	EntryPaused EntryKind = "paused"
	EntryHeld   EntryKind = "held"
	// EntryResumed goes on: every wait that has an end ends Shift later. Accept: what the log says and the code does not
	// ask for any more is no contradiction.
	EntryResumed EntryKind = "resumed"
	// EntryRestarted makes void what was recorded from step From on, or everything.
	EntryRestarted EntryKind = "restarted"
	// EntryRollingBack begins to undo the steps of an instance that ends with Error, EntryRolledBack ends that: with the
	// Error that stopped it, if one did.
	EntryRollingBack EntryKind = "rolling-back"
	EntryRolledBack  EntryKind = "rolled-back"
	// EntryHeartbeat is a sign of life of the body of a step, with Result for the next attempt.
	EntryHeartbeat EntryKind = "heartbeat"
	// EntrySnapshot stands for everything that the log holds before it.
	EntrySnapshot EntryKind = "snapshot"
)

// Op is the kind of thing a step name belongs to. Names are counted per op.
type Op string

// Ops of workflow code.
const (
	OpDo    Op = "do"
	OpSleep Op = "sleep"
	OpEvent Op = "event"
	OpValue Op = "value"
	// OpCall is a call of another workflow, OpRace records which of several branches was first, OpRollback undoes a step.
	OpCall     Op = "call"
	OpRace     Op = "race"
	OpRollback Op = "rollback"
	// OpGroup is a group of branches that has failed. Its name is how the lines of calls of its branches begin.
	OpGroup Op = "group"
	// OpReport is something that the code says of itself. It decides about nothing.
	OpReport Op = "report"
	// OpSlot is a wait for a free slot of a workflow whose concurrency is limited. It belongs to no code.
	OpSlot Op = "slot"
)

// Key identifies a step of an instance: by name and count, never by position.
type Key struct {
	Op    Op     `json:"op"`
	Name  string `json:"name"`
	Count int    `json:"count"`
}

func (k Key) String() string { return fmt.Sprintf("%s %q #%d", k.Op, k.Name, k.Count) }

// Entry is one fact in a log. Which fields are set depends on Kind; Step is set for everything about a step.
type Entry struct {
	Kind    EntryKind `json:"kind"`
	Step    *Key      `json:"step,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	// Started is when the attempt began, Until when a wait ends.
	Started *time.Time  `json:"started,omitempty"`
	Until   *time.Time  `json:"until,omitempty"`
	Config  *StepConfig `json:"config,omitempty"`
	// Result is the value of a step, event, recorded value or instance.
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Failure        `json:"error,omitempty"`
	// Wake is who EntryClaimed was appended under.
	Wake   *Wake `json:"wake,omitempty"`
	Lost   bool  `json:"lost,omitempty"`
	Blamed []Key `json:"blamed,omitempty"`
	// Charged is set on EntryStarted if the step takes the blame for an earlier lost run that named no step.
	Charged bool `json:"charged,omitempty"`
	// Type is the event type that a wait is for, or that of a report, Input the sequence of the event that ended it, InputID its id. On
	// entries that obey a control, Input and InputID are that control's.
	Type    string     `json:"type,omitempty"`
	Input   uint64     `json:"input,omitempty"`
	InputID string     `json:"input_id,omitempty"`
	Sent    *time.Time `json:"sent,omitempty"`
	Waits   []Wait     `json:"waits,omitempty"`

	// Branch is the line of calls that the step belongs to, empty for the workflow function's own.
	Branch string `json:"branch,omitempty"`
	// Object is where the Result is if it is too large for a message.
	Object *Object `json:"object,omitempty"`
	// Callee is the instance that a wait of OpCall is about.
	Callee *Callee `json:"callee,omitempty"`
	// Within, on the start of a race, is how the lines of calls of its branches begin. Winner, on its outcome, is the index
	// of the branch that was first, from 0 (nil: none was), and on that of a group that of the first that failed, GivenUp lists what its branches had called that had no outcome.
	Within  string `json:"within,omitempty"`
	Winner  *int   `json:"winner,omitempty"`
	GivenUp []Key  `json:"given_up,omitempty"`
	// Shift and Accept come with EntryResumed, From with EntryRestarted.
	Shift  Duration `json:"shift,omitempty"`
	Accept bool     `json:"accept,omitempty"`
	From   *Key     `json:"from,omitempty"`
	// Terminate is set on EntryRollingBack if the instance ends as terminated.
	Terminate bool `json:"terminate,omitempty"`
	// Divergence comes with EntryHeld.
	Divergence *Divergence `json:"divergence,omitempty"`
	// Expires comes with the end of an instance: when it can be cleaned away.
	Expires  *time.Time `json:"expires,omitempty"`
	Snapshot *Snapshot  `json:"snapshot,omitempty"`
}

// Callee names an instance that another calls.
type Callee struct {
	Project  string `json:"project"`
	Shard    int    `json:"shard,omitempty"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
	// Incarnation is set once the instance is known to be there.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

// Divergence says where the code no longer does what the log holds.
type Divergence struct {
	// Recorded are the steps that the code should have called, at most MaxUnreached of them.
	Recorded []Key `json:"recorded"`
	// Called is what the code did call; nil if it returned.
	Called *Key `json:"called,omitempty"`
	// Branch is the line of calls on which it happened.
	Branch string `json:"branch,omitempty"`
	// Decided is set if Recorded is a race that had been decided, and Called what the branch that was first had not called.
	Decided bool `json:"decided,omitempty"`
}

// MaxUnreached bounds the steps that a Divergence names.
const MaxUnreached = 20

// Snapshot stands for the log before it. What a decision needs is in it; the rest may be in an object.
type Snapshot struct {
	// Over is the sequence of the log entry that was the newest: who expected that one goes on after the snapshot.
	Over uint64 `json:"over"`
	// Phase is "running", "parked", "paused" (or held) or "finished".
	Phase string `json:"phase"`
	// Park, Waits and Until are those of the park, if the instance is parked.
	Park  uint64     `json:"park,omitempty"`
	Waits []Wait     `json:"waits,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	// History is the folded log with the inputs that no wait has taken. If that is too large, it is in Object, and History
	// has only what does not grow.
	History json.RawMessage `json:"history,omitempty"`
	Object  *Object         `json:"object,omitempty"`
}

// Wait is one of the things a parked instance waits for.
type Wait struct {
	Key
	Type  string     `json:"type,omitempty"`
	Until *time.Time `json:"until,omitempty"`
}

// StepConfig is how a step is tried, as recorded when it first ran. A step without one has DefaultStep.
type StepConfig struct {
	// Retries is the number of further attempts after the first; −1 is without limit.
	Retries int `json:"retries"`
	// Delay is the base of the waiting time between attempts.
	Delay Duration `json:"delay,omitempty"`
	// Backoff is "constant", "linear" or "exponential".
	Backoff string `json:"backoff,omitempty"`
	// MaxDelay caps the waiting time; 0 is without cap.
	MaxDelay Duration `json:"max_delay,omitempty"`
	// Timeout bounds one attempt; 0 is without limit.
	Timeout Duration `json:"timeout,omitempty"`
	// LostRuns is how many runs may be lost in this step before it fails.
	LostRuns int `json:"lost_runs,omitempty"`
	// Jitter varies each delay by up to this part of it, 0 to 1.
	Jitter float64 `json:"jitter,omitempty"`
	// Dynamic is set if the code computes the delays.
	Dynamic bool `json:"dynamic,omitempty"`
	// Heartbeat is how long an attempt may go without a sign of life; 0 is without limit.
	Heartbeat Duration `json:"heartbeat,omitempty"`
	// Sensitive results are not shown.
	Sensitive bool `json:"sensitive,omitempty"`
	// Rollback is how the step is undone, nil if it is not.
	Rollback *StepConfig `json:"rollback,omitempty"`
}

// DefaultStep is the configuration of a step whose log says nothing of it. It is part of the format: it never changes.
// The values are the defaults of Cloudflare Workflows.
func DefaultStep() StepConfig {
	return StepConfig{
		Retries: 5, Delay: Duration(10 * time.Second), Backoff: "exponential", Timeout: Duration(10 * time.Minute), LostRuns: 10,
	}
}

// Duration is a time.Duration written as people write it: "1m30s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration prints it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}
