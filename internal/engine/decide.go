package engine

import (
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Phase is what the newest entry of a log says about an instance.
type Phase int

// Phases of an instance.
const (
	Running Phase = iota
	Parked
	// Paused waits for a control: somebody paused the instance, or its code contradicts its log.
	Paused
	Finished
)

var phaseNames = [...]string{"running", "parked", "paused", "finished"}

func (p Phase) String() string { return phaseNames[p] }

// Situation is what a runner must know of an instance to decide about a wake. All of it comes from one state of the
// stream: the create and the tail of the log.
type Situation struct {
	Exists      bool
	Incarnation uint64
	// Begun is set if the log has an entry of this incarnation.
	Begun bool
	// Tail is the sequence of the newest message of the log, 0 if it is empty.
	Tail   uint64
	Phase  Phase
	Holder protocol.Wake
	// Mark is the sequence of the newest control that is settled.
	Mark uint64
	// Park, Waits and Until describe what a parked instance waits for.
	Park  uint64
	Waits []protocol.Wait
	Until *time.Time
}

// Situate reads the situation off the create and the tail of the log. The stream is the one they are stored on,
// incarnation the sequence under which the create was first stored. A tail of another incarnation is a tombstone: it
// counts for nothing but the sequence that the next entry must follow.
func Situate(stream string, incarnation uint64, tailSequence uint64, tail *protocol.Append) Situation {
	if incarnation == 0 {
		return Situation{}
	}
	s := Situation{
		Exists: true, Incarnation: incarnation, Tail: tailSequence,
		Holder: protocol.Wake{Stream: stream, Sequence: incarnation},
	}
	if tail == nil || tail.Incarnation != incarnation || len(tail.Entries) == 0 {
		return s
	}
	s.Begun, s.Holder, s.Mark = true, tail.Holder, tail.Mark
	switch last := tail.Entries[len(tail.Entries)-1]; last.Kind {
	case protocol.EntryParked:
		s.Phase, s.Park, s.Waits, s.Until = Parked, tailSequence, last.Waits, last.Until
	case protocol.EntryPaused, protocol.EntryHeld:
		s.Phase = Paused
	case protocol.EntryCompleted, protocol.EntryFailed, protocol.EntryTerminated, protocol.EntryDeleted:
		s.Phase = Finished
	case protocol.EntrySnapshot:
		if over := last.Snapshot; over != nil {
			s.Phase = Phase(max(0, slices.Index(phaseNames[:], over.Phase)))
			s.Park, s.Waits, s.Until = over.Park, over.Waits, over.Until
		}
	}
	return s
}

// Rests reports whether nobody executes an instance whose log ends with an entry of this kind.
func Rests(kind protocol.EntryKind) bool {
	switch kind {
	case protocol.EntryReleased, protocol.EntryParked, protocol.EntryPaused, protocol.EntryHeld, protocol.EntryCompleted,
		protocol.EntryFailed, protocol.EntryTerminated, protocol.EntryDeleted:
		return true
	}
	return false
}

// WaitsForEvents reports whether one of the parked waits can be ended by an event.
func (s Situation) WaitsForEvents() bool {
	return slices.ContainsFunc(s.Waits, func(w protocol.Wait) bool { return takesEvents(w.Op) })
}

// Matches reports whether an event of this type ends one of the waits.
func Matches(waits []protocol.Wait, eventType string) bool {
	return slices.ContainsFunc(waits, func(w protocol.Wait) bool { return takesEvents(w.Op) && w.Type == eventType })
}

// takesEvents reports whether an event can end what waits: a call is ended by the event that its callee sends.
func takesEvents(op protocol.Op) bool { return op == protocol.OpEvent || op == protocol.OpCall }

// WaitsForSlot reports whether the instance is parked until its workflow has a free slot.
func (s Situation) WaitsForSlot() bool {
	return slices.ContainsFunc(s.Waits, func(w protocol.Wait) bool { return w.Op == protocol.OpSlot })
}

// WakeKind says what kind of message a wake is.
type WakeKind int

// Kinds of wakes.
const (
	WakeCreate WakeKind = iota
	WakeEvent
	WakeDue
	// WakeNudge comes from a runner whose parked execution still had a goroutine that called in, or that found a slot
	// for the instance.
	WakeNudge
	// WakeControl asks to pause, resume, terminate, restart, delete or compact.
	WakeControl
	// WakeCarried is a create that log cleaning published again. It asks for nothing.
	WakeCarried
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
	// Vain is set on a control if all controls up to it were looked at, over this very state, and change nothing.
	Vain bool
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
	// Start executes an instance whose log is empty, but for the tombstone of another that had its id.
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
	// Obey asks to apply all controls up to the wake with one append that follows the tail (History.Obey), and to decide
	// again; if they change nothing, with Vain set.
	Obey
)

func (a Action) String() string {
	return [...]string{"ack", "project", "start", "claim", "poke", "arm", "keep", "look-older", "obey"}[a]
}

// Decide is the decision table: which wake may execute an instance, and which may be acked. Once it says ack (or
// poke, arm, project) for some prefix of the stream, it says claim or start for no longer prefix; that alone makes
// late acks, duplicate deliveries, wakes that come back and stale reads harmless. A change must keep this.
//
// now is compared with the moment of a timer only. Nothing else may enter: not how often a wake was delivered, not
// what this runner decided before.
func Decide(s Situation, w Wake, older Older, now time.Time) Action {
	if !s.Exists || w.foreign(s) || w.Kind == WakeCarried {
		return Ack
	}
	if w.Kind == WakeControl && w.Sequence > s.Mark && !w.Vain {
		return Obey
	}
	holds := s.Holder == w.Wake
	switch s.Phase {
	case Finished:
		// A control in vain is answered by the announcement: whoever restarted in vain learns that it is final.
		if holds || w.Vain {
			return Project
		}
		return Ack
	case Paused:
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
	case !s.Begun:
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
