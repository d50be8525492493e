package engine

import (
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Phase is what the newest entry of a log says about an instance.
type Phase int

// Phases of an instance.
const (
	Running Phase = iota
	Parked
	Finished
)

// Situation is what a runner must know of an instance to decide about a wake. All of it comes from one state of the
// stream: the create and the tail of the log.
type Situation struct {
	Exists      bool
	Incarnation uint64
	// Tail is the sequence of the newest message of the log, 0 if it is empty.
	Tail   uint64
	Phase  Phase
	Holder protocol.Wake
	// Park, Waits and Until describe what a parked instance waits for.
	Park  uint64
	Waits []protocol.Wait
	Until *time.Time
}

// Situate reads the situation off the create and the tail of the log. The stream is the one they are stored on.
func Situate(stream string, createSequence uint64, tailSequence uint64, tail *protocol.Append) Situation {
	if createSequence == 0 {
		return Situation{}
	}
	s := Situation{
		Exists: true, Incarnation: createSequence, Tail: tailSequence,
		Holder: protocol.Wake{Stream: stream, Sequence: createSequence},
	}
	if tail == nil || tail.Incarnation != createSequence || len(tail.Entries) == 0 {
		return s
	}
	s.Holder = tail.Holder
	switch last := tail.Entries[len(tail.Entries)-1]; last.Kind {
	case protocol.EntryParked:
		s.Phase, s.Park, s.Waits, s.Until = Parked, tailSequence, last.Waits, last.Until
	case protocol.EntryCompleted, protocol.EntryFailed:
		s.Phase = Finished
	}
	return s
}

// WaitsForEvents reports whether one of the parked waits can be ended by an event.
func (s Situation) WaitsForEvents() bool {
	for _, w := range s.Waits {
		if w.Op == protocol.OpEvent {
			return true
		}
	}
	return false
}

// Matches reports whether an event of this type ends one of the waits.
func Matches(waits []protocol.Wait, eventType string) bool {
	for _, w := range waits {
		if w.Op == protocol.OpEvent && w.Type == eventType {
			return true
		}
	}
	return false
}

// WakeKind says what kind of message a wake is.
type WakeKind int

// Kinds of wakes.
const (
	WakeCreate WakeKind = iota
	WakeEvent
	WakeDue
	// WakeNudge comes from a runner whose parked execution still had a goroutine that called in.
	WakeNudge
)

// Wake is the message that made a runner look at an instance.
type Wake struct {
	protocol.Wake
	Kind WakeKind
	// EventType is the type of an event.
	EventType string
	// Park, Incarnation and Due come with a timer that fired.
	Park        uint64
	Incarnation uint64
	Due         time.Time
}

// Older says whether an input older than the park is there that one of its waits would take.
type Older int

// Knowledge about older inputs.
const (
	OlderUnknown Older = iota
	OlderNone
	OlderSome
)

// Action is what a runner does with a wake.
type Action int

// Actions. Ack comes last in each: a wake is never acked before what it asks for is durable.
const (
	// Ack drops the wake.
	Ack Action = iota
	// Project announces the end once more, then acks.
	Project
	// Start executes an instance whose log is empty.
	Start
	// Claim appends a claim naming the wake, then executes.
	Claim
	// Poke tells whoever executes the instance that it has input, then acks.
	Poke
	// Arm sets the timer of the park once more, then acks.
	Arm
	// Keep holds the wake until the timer's moment, then asks again.
	Keep
	// LookOlder asks to load log and inputs and to decide again knowing Older.
	LookOlder
)

func (a Action) String() string {
	return [...]string{"ack", "project", "start", "claim", "poke", "arm", "keep", "look-older"}[a]
}

// Decide is the decision table: which wake may execute an instance, and which may be acked. Once it says ack (or
// poke, arm, project) for some prefix of the stream, it says claim or start for no longer prefix; that alone makes
// late acks, duplicate deliveries, wakes that come back and stale reads harmless. A change must keep this.
//
// now is compared with the moment of a timer only. Nothing else may enter: not how often a wake was delivered, not
// what this runner decided before.
func Decide(s Situation, w Wake, older Older, now time.Time) Action {
	if !s.Exists || w.foreign(s) {
		return Ack
	}
	holds := s.Holder == w.Wake
	switch s.Phase {
	case Finished:
		if holds {
			return Project
		}
		return Ack
	case Running:
		return decideRunning(s, w, holds)
	}
	return decideParked(s, w, holds, older, now)
}

// foreign reports whether the wake belongs to an instance that had this id before.
func (w Wake) foreign(s Situation) bool {
	if w.Kind == WakeDue {
		return w.Incarnation != s.Incarnation
	}
	return w.Sequence < s.Incarnation
}

func decideRunning(s Situation, w Wake, holds bool) Action {
	switch {
	case !holds:
		return Poke
	case s.Tail == 0:
		return Start
	}
	return Claim
}

// decideParked keeps the two duties apart: inputs older than the park belong to the wake that parked, newer inputs to
// their own wakes.
func decideParked(s Situation, w Wake, holds bool, older Older, now time.Time) Action {
	switch {
	case w.Kind == WakeDue && w.Park == s.Park:
		if now.Before(w.Due) {
			return Keep
		}
		return Claim
	case w.Kind == WakeEvent && w.Sequence > s.Park && Matches(s.Waits, w.EventType):
		return Claim
	case w.Kind == WakeNudge && w.Sequence > s.Park:
		return Claim
	case !holds:
		return Ack
	case !s.WaitsForEvents():
		return Arm
	case older == OlderUnknown:
		return LookOlder
	case older == OlderSome:
		return Claim
	}
	return Arm
}
