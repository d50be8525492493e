package engine_test

import (
	"cmp"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// The model of the instance protocol: one instance, two runners, one stream, timers, and a world that does its worst.
// It walks through every order of events within bounds and lets the real Decide, Situate, History and Machine answer.
// What stands outside of them in a runner (what is read, and in which order it appends, arms and acks) is written down
// here once more, each rule behind a switch, so that a test can take it out and see what it is good for.

// Bounds of the model. States beyond are not followed.
const (
	maxMessages = 15 // as many as a set holds
	maxFirings  = 6
	maxOps      = 4
)

// Kinds of messages of the stream.
const (
	noMessage     = iota
	createMessage // carried by a cleaning, if it names an incarnation
	eventMessage
	strangeMessage // an event that no wait is for
	nudgeMessage   // the wake of an execution that goes on after its park
	controlMessage
	logMessage
)

// message is one message of the stream.
type message struct {
	kind uint8
	tag  uint8  // tells apart the appends whose outcome was unknown
	what uint16 // id of an event, number of an append, incarnation of a carried create, a control
}

// prefix is the stream up to some sequence; from 1 on.
type prefix [maxMessages + 1]message

// Deliveries of a wake.
const (
	fresh = iota
	delivered
	acked
)

// wakeID names a wake: the sequence of an input, or firstFiring plus the number of a firing.
type wakeID uint8

const firstFiring wakeID = 32

func (w wakeID) name() protocol.Wake {
	if w >= firstFiring {
		return protocol.Wake{Stream: "TIMERS_mail", Sequence: uint64(w-firstFiring) + 1}
	}
	return wake(uint64(w))
}

// What a runner does next.
type phase uint8

const (
	idle       phase = iota
	looking          // read the instance and decide
	older            // read inputs and decide again
	refused          // read again after a refusal
	appending        // append
	uncertain        // append once more: what became of it is not known
	executing        // end the body of a step
	waiting          // read inputs, or park
	checking         // read inputs after the park
	arming           // arm the timer of the park
	announcing       // tell the end
	purging          // take away what a deleted instance leaves
	acking           // ack
	lingering        // stay in memory after the park
)

// What follows an append.
const (
	thenRun = iota
	thenCheck
	thenAnnounce
	thenExecute
	thenRelease
	thenDecide // about the same wake, knowing what was appended
	thenAck    // a snapshot is stored
)

// activation is what a runner has in hand.
type activation struct {
	phase phase
	wake  wakeID
	born  uint8  // the incarnation that is executed
	blind uint16 // messages that it does not know because they were gone when it read, as a set
	again bool   // the wake was delivered before
	mute  bool   // the wake was not delivered to this runner: it cannot ack
	old   wakeID // of the execution before it goes on under a nudge
	live  bool   // an execution is in memory, running or parked
	tail  uint8  // what the next append expects; the park
	read  uint8  // inputs up to here were read
	done  uint8  // bodies that ended but are not stored, as a set
	op    uint8  // whose body runs
	then  uint8  // what follows the append
	tag   uint8  // of the append
	what  uint16 // the append
	kept  kept   // beside the wake
}

// kept is a parked execution that is in memory when another wake comes.
type kept struct {
	park  uint8
	wake  wakeID
	blind uint16
}

// firing is a timer that fired.
type firing struct{ park, delivery uint8 }

// hanging is an append somewhere in the network.
type hanging struct {
	tag, tail uint8
	what      uint16
}

// budget bounds what the world does.
type budget struct {
	events, strange, repeats uint8 // events of the type waited for, of another, one repeated under its id
	crashes                  uint8
	zombies                  uint8 // redeliveries of a wake whose holder lives
	stale                    uint8 // reads that lag behind
	ambiguous                uint8 // appends whose answer is lost, or that hang
	resets                   uint8 // wakes, acked or not, that come back as if never delivered
	twice, early             uint8 // timers
	told                     uint8 // starts that are stored while their bodies run
	releases                 uint8 // shutdowns
	revivals                 uint8 // parked executions that go on because a goroutine calls in
	memories                 uint8 // wakes that find a parked execution in memory

	pauses, resumes, terminates, restarts, partly, deletes uint8 // controls; partly restarts from the second op
	doubles                                                uint8 // controls that are stored twice
	creates                                                uint8 // further instances of the same id
	cleanings                                              uint8
}

// state is everything that there is.
type state struct {
	messages  prefix
	delivery  [maxMessages + 1]uint8
	n         uint8 // newest sequence
	firings   [maxFirings]firing
	fired     uint8
	armed     uint16 // parks that have a timer, as a set
	now       uint8
	runners   [2]activation
	network   hanging
	left      budget
	bodies    [maxOps]uint8 // how often each began
	faulty    bool          // something happened that excuses a body that runs twice
	announced uint8         // sequence of the end that was announced

	gone    uint16 // messages that were purged, as a set
	goneAt  uint8  // newest sequence when that happened
	expired bool   // an end is so old that it is cleaned away
	janitor janitor
}

// begin is the state after the create.
func begin(left budget) state {
	s := state{n: 1, left: left}
	s.messages[1].kind = createMessage
	return s
}

// tail is the sequence of the newest message of the log up to a sequence.
func (s *state) tail(upTo uint8) uint8 { return s.newest(upTo, logMessage) }

// newest is the sequence of the newest message of a kind up to a sequence, if it is not gone.
func (s *state) newest(upTo uint8, kind uint8) uint8 {
	for ; upTo > 0 && (s.messages[upTo].kind != kind || s.gone&(1<<upTo) != 0); upTo-- {
	}
	return upTo
}

// newestInput is the sequence of the newest event, or else of the create.
func (s *state) newestInput() uint8 {
	i := s.n
	for s.messages[i].kind >= nudgeMessage {
		i--
	}
	return i
}

// store puts a message on the stream.
func (s *state) store(m message) uint8 {
	s.n++
	s.messages[s.n] = m
	return s.n
}

// full reports whether the state is at a bound.
func (s *state) full() bool { return s.n >= maxMessages || int(s.fired) >= maxFirings }

func (s *state) deliveryOf(w wakeID) *uint8 {
	if w >= firstFiring {
		return &s.firings[w-firstFiring].delivery
	}
	return &s.delivery[w]
}

// wakes calls f for each wake.
func (s *state) wakes(f func(w wakeID)) {
	for i := uint8(1); i <= s.n; i++ {
		if s.messages[i].kind != logMessage && s.gone&(1<<i) == 0 {
			f(wakeID(i))
		}
	}
	for k := range s.fired {
		f(firstFiring + wakeID(k))
	}
}

// reach is the sequence that a read for the wake must include.
func (s *state) reach(w wakeID) uint8 {
	if w >= firstFiring {
		return s.firings[w-firstFiring].park
	}
	return uint8(w)
}

// owner is the runner that has the wake in hand, nil if none has.
func (s *state) owner(w wakeID) *activation {
	for i := range s.runners {
		if a := &s.runners[i]; a.phase != idle && a.phase != lingering && (a.wake == w || a.old == w) {
			return a
		}
	}
	return nil
}

// executed reports whether an execution is in memory under the wake.
func (s *state) executed(w wakeID) bool {
	return s.runners[0].live && s.runners[0].wake == w || s.runners[1].live && s.runners[1].wake == w
}

// sort makes states equal that differ only in which runner is which.
func (s *state) sort() {
	a, b := &s.runners[0], &s.runners[1]
	if cmp.Or(cmp.Compare(a.phase, b.phase), cmp.Compare(a.wake, b.wake), cmp.Compare(a.tail, b.tail), cmp.Compare(a.blind, b.blind),
		cmp.Compare(a.read, b.read), cmp.Compare(a.done, b.done), cmp.Compare(a.what, b.what), cmp.Compare(a.tag, b.tag)) < 0 {
		*a, *b = *b, *a
	}
}

// moment is when the wait of an op ends, if it has an end; clock is what time it is.
func moment(op int) time.Time     { return clock(uint8(op) + 1) }
func clock(hours uint8) time.Time { return noon.Add(time.Duration(hours) * time.Hour) }
