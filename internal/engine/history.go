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
	Config *protocol.StepConfig `json:"config,omitempty"`
	// Attempts are the bodies that ran, oldest first. The last one is open until it has an outcome.
	Attempts []Attempt `json:"attempts,omitempty"`
	// Failed counts the attempts that ended with an error.
	Failed int `json:"failed,omitempty"`
	// LostRuns counts the runs that were lost while this step was running.
	LostRuns int `json:"lost_runs,omitempty"`
	// Until is when a wait ends or the next attempt may begin.
	Until *time.Time `json:"until,omitempty"`
	// Type is the event type of a wait.
	Type string `json:"type,omitempty"`
	// Done is set when the outcome is recorded: Result or Error.
	Done   bool              `json:"done,omitempty"`
	Result json.RawMessage   `json:"result,omitempty"`
	Error  *protocol.Failure `json:"error,omitempty"`
	// Received is the event that ended a wait.
	Received *Received `json:"received,omitempty"`
	// Object is where the Result is if it is too large for a message.
	Object *protocol.Object `json:"object,omitempty"`
	// Callee is the instance that a call is about.
	Callee *protocol.Callee `json:"callee,omitempty"`
	// Winner is the index of the branch that was first in a race; nil if none was. The paths of its branches begin with
	// Within.
	Winner *int   `json:"winner,omitempty"`
	Within string `json:"within,omitempty"`
	// Lost is set if a race was decided, or a group failed, before the step of one of its branches had an outcome.
	Lost bool `json:"lost,omitempty"`
	// GaveUp says why the code has given up the step before it had an outcome; nil if it has not.
	GaveUp *protocol.Failure `json:"gave_up,omitempty"`
	// Branch is the line of calls that the step belongs to.
	Branch string `json:"branch,omitempty"`
	// First is the sequence of the message that first named the step, Ended of that with its outcome; 0 if there is none.
	First uint64 `json:"first,omitempty"`
	Ended uint64 `json:"ended,omitempty"`
	// Behind is how many outcomes the log held when it first named the step, Nth the number of its own outcome, from 1.
	Behind int `json:"behind,omitempty"`
	Nth    int `json:"nth,omitempty"`
	// Epoch is the number of restarts before the step was first named: a part of what identifies its effects.
	Epoch int `json:"epoch,omitempty"`
	// Accepted is set if the code need not call the step any more.
	Accepted bool `json:"accepted,omitempty"`
	// Heartbeat is what the body last said of itself, HeardAt when.
	Heartbeat json.RawMessage `json:"heartbeat,omitempty"`
	HeardAt   time.Time       `json:"heard_at,omitzero"`

	missing bool    // recorded before this run, and not called in it
	owner   *Branch // who called it in this run
	told    bool    // this run has made an entry about it
	untold  bool    // Config differs from the default, and no entry says so yet
	beats   bool    // the body of the newest attempt has said something of itself

	contenders []*Branch // of a race
	calls      []*Step   // of these, until it is decided
	settled    bool      // decided, and its branches may end
}

// Attempt is one body that ran.
type Attempt struct {
	Number   int               `json:"number"`
	Runner   string            `json:"runner"`
	Started  *time.Time        `json:"started,omitempty"`
	Finished *time.Time        `json:"finished,omitempty"`
	Error    *protocol.Failure `json:"error,omitempty"`
	Open     bool              `json:"open,omitempty"`
}

// Received is an event as the log records it.
type Received struct {
	Input   uint64          `json:"input"`
	ID      string          `json:"id,omitempty"`
	Type    string          `json:"type,omitempty"`
	Sent    time.Time       `json:"sent"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Run is one activation of the instance.
type Run struct {
	Runner  string        `json:"runner"`
	Time    time.Time     `json:"time"`
	Wake    protocol.Wake `json:"wake"`
	Lost    bool          `json:"lost,omitempty"`
	Version string        `json:"version,omitempty"`
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
	// Carried are events that no wait had taken when a snapshot was made: the stream may not hold them any more.
	// CarriedTo is the sequence up to which they stand for the stream.
	Carried   []Input
	CarriedTo uint64
	// Obeyed are the ids of the controls that changed something.
	Obeyed map[string]bool
	// End is how a finished instance ended, Output or Failure its outcome, Ended the moment, EndedAt the sequence of the
	// message that says so, Expires when it can be cleaned away.
	End          protocol.EntryKind
	Output       json.RawMessage
	OutputObject *protocol.Object
	Failure      *protocol.Failure
	Ended        time.Time
	EndedAt      uint64
	Expires      *time.Time
	// Epoch is the number of restarts. Events older than EventsFrom are void: the instance was restarted since.
	Epoch      int
	EventsFrom uint64
	// Stopped is the moment at which a paused instance was paused or held. StoppedAt is the sequence of the control that
	// paused it, or of the log entry that holds it; Held says why the code does.
	Stopped   time.Time
	StoppedAt uint64
	Held      *protocol.Entry
	// Rolling is set from the moment on at which the steps are being undone, Rollback is what became of it.
	Rolling  *protocol.Entry
	Rollback *protocol.Rollback
	// Untold are calls that ended without their child since the instance was parked: the child may not know.
	Untold []Call

	outcomes   int     // outcomes of steps, also of those that a restart forgot
	undone     []*Step // steps without an outcome, and some that have one, or that a restart forgot
	standsOver *uint64 // what the newest message stands over, if it is a snapshot
	open       []*Step // whose attempts may be open: those that began since all were closed
	released   bool    // the newest run gave the instance back
	unblamed   bool    // the newest run follows a lost one that named no step, and no body of it came back yet
	hard       bool    // the newest run follows a lost one
}

// NewHistory begins with the create of an instance, which goes by incarnation and stands on stream. The tail is the
// sequence of the newest message of its log: what Apply is not told of belongs to others that had its id.
func NewHistory(stream string, incarnation uint64, create protocol.Create) *History {
	return &History{
		Situation: Situate(stream, incarnation, 0, nil),
		Stream:    stream, Create: create,
		Steps:    map[protocol.Key]*Step{},
		Consumed: map[uint64]bool{}, ConsumedIDs: map[string]bool{}, Obeyed: map[string]bool{},
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
			protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntryGroupFailed, protocol.EntryGivenUp, protocol.EntryWaiting, protocol.EntrySlept,
			protocol.EntryReceived, protocol.EntryTimedOut, protocol.EntryRecorded, protocol.EntryReported, protocol.EntryParked,
			protocol.EntryCompleted, protocol.EntryFailed, protocol.EntryTerminated, protocol.EntryDeleted,
			protocol.EntryPaused, protocol.EntryHeld, protocol.EntryResumed, protocol.EntryRestarted,
			protocol.EntryRollingBack, protocol.EntryRolledBack, protocol.EntryHeartbeat, protocol.EntrySnapshot:
		default:
			return fmt.Errorf("kind %q: %w", e.Kind, ErrNewer)
		}
	}
	return nil
}

// Apply folds the next message of the log, stored at sequence. A message of another incarnation only moves the tail.
func (h *History) Apply(sequence uint64, a *protocol.Append) error { return h.fold(sequence, a, nil) }

// fold is Apply, and lets t see what each part changes.
func (h *History) fold(sequence uint64, a *protocol.Append, t *telling) error {
	if err := Readable(a); err != nil {
		return fmt.Errorf("log entry %d: %w", sequence, err)
	}
	h.Tail, h.standsOver = sequence, nil
	if a.Incarnation != h.Incarnation {
		return nil
	}
	h.Epoch = a.Epoch
	runs := len(h.Runs)
	h.begun(a)
	t.begun(runs)
	for i := range a.Entries {
		t.before(i)
		if err := h.apply(sequence, a, &a.Entries[i]); err != nil {
			return fmt.Errorf("log entry %d: %w", sequence, err)
		}
		t.after(i)
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
	case first.Kind == protocol.EntrySnapshot: // it says who ran
	case first.Kind == protocol.EntryClaimed && first.Lost:
		h.Runs = append(h.Runs, Run{Time: h.Create.Created, Wake: h.Holder})
	case first.Input != 0 && first.Step == nil: // a control found the instance unbegun
	case len(first.Waits) == 1 && first.Waits[0].Op == protocol.OpSlot: // it waits for a slot to begin
	case first.Kind != protocol.EntryClaimed && first.Kind != protocol.EntryReleased:
		h.Runs = append(h.Runs, Run{Runner: a.Runner, Time: a.Time, Wake: h.Holder, Version: a.Version})
	}
}

func (h *History) apply(sequence uint64, a *protocol.Append, e *protocol.Entry) error {
	switch e.Kind {
	case protocol.EntryClaimed:
		h.claimed(a, e)
		return nil
	case protocol.EntryReleased:
		h.released = true
		h.closeAttempts()
		return nil
	case protocol.EntryParked:
		h.Untold = nil // before a park all children are told
		return nil
	case protocol.EntryCompleted, protocol.EntryFailed, protocol.EntryTerminated, protocol.EntryDeleted:
		h.end(sequence, a, e)
		return nil
	case protocol.EntryPaused, protocol.EntryHeld, protocol.EntryResumed, protocol.EntryRestarted,
		protocol.EntryRollingBack, protocol.EntryRolledBack:
		h.steer(sequence, a, e)
		return nil
	case protocol.EntrySnapshot:
		return h.restore(e)
	}
	if e.Step == nil {
		return fmt.Errorf("kind %q: %w", e.Kind, ErrNewer)
	}
	s := h.step(*e.Step)
	if s.First == 0 {
		s.First = sequence
	}
	if e.Branch != "" {
		s.Branch = e.Branch
	}
	if e.Config != nil {
		s.Config = e.Config
	}
	if err := h.applyStep(a, e, s); err != nil {
		return err
	}
	if s.Done && s.Ended == 0 {
		h.outcomes++
		s.Ended, s.Nth = sequence, h.outcomes
	}
	return nil
}

func (h *History) applyStep(a *protocol.Append, e *protocol.Entry, s *Step) error {
	at := a.Time
	switch e.Kind {
	case protocol.EntryStarted:
		s.Until = nil
		switch s.Op {
		case protocol.OpCall:
			s.Callee, s.Until = e.Callee, e.Until
			return nil
		case protocol.OpRace:
			s.Within = e.Within
			return nil
		}
		s.open(e.Attempt, a.Runner, e.Started)
		h.open = append(h.open, s)
		if e.Charged {
			s.LostRuns++
		}
	case protocol.EntryAttemptFailed:
		s.settle(e, a.Runner, at)
		s.Failed++
		h.unblamed = false
		s.Until = e.Until
	case protocol.EntryStepCompleted, protocol.EntryStepFailed:
		if s.Op == protocol.OpRace {
			h.decided(s, e)
			return nil
		}
		s.settle(e, a.Runner, at)
		s.finish(e.Result, e.Error)
		s.Object = e.Object
		h.unblamed = false
		if gaveUp(e.Error) {
			h.outlived(s)
		}
	case protocol.EntryGroupFailed:
		h.groupFailed(s, e)
	case protocol.EntryGivenUp:
		s.abandon(e.Error)
	case protocol.EntryHeartbeat:
		s.Heartbeat, s.HeardAt = e.Result, at
	case protocol.EntryWaiting:
		s.Until, s.Type = e.Until, e.Type
		if e.Callee != nil {
			s.Callee = e.Callee
		}
	case protocol.EntrySlept, protocol.EntryTimedOut, protocol.EntryRecorded:
		s.finish(e.Result, e.Error)
		s.Object = e.Object
		if e.Kind == protocol.EntryTimedOut {
			s.Type = e.Type
			h.outlived(s)
		}
	case protocol.EntryReported: // what it says is for others
		s.finish(nil, nil)
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
		s = &Step{Key: k, Epoch: h.Epoch, Behind: h.outcomes}
		h.add(s)
	}
	return s
}

func (h *History) add(s *Step) {
	h.Steps[s.Key] = s
	h.Order = append(h.Order, s.Key)
	h.undone = append(h.undone, s)
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
	h.closeAttempts()
	h.released, h.hard, h.unblamed = false, e.Lost, e.Lost && len(e.Blamed) == 0
	h.Runs = append(h.Runs, Run{Runner: a.Runner, Time: a.Time, Wake: *e.Wake, Version: a.Version})
}

// closeAttempts ends the open attempts of a run that is over: their bodies have no outcome. A long log has many runs: it
// looks only at those steps that have begun meanwhile.
func (h *History) closeAttempts() {
	for _, s := range h.open {
		if s.isOpen() {
			s.Attempts[len(s.Attempts)-1].Open = false
		}
	}
	h.open = nil
}

// isOpen reports whether the body of the newest attempt began and has no outcome.
func (s *Step) isOpen() bool {
	n := len(s.Attempts)
	return n > 0 && s.Attempts[n-1].Open
}

// Version is that of the code of the newest run; empty if it is not known.
func (h *History) Version() string {
	if len(h.Runs) == 0 {
		return ""
	}
	return h.Runs[len(h.Runs)-1].Version
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
		if s := h.Steps[k]; !s.Done && s.isOpen() {
			e.Blamed = append(e.Blamed, k)
		}
	}
	return e
}

func (s *Step) open(number int, runner string, started *time.Time) {
	if s.isOpen() && s.Attempts[len(s.Attempts)-1].Number == number {
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
	s.Object = e.Object
	s.Received = &Received{Input: e.Input, ID: e.InputID, Type: e.Type, Payload: e.Result}
	if e.Sent != nil {
		s.Received.Sent = *e.Sent
	}
}
