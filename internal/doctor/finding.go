package doctor

import "fmt"

// Kind is a kind of finding.
type Kind string

// Kinds of findings. What each means, and what a repair does, say docs/operations.md and the texts of what it makes.
const (
	NoWake           Kind = "no-wake"
	NoTimer          Kind = "no-timer"
	NotQueued        Kind = "not-queued"
	LostInput        Kind = "lost-input"
	LostControl      Kind = "lost-control"
	EndNotTold       Kind = "end-not-told"
	AnswerNotGiven   Kind = "answer-not-given"
	HalfDeleted      Kind = "half-deleted"
	LeftPaused       Kind = "left-paused"
	EmptyCreate      Kind = "empty-create"
	TimerWithoutWait Kind = "timer-without-wait"
	SlotWithoutOwner Kind = "slot-without-owner"
	IdleSlots        Kind = "idle-slots"
	PlaceWithoutWait Kind = "place-without-wait"

	ObjectWithoutOwner   Kind = "object-without-owner"
	OutboxLeft           Kind = "outbox-left"
	ConnectionsLeft      Kind = "connections-left"
	MailWithoutAgent     Kind = "mail-without-agent"
	MailWithoutClass     Kind = "mail-without-class"
	ScheduleWithoutAgent Kind = "schedule-without-agent"
	NotArmed             Kind = "not-armed"
	ClockWithoutRow      Kind = "clock-without-row"
)

// Finding is something that is wrong, and stays so unless somebody mends it.
type Finding struct {
	Kind Kind `json:"kind"`
	// Subject is the message, key or object that it is about.
	Subject string `json:"subject"`
	// Problem says what is wrong, in a sentence; Remedy what a repair does, empty if there is none.
	Problem string `json:"problem"`
	Remedy  string `json:"remedy,omitempty"`
	// Repaired says what the repair did, Failed why it did not; both are empty if nothing was to be repaired.
	Repaired string `json:"repaired,omitempty"`
	Failed   string `json:"failed,omitempty"`
}

func (f Finding) String() string { return fmt.Sprintf("%s  %s  %s", f.Kind, f.Subject, f.Problem) }
