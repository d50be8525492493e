package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// ErrNewer is returned for a log that a newer version wrote: this one must leave the instance alone.
var ErrNewer = errors.New("written by a newer version of Skein")

// Step is everything a log records about one step, wait or value.
type Step struct {
	protocol.Key
	Config *protocol.StepConfig
	// Attempts are the bodies that ran, oldest first. The last one is open until it has an outcome.
	Attempts []Attempt
	// Failed counts the attempts that ended with an error.
	Failed int
	// LostRuns counts the runs that were lost while this step was running.
	LostRuns int
	// Until is when a wait ends or the next attempt may begin.
	Until *time.Time
	// Type is the event type of a wait.
	Type string
	// Done is set when the outcome is recorded: Result or Error.
	Done   bool
	Result json.RawMessage
	Error  *protocol.Failure
	// Received is the event that ended a wait.
	Received *Received
}

// Attempt is one body that ran.
type Attempt struct {
	Number   int
	Runner   string
	Started  *time.Time
	Finished *time.Time
	Error    *protocol.Failure
	Open     bool
}

// Received is an event as the log records it.
type Received struct {
	Input   uint64
	Type    string
	Sent    time.Time
	Payload json.RawMessage
}

// Run is one activation of the instance.
type Run struct {
	Runner string
	Time   time.Time
	Wake   protocol.Wake
	Lost   bool
}

// History is a log, folded. The zero value is not ready: use NewHistory.
type History struct {
	Situation
	Stream string
	Create protocol.Create
	Steps  map[protocol.Key]*Step
	// Order lists the keys of Steps by first appearance.
	Order []protocol.Key
	Runs  []Run
	// Consumed and ConsumedIDs are the events that a wait took, by sequence and by id.
	Consumed    map[uint64]bool
	ConsumedIDs map[string]bool
	// Output or Failure is the outcome of a finished instance, Ended its moment.
	Output  json.RawMessage
	Failure *protocol.Failure
	Ended   time.Time

	released bool // the newest run gave the instance back
	unblamed bool // the newest run follows a lost one that named no step, and no body of it came back yet
	hard     bool // the newest run follows a lost one
}

// NewHistory begins with the create of an instance, stored at sequence on stream.
func NewHistory(stream string, sequence uint64, create protocol.Create) *History {
	return &History{
		Situation: Situate(stream, sequence, 0, nil),
		Stream:    stream, Create: create,
		Steps:    map[protocol.Key]*Step{},
		Consumed: map[uint64]bool{}, ConsumedIDs: map[string]bool{},
	}
}

// Readable reports, with ErrNewer, whether this version understands a message of a log. A tail that it does not must not
// be decided about: an entry of a new kind may mean that the instance waits, and its only wake would be acked.
func Readable(a *protocol.Append) error {
	if a.V > protocol.Version {
		return fmt.Errorf("version %d: %w", a.V, ErrNewer)
	}
	for _, e := range a.Entries {
		switch e.Kind {
		case protocol.EntryClaimed, protocol.EntryReleased, protocol.EntryStarted, protocol.EntryAttemptFailed,
			protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntryWaiting, protocol.EntrySlept,
			protocol.EntryReceived, protocol.EntryTimedOut, protocol.EntryRecorded, protocol.EntryParked,
			protocol.EntryCompleted, protocol.EntryFailed:
		default:
			return fmt.Errorf("kind %q: %w", e.Kind, ErrNewer)
		}
	}
	return nil
}

// Apply folds the next message of the log, stored at sequence. A message of another incarnation only moves the tail.
func (h *History) Apply(sequence uint64, a *protocol.Append) error {
	if err := Readable(a); err != nil {
		return fmt.Errorf("log entry %d: %w", sequence, err)
	}
	h.Tail = sequence
	if a.Incarnation != h.Incarnation {
		return nil
	}
	h.begun(a)
	for i := range a.Entries {
		if err := h.apply(sequence, a, &a.Entries[i]); err != nil {
			return fmt.Errorf("log entry %d: %w", sequence, err)
		}
	}
	create := h.Incarnation
	h.Situation = Situate(h.Stream, create, sequence, a)
	return nil
}

// begun notes the run that began without a claim. Whoever gives the instance back unbegun had none, and of one that was
// lost before it wrote anything nobody knows whose it was.
func (h *History) begun(a *protocol.Append) {
	if len(h.Runs) > 0 || len(a.Entries) == 0 {
		return
	}
	switch first := a.Entries[0]; {
	case first.Kind == protocol.EntryClaimed && first.Lost:
		h.Runs = append(h.Runs, Run{Time: h.Create.Created, Wake: h.Holder})
	case first.Kind != protocol.EntryClaimed && first.Kind != protocol.EntryReleased:
		h.Runs = append(h.Runs, Run{Runner: a.Runner, Time: a.Time, Wake: h.Holder})
	}
}

func (h *History) apply(sequence uint64, a *protocol.Append, e *protocol.Entry) error {
	switch e.Kind {
	case protocol.EntryClaimed:
		h.claimed(a, e)
		return nil
	case protocol.EntryReleased:
		h.released = true
		h.closeAttempts(a.Time)
		return nil
	case protocol.EntryParked:
		return nil
	case protocol.EntryCompleted:
		h.Output, h.Ended = e.Result, a.Time
		return nil
	case protocol.EntryFailed:
		h.Failure, h.Ended = e.Error, a.Time
		return nil
	}
	if e.Step == nil {
		return fmt.Errorf("kind %q: %w", e.Kind, ErrNewer)
	}
	return h.applyStep(a, e, h.step(*e.Step))
}

func (h *History) applyStep(a *protocol.Append, e *protocol.Entry, s *Step) error {
	at := a.Time
	switch e.Kind {
	case protocol.EntryStarted:
		s.Until = nil
		s.open(e.Attempt, a.Runner, e.Started)
		if e.Charged {
			s.LostRuns++
		}
	case protocol.EntryAttemptFailed:
		s.settle(e, a.Runner, at)
		s.Failed++
		h.unblamed = false
		s.Until = e.Until
		if e.Config != nil {
			s.Config = e.Config
		}
	case protocol.EntryStepCompleted, protocol.EntryStepFailed:
		s.settle(e, a.Runner, at)
		s.finish(e.Result, e.Error)
		h.unblamed = false
	case protocol.EntryWaiting:
		s.Until, s.Type = e.Until, e.Type
	case protocol.EntrySlept, protocol.EntryTimedOut, protocol.EntryRecorded:
		s.finish(e.Result, e.Error)
		if e.Kind == protocol.EntryTimedOut {
			s.Type = e.Type
		}
	case protocol.EntryReceived:
		s.receive(e)
		h.Consumed[e.Input] = true
		h.ConsumedIDs[e.InputID] = true
	default:
		return fmt.Errorf("kind %q: %w", e.Kind, ErrNewer)
	}
	return nil
}

func (h *History) step(k protocol.Key) *Step {
	s := h.Steps[k]
	if s == nil {
		s = &Step{Key: k}
		h.Steps[k] = s
		h.Order = append(h.Order, k)
	}
	return s
}

func (h *History) claimed(a *protocol.Append, e *protocol.Entry) {
	if e.Wake == nil {
		return
	}
	if e.Lost && len(h.Runs) > 0 {
		h.Runs[len(h.Runs)-1].Lost = true
	}
	for _, k := range e.Blamed {
		h.step(k).LostRuns++
	}
	h.closeAttempts(a.Time)
	h.released, h.hard, h.unblamed = false, e.Lost, e.Lost && len(e.Blamed) == 0
	h.Runs = append(h.Runs, Run{Runner: a.Runner, Time: a.Time, Wake: *e.Wake})
}

// closeAttempts ends the open attempts of a run that is over: their bodies have no outcome.
func (h *History) closeAttempts(at time.Time) {
	for _, s := range h.Steps {
		if n := len(s.Attempts); n > 0 && s.Attempts[n-1].Open {
			s.Attempts[n-1].Open = false
		}
	}
}

// Released reports whether the newest run gave the instance back.
func (h *History) Released() bool { return h.released }

// ClaimEntry is the entry by which wake takes the instance: it says whether the run before was lost, and which steps
// are charged with that.
func (h *History) ClaimEntry(wake protocol.Wake) protocol.Entry {
	e := protocol.Entry{Kind: protocol.EntryClaimed, Wake: &wake}
	if wake != h.Holder || h.released || h.Phase != Running {
		return e
	}
	e.Lost = true
	for _, k := range h.Order {
		if s := h.Steps[k]; !s.Done && len(s.Attempts) > 0 && s.Attempts[len(s.Attempts)-1].Open {
			e.Blamed = append(e.Blamed, k)
		}
	}
	return e
}

func (s *Step) open(number int, runner string, started *time.Time) {
	if n := len(s.Attempts); n > 0 && s.Attempts[n-1].Open && s.Attempts[n-1].Number == number {
		return
	}
	s.Attempts = append(s.Attempts, Attempt{Number: number, Runner: runner, Started: started, Open: true})
}

// settle ends the attempt that e is about; an attempt whose start was never recorded is added.
func (s *Step) settle(e *protocol.Entry, runner string, at time.Time) {
	if e.Attempt == 0 {
		return
	}
	s.open(e.Attempt, runner, e.Started)
	last := &s.Attempts[len(s.Attempts)-1]
	last.Open, last.Finished, last.Error = false, &at, e.Error
}

func (s *Step) finish(result json.RawMessage, failure *protocol.Failure) {
	s.Done, s.Result, s.Error, s.Until = true, result, failure, nil
}

func (s *Step) receive(e *protocol.Entry) {
	s.finish(e.Result, nil)
	s.Received = &Received{Input: e.Input, Type: e.Type, Payload: e.Result}
	if e.Sent != nil {
		s.Received.Sent = *e.Sent
	}
}
