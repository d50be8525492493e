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

// InlinePayload is the most bytes that a value may have as JSON to travel in messages. Larger ones go to the object
// store of the instance's project, up to a limit that its operator sets.
const InlinePayload = 128 << 10

// Source says who caused something, for people and for telling one's own repetition from another's act.
type Source struct {
	// Kind is "agent", "program", "schedule" (an agent whose schedule fired), "step" (the body of a step), "call" (a step
	// that waits for the end), "cron" (a schedule of the workflow), "janitor" (log cleaning) or "doctor" (a repair).
	Kind    string `json:"kind"`
	Project string `json:"project,omitempty"`
	// Class and Name are those of the agent; of a step or call, the workflow and id of its instance; of a schedule of a
	// workflow, the workflow and the id of the schedule.
	Class string `json:"class,omitempty"`
	Name  string `json:"name,omitempty"`
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
	// ParamsObject is where the params are if they are too large for a message.
	ParamsObject *Object `json:"params_object,omitempty"`
	// Retention is how long the instance is kept after its end; without it, as long as its workflow says.
	Retention *Retention `json:"retention,omitempty"`
	// Parent is the instance whose step calls this one.
	Parent *Parent `json:"parent,omitempty"`
	// Carried is set on a create that log cleaning published again: the sequence under which it was first stored, by
	// which its instance goes for ever.
	Carried uint64 `json:"carried,omitempty"`
	// Tracker is the agent that is told what becomes of the instance.
	Tracker *Tracker `json:"tracker,omitempty"`
	// Schedule is set if a schedule of the workflow started the instance.
	Schedule *Firing `json:"schedule,omitempty"`
}

// Incarnation is the number by which the instance of a create goes that is stored at sequence.
func (c Create) Incarnation(sequence uint64) uint64 {
	if c.Carried != 0 {
		return c.Carried
	}
	return sequence
}

// Existing says what becomes of a create whose id is taken.
type Existing string

// What a create can want of the instance that has its id.
const (
	ExistingFail   Existing = ""
	ExistingReturn Existing = "return"
	// ExistingRestart lets it begin again, with the params that it has.
	ExistingRestart Existing = "restart"
)

// Retention is how long an instance can be read after its end. 0 stands for the default of its workflow.
type Retention struct {
	// Success is for instances that completed, Error for all others.
	Success Duration `json:"success,omitempty"`
	Error   Duration `json:"error,omitempty"`
}

// Parent names the step that called an instance and waits for its end.
type Parent struct {
	Project     string `json:"project"`
	Shard       int    `json:"shard,omitempty"`
	Workflow    string `json:"workflow"`
	ID          string `json:"id"`
	Incarnation uint64 `json:"incarnation"`
	// Call is the type of the event by which the parent is told of the end (see CallType).
	Call string `json:"call"`
}

// Object is a value in the project's object store.
type Object struct {
	Name string `json:"name"`
	// Size is that of the value as JSON, in bytes.
	Size int64 `json:"size"`
}

// Event is a message to an instance that one wait consumes.
type Event struct {
	V int `json:"v"`
	// Input is chosen once per call: a repetition is void.
	Input   string          `json:"input"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
	Sent    time.Time       `json:"sent"`
	// PayloadObject is where the payload is if it is too large for a message.
	PayloadObject *Object `json:"payload_object,omitempty"`
}

// Control steers an instance. Controls take effect in the order of the stream.
type Control struct {
	V int `json:"v"`
	// Input is chosen once per call: a repetition is void.
	Input  string    `json:"input"`
	Action Action    `json:"action"`
	Sent   time.Time `json:"sent"`
	Source Source    `json:"source"`
	// Rollback lets ActionTerminate undo the steps first.
	Rollback bool `json:"rollback,omitempty"`
	// From is the step that ActionRestart begins again from; without it everything begins again.
	From *Key `json:"from,omitempty"`
	// Accept lets ActionResume go on although the code no longer does what is recorded.
	Accept bool `json:"accept,omitempty"`
	// Incarnation, if set, is the instance that is meant: the control is void for another of the same id.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Expired lets ActionDelete take the instance only if it has expired.
	Expired bool `json:"expired,omitempty"`
}

// Action is what a control asks for.
type Action string

// Actions of controls.
const (
	ActionPause     Action = "pause"
	ActionResume    Action = "resume"
	ActionTerminate Action = "terminate"
	ActionRestart   Action = "restart"
	ActionDelete    Action = "delete"
	// ActionCompact asks for a snapshot, so that what is older can be cleaned away.
	ActionCompact Action = "compact"
)

// Nudge wakes an instance whose code called in after it was parked, or that was given a slot.
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
