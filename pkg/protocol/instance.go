package protocol

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Version is the version of every message that this package describes. A reader refuses a newer one.
const Version = 1

// MaxPayload is the most bytes that params, an event's payload or a step's result may have as JSON. It leaves room
// for the envelope below the NATS server's default max_payload of 1 MiB.
const MaxPayload = 512 << 10

// Source says who caused something, for people and for telling one's own repetition from another's act.
type Source struct {
	// Kind is "agent", "program" or "schedule".
	Kind    string `json:"kind"`
	Project string `json:"project,omitempty"`
	Class   string `json:"class,omitempty"`
	Name    string `json:"name,omitempty"`
}

// Create is the first message of an instance.
type Create struct {
	V int `json:"v"`
	// Input is chosen once per call: a refused create that finds its own input stored has succeeded.
	Input    string          `json:"input"`
	Workflow string          `json:"workflow"`
	ID       string          `json:"id"`
	Params   json.RawMessage `json:"params,omitempty"`
	Created  time.Time       `json:"created"`
	Source   Source          `json:"source"`
}

// Event is a message to an instance that one wait consumes.
type Event struct {
	V int `json:"v"`
	// Input is chosen once per call: a repetition is void.
	Input   string          `json:"input"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
	Sent    time.Time       `json:"sent"`
}

// Nudge wakes an instance whose code called in after it was parked.
type Nudge struct {
	V      int    `json:"v"`
	Runner string `json:"runner"`
	// Park is the log sequence of the park.
	Park uint64 `json:"park"`
}

// Wake names the message that made a runner look at an instance: its stream and its sequence there.
type Wake struct {
	Stream   string
	Sequence uint64
}

func (w Wake) String() string { return w.Stream + "#" + strconv.FormatUint(w.Sequence, 10) }

// MarshalText writes "stream#sequence"; the zero wake is the empty text.
func (w Wake) MarshalText() ([]byte, error) {
	if w == (Wake{}) {
		return nil, nil
	}
	return []byte(w.String()), nil
}

// UnmarshalText is the inverse of MarshalText.
func (w *Wake) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*w = Wake{}
		return nil
	}
	i := strings.LastIndexByte(string(text), '#')
	if i <= 0 {
		return fmt.Errorf("wake %q: want stream#sequence", text)
	}
	n, err := parseCanonical(string(text[i+1:]))
	if err != nil {
		return fmt.Errorf("wake %q: %w", text, err)
	}
	*w = Wake{Stream: string(text[:i]), Sequence: n}
	return nil
}

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
}

// EntryKind says what an entry of a log records.
type EntryKind string

// Kinds of entries. A runner that meets a kind it does not know leaves the instance to a newer one.
// Reserved for controls: paused, resumed, restarted, terminated, deleted, held, snapshot, rolled-back.
const (
	// EntryClaimed makes Wake the holder of the instance. Lost is set if the run before ended without EntryReleased;
	// Blamed are the steps charged with it.
	EntryClaimed EntryKind = "claimed"
	// EntryReleased gives the instance back before its wake is returned.
	EntryReleased EntryKind = "released"
	// EntryStarted tells that the body of a step began.
	EntryStarted EntryKind = "started"
	// EntryAttemptFailed ends one attempt of a step that will be tried again at Until.
	EntryAttemptFailed EntryKind = "attempt-failed"
	// EntryStepCompleted and EntryStepFailed end a step for good.
	EntryStepCompleted EntryKind = "step-completed"
	EntryStepFailed    EntryKind = "step-failed"
	// EntryWaiting fixes when a sleep or a wait for an event ends (Until; none: never).
	EntryWaiting EntryKind = "waiting"
	// EntrySlept ends a sleep.
	EntrySlept EntryKind = "slept"
	// EntryReceived ends a wait with the event at sequence Input, whose payload is Result.
	EntryReceived EntryKind = "received"
	// EntryTimedOut ends a wait for an event without one.
	EntryTimedOut EntryKind = "timed-out"
	// EntryRecorded is a value taken from the world: the time, a new id, a random number.
	EntryRecorded EntryKind = "recorded"
	// EntryParked ends the activity until one of Waits ends or Until comes.
	EntryParked EntryKind = "parked"
	// EntryCompleted and EntryFailed end the instance.
	EntryCompleted EntryKind = "completed"
	EntryFailed    EntryKind = "failed"
)

// Op is the kind of thing a step name belongs to. Names are counted per op.
type Op string

// Ops of workflow code.
const (
	OpDo    Op = "do"
	OpSleep Op = "sleep"
	OpEvent Op = "event"
	OpValue Op = "value"
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
	// Type is the event type that a wait is for, Input the sequence of the event that ended it, InputID its id.
	Type    string     `json:"type,omitempty"`
	Input   uint64     `json:"input,omitempty"`
	InputID string     `json:"input_id,omitempty"`
	Sent    *time.Time `json:"sent,omitempty"`
	Waits   []Wait     `json:"waits,omitempty"`
}

// Wait is one of the things a parked instance waits for.
type Wait struct {
	Key
	Type  string     `json:"type,omitempty"`
	Until *time.Time `json:"until,omitempty"`
}

// StepConfig is how a step is tried, as recorded when it first ran.
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

// State is what an instance is doing.
type State string

// States of an instance. The names are those of Cloudflare Workflows.
const (
	StateQueued   State = "queued"
	StateRunning  State = "running"
	StateWaiting  State = "waiting"
	StateComplete State = "complete"
	StateErrored  State = "errored"
)

// Finished reports whether the state is final.
func (s State) Finished() bool { return s == StateComplete || s == StateErrored }

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
}

// Ask is a request for the status of an instance, Answer what a runner of its project says.
type Ask struct {
	V        int    `json:"v"`
	Workflow string `json:"workflow"`
	ID       string `json:"id"`
}

// Answer is the reply to Ask: a status, or a failure named FailureNotFound.
type Answer struct {
	V      int      `json:"v"`
	Status *Status  `json:"status,omitempty"`
	Error  *Failure `json:"error,omitempty"`
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
}

// StepStatus is one step of an instance in the order of first appearance in the log.
type StepStatus struct {
	Key
	// State is "running", "waiting", "retrying", "completed" or "failed".
	State    string          `json:"state"`
	Attempts []AttemptStatus `json:"attempts,omitempty"`
	Until    *time.Time      `json:"until,omitempty"`
	Output   json.RawMessage `json:"output,omitempty"`
	Error    *Failure        `json:"error,omitempty"`
	LostRuns int             `json:"lost_runs,omitempty"`
}

// AttemptStatus is one attempt of a step.
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
}
