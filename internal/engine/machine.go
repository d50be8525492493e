package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Errors about how workflow code uses its steps. They are mistakes of the code, found before anything is stored.
var (
	// ErrInFlight is returned if a step is called while another of the same name is not finished.
	ErrInFlight = errors.New("a step of this name is in flight")
	// ErrAmbiguous is returned if two branches that run side by side use one step name: which of them came first
	// would decide which result is whose.
	ErrAmbiguous = errors.New("step name is used by two branches that run side by side")
)

// Machine answers the calls of one run of workflow code: with what the history holds, or with what to do now. What
// happens it turns into entries for the log. One goroutine at a time may use it.
type Machine struct {
	h       *History
	names   map[nameKey]*nameUse
	pending []*Step         // waits without an outcome, in the order of their calls
	inputs  []Input         // events that no wait has taken, in order
	known   map[string]bool // ids of inputs
	seen    uint64          // sequence of the newest input delivered
	carried uint64          // up to where the history's carried inputs are among them

	recorded int  // steps that the history held when the run began, with or without an outcome
	called   int  // how many of them were called
	live     bool // a call was not recorded
	gates    *gates
	// Withhold says whether a wait of a branch must not end now; nil: all may.
	Withhold func(b *Branch) bool
	outcomes int     // number of the newest outcome that a branch was given
	recall   bool    // nothing but what is recorded counts
	undoing  []*Step // to undo, the next one first
	forked   bool    // there was more than one branch
	limits   Limits
	steps    int   // how many were called
	state    int64 // bytes of what the code was given

	latest time.Time // when the step began that did so last

	entries []protocol.Entry
	taken   uint64 // entries handed out by Take
	hard    uint64 // position of the newest entry that must be durable before an effect
	tick    uint64
}

type nameKey struct {
	op   protocol.Op
	name string
}

type nameUse struct {
	count    int
	inFlight bool
	by       *Branch
	at       uint64
}

// Input is an event sent to the instance.
type Input struct {
	Sequence uint64           `json:"sequence"`
	ID       string           `json:"id"`
	Type     string           `json:"type"`
	Payload  json.RawMessage  `json:"payload,omitempty"`
	Object   *protocol.Object `json:"object,omitempty"`
	Sent     time.Time        `json:"sent"`
}

// NewMachine begins a run over what is recorded.
func NewMachine(h *History) *Machine {
	return &Machine{
		h: h, names: map[nameKey]*nameUse{}, known: map[string]bool{}, recorded: len(h.Steps), outcomes: h.outcomes,
	}
}

// Branch is a line of calls that follow one another. Workflow code begins with one and gets one more for each
// function of a group.
type Branch struct {
	parent  *Branch
	path    string
	born    uint64
	joined  uint64 // moment of the join, 0 before
	groups  int
	members int

	race  *Step // that it contends in, or the group that it is of
	index int   // which of its branches it is
	last  int   // number of the newest outcome that it was given
}

// Root is the branch that workflow code begins with.
func (m *Machine) Root() *Branch { return &Branch{} }

// Depth is how many branches the branch is within.
func (b *Branch) Depth() int {
	n := 0
	for x := b.parent; x != nil; x = x.parent {
		n++
	}
	return n
}

// line is the path by which the log knows the branch of a step. The names of values tell theirs.
func (b *Branch) line(op protocol.Op) string {
	if op == protocol.OpValue {
		return ""
	}
	return b.path
}

// nextGroup numbers the groups of a branch.
func (m *Machine) nextGroup(b *Branch) int {
	b.groups++
	return b.groups
}

// Join ends a branch: what its parent calls from now on comes after it.
func (m *Machine) Join(b *Branch) {
	m.tick++
	b.joined = m.tick
}

func (b *Branch) within(other *Branch) bool {
	for x := b; x != nil; x = x.parent {
		if x == other {
			return true
		}
	}
	return false
}

// before reports whether a use by branch u at moment at comes before anything that b calls now, in every run: the use
// came before the fork of the line that b is on, or all branches from u up to that line are joined and, unless b is
// the one who joined them, were so before the fork of its line.
func (u *Branch) before(at uint64, b *Branch) bool {
	x := u
	for ; !b.within(x); x = x.parent {
		if x.joined == 0 || x.parent == nil {
			return false
		}
		at = max(at, x.joined)
	}
	if x == b {
		return true
	}
	for b.parent != x {
		b = b.parent
	}
	return at <= b.born
}

// call finds the step that a call of workflow code is about: by name, and by how often that name was called before. Of a
// branch that has lost a race, the calls that the log does not know are not counted: how many it makes is chance.
func (m *Machine) call(b *Branch, op protocol.Op, name string) (*Step, error) {
	closed := b.closed()
	if closed != nil && m.recordedIn(closed, op, name) == nil {
		return nil, ErrLost
	}
	use := m.names[nameKey{op, name}]
	if use == nil {
		use = &nameUse{by: b}
		m.names[nameKey{op, name}] = use
	}
	switch { // in this order: which error it is must not depend on who was faster
	case !use.by.before(use.at, b):
		return nil, fmt.Errorf("%s %q: %w", op, name, ErrAmbiguous)
	case use.inFlight:
		return nil, fmt.Errorf("%s %q: %w", op, name, ErrInFlight)
	}
	m.tick++
	use.count, use.by, use.at = use.count+1, b, m.tick
	k := protocol.Key{Op: op, Name: name, Count: use.count}
	m.gate() // before the history knows of this call
	s := m.h.Steps[k]
	if s == nil {
		m.live = true
		s = m.h.step(k)
		s.Branch = b.line(op)
	}
	m.gates.arrive(s)
	m.called++
	if s.Done {
		m.keep(s)
	}
	s.calledBy(b)
	if closed != nil && !s.Done && op != protocol.OpRace {
		return s, ErrLost
	}
	s.Lost = s.Lost && closed != nil
	if s.GaveUp != nil && !s.Done {
		return s, ErrGaveUp
	}
	use.inFlight = !s.Done
	return s, nil
}

// calledBy notes who called a step, and what he knows by that.
func (s *Step) calledBy(b *Branch) {
	s.owner = b
	for x := b; x != nil; x = x.parent {
		if x.race != nil && !x.race.Done {
			x.race.calls = append(x.race.calls, s)
		}
	}
	if s.Done {
		b.reach(s.Nth)
	}
}

// outcome numbers the outcome of a step, which its branch is given now.
func (m *Machine) outcome(s *Step) {
	m.outcomes++
	s.owner.reach(m.outcomes)
}

// withheld reports whether a wait must not end now. That the next attempt of a step may begin is no outcome.
func (m *Machine) withheld(s *Step) bool {
	waits := s.Op == protocol.OpSleep || takesEvents(s.Op)
	return waits && m.Withhold != nil && m.Withhold(s.owner)
}

func (m *Machine) land(k protocol.Key) {
	m.names[nameKey{k.Op, k.Name}].inFlight = false
}

// Do is called for a step. If the returned step is not done, its next attempt may begin, unless Until is set: then
// it waits like a sleep. The recorded config wins over the one given now.
func (m *Machine) Do(b *Branch, name string, config protocol.StepConfig) (*Step, error) {
	s, err := m.call(b, protocol.OpDo, name)
	if s != nil {
		err = m.count(s, err)
	}
	if err != nil {
		return s, err
	}
	s.configure(config)
	if s.Done || m.recall {
		return s, nil
	}
	if s.LostRuns > s.Config.LostRuns {
		m.finishStep(s, nil, lostRuns(s), 0, time.Time{})
	} else if s.Until != nil {
		m.pending = append(m.pending, s)
	}
	return s, nil
}

func lostRuns(s *Step) *protocol.Failure {
	return &protocol.Failure{
		Name: protocol.FailureLostRuns, Terminal: true,
		Message: fmt.Sprintf("%d runs were lost while step %q was running, %d are allowed", s.LostRuns, s.Name, s.Config.LostRuns),
	}
}

// Begin records that an attempt begins and returns its number.
func (m *Machine) Begin(s *Step, now time.Time) int {
	n := 1
	if len(s.Attempts) > 0 {
		n = s.Attempts[len(s.Attempts)-1].Number + 1
	}
	if now.Before(m.latest) { // these moments tell which step began last, also where the clock was put back
		now = m.latest.Add(1)
	}
	m.latest = now
	s.open(n, "", &now)
	s.beats = false
	e := protocol.Entry{Kind: protocol.EntryStarted, Step: &s.Key, Attempt: n, Started: &now, Config: s.tellConfig()}
	if m.h.unblamed {
		e.Charged = true
		s.LostRuns++
	}
	m.soft(e)
	return n
}

// StartIsHard reports whether the start of a step must be durable before its body runs: after a lost run it must, so
// that the next one blames one step.
func (m *Machine) StartIsHard() bool { return m.h.hard }

// Complete records the result of a step.
func (m *Machine) Complete(s *Step, result json.RawMessage, now time.Time) {
	attempt, started := s.current()
	m.finishStep(s, result, nil, attempt, started)
}

// CompleteObject records the result of a step that is in the object store.
func (m *Machine) CompleteObject(s *Step, result *protocol.Object, now time.Time) {
	s.Object = result
	m.Complete(s, nil, now)
}

// FailAttempt records that an attempt failed and that the next one may begin after a delay. It returns that moment.
// Whether there is a next one, MayRetry says.
func (m *Machine) FailAttempt(s *Step, failure *protocol.Failure, now time.Time, delay time.Duration) (until time.Time) {
	attempt, started := s.current()
	s.Failed++
	m.h.unblamed = false // its body came back
	until = now.Add(delay)
	m.elide(s, false)
	e := protocol.Entry{
		Kind: protocol.EntryAttemptFailed, Step: &s.Key, Attempt: attempt, Started: &started, Error: failure,
		Until: &until, Config: s.tellConfig(),
	}
	s.settle(&e, "", now)
	s.Until = &until
	m.put(e)
	m.pending = append(m.pending, s)
	return until
}

// Fail records that a step failed for good, with the failure of its last attempt.
func (m *Machine) Fail(s *Step, failure *protocol.Failure) {
	attempt, started := s.current()
	m.finishStep(s, nil, failure, attempt, started)
}

func (s *Step) current() (int, time.Time) {
	if n := len(s.Attempts); n > 0 && s.Attempts[n-1].Started != nil {
		return s.Attempts[n-1].Number, *s.Attempts[n-1].Started
	}
	return 0, time.Time{}
}

func (m *Machine) finishStep(s *Step, result json.RawMessage, failure *protocol.Failure, attempt int, started time.Time) {
	m.elide(s, failure == nil)
	e := protocol.Entry{
		Kind: protocol.EntryStepCompleted, Step: &s.Key, Attempt: attempt, Result: result, Object: s.Object, Config: s.tellConfig(),
	}
	if failure != nil {
		e.Kind, e.Error = protocol.EntryStepFailed, failure
	}
	if attempt > 0 {
		e.Started = &started
	}
	s.finish(result, failure)
	m.keep(s)
	m.h.unblamed = false
	m.outcome(s)
	m.put(e)
	m.land(s.Key)
}

// Heartbeat records what the body of a step says of itself. It only informs.
func (m *Machine) Heartbeat(s *Step, details json.RawMessage, now time.Time) {
	s.Heartbeat, s.HeardAt, s.beats = details, now, true
	attempt, _ := s.current()
	m.soft(protocol.Entry{Kind: protocol.EntryHeartbeat, Step: &s.Key, Attempt: attempt, Result: details})
}

// elide drops the start of a step whose outcome goes into the same append: the outcome says as much. What its body said
// of itself is dropped with it if the step completed, and otherwise keeps the start.
func (m *Machine) elide(s *Step, completed bool) {
	if s.beats && !completed {
		return
	}
	m.entries = slices.DeleteFunc(m.entries, func(e protocol.Entry) bool {
		if e.Kind != protocol.EntryStarted && e.Kind != protocol.EntryHeartbeat || *e.Step != s.Key {
			return false
		}
		s.untold = s.untold || e.Config != nil
		m.taken++ // positions stay as they are
		return true
	})
}

// Sleep is called for a sleep that ends at until, if its end is not recorded yet.
func (m *Machine) Sleep(b *Branch, name string, until time.Time) (*Step, error) {
	s, err := m.call(b, protocol.OpSleep, name)
	if err != nil || s.Done {
		return s, err
	}
	m.wait(s, "", &until)
	return s, nil
}

// WaitForEvent is called for a wait for an event that ends at until at the latest; nil is never.
func (m *Machine) WaitForEvent(b *Branch, name, eventType string, until *time.Time) (*Step, error) {
	s, err := m.call(b, protocol.OpEvent, name)
	if err != nil || s.Done {
		return s, err
	}
	if err := m.room(s); err != nil {
		return nil, err
	}
	m.wait(s, eventType, until)
	return s, nil
}

func (m *Machine) wait(s *Step, eventType string, until *time.Time) {
	if m.recall {
		return
	}
	if s.Type == "" && s.Until == nil { // not recorded yet
		s.Type, s.Until = eventType, until
		m.soft(protocol.Entry{Kind: protocol.EntryWaiting, Step: &s.Key, Type: eventType, Until: until})
	}
	m.pending = append(m.pending, s)
	m.match()
}

// ErrGaveUp is returned by a call that an earlier run has given up.
var ErrGaveUp = errors.New("an earlier run has given up the call")

// GiveUp records that the code has given up a call, because its context ended: no later run makes it.
func (m *Machine) GiveUp(k protocol.Key, why *protocol.Failure) {
	s := m.h.Steps[k]
	s.abandon(why)
	m.put(protocol.Entry{Kind: protocol.EntryGivenUp, Step: &s.Key, Error: why})
	m.Abandon(k)
}

// abandon notes that the code has given up a step.
func (s *Step) abandon(why *protocol.Failure) {
	s.GaveUp = why
	if n := len(s.Attempts); n > 0 {
		s.Attempts[n-1].Open = false
	}
}

// Abandon forgets a call that its caller gave up: nothing is recorded of its end.
func (m *Machine) Abandon(k protocol.Key) {
	m.pending = slices.DeleteFunc(m.pending, func(s *Step) bool { return s.Key == k })
	m.land(k)
}

// Match ends the waits that were withheld from events before, and returns them.
func (m *Machine) Match() []protocol.Key { return m.match() }

// Deliver hands in events in the order of the stream and returns the waits that they ended.
func (m *Machine) Deliver(inputs []Input) []protocol.Key {
	for _, in := range inputs {
		if in.Sequence > m.seen {
			m.learn(in)
		}
	}
	return m.match()
}

// learn takes note of an event that counts for something. Carried ones may be older than those that the stream gave.
func (m *Machine) learn(in Input) {
	m.seen = max(m.seen, in.Sequence)
	if m.void(in, m.known) {
		return
	}
	m.known[in.ID] = true
	at, _ := slices.BinarySearchFunc(m.inputs, in, func(a, b Input) int { return cmp.Compare(a.Sequence, b.Sequence) })
	m.inputs = slices.Insert(m.inputs, at, in)
}

// void reports whether an input counts for nothing: it was for an instance that had this id before, or its id is taken.
func (m *Machine) void(in Input, ids map[string]bool) bool {
	return in.Sequence < max(m.h.Incarnation, m.h.EventsFrom) || m.h.Consumed[in.Sequence] || m.h.ConsumedIDs[in.ID] || ids[in.ID]
}

// Seen is the sequence of the newest input delivered.
func (m *Machine) Seen() uint64 { return m.seen }

// match gives the oldest event of a type to the oldest wait for it. Events that the history has as carried count, too:
// the stream may not hold them any more.
func (m *Machine) match() []protocol.Key {
	if m.carried != m.h.CarriedTo {
		m.carried = m.h.CarriedTo
		for _, in := range m.h.Carried {
			m.learn(in)
		}
	}
	var ended []protocol.Key
	m.inputs = slices.DeleteFunc(m.inputs, func(in Input) bool {
		i := slices.IndexFunc(m.pending, func(s *Step) bool {
			return takesEvents(s.Op) && s.Type == in.Type && !m.withheld(s)
		})
		if i < 0 {
			return false
		}
		s := m.pending[i]
		m.pending = slices.Delete(m.pending, i, i+1)
		e := protocol.Entry{
			Kind: protocol.EntryReceived, Step: &s.Key, Type: in.Type, Input: in.Sequence, InputID: in.ID,
			Sent: &in.Sent, Result: in.Payload, Object: in.Object,
		}
		s.receive(&e)
		m.keep(s)
		m.h.Consumed[in.Sequence], m.h.ConsumedIDs[in.ID] = true, true
		delete(m.known, in.ID)
		m.end(e)
		ended = append(ended, s.Key)
		return true
	})
	return ended
}

// end records the end of a wait. Its beginning is dropped if it goes into the same append, except that of a call, which
// alone says which incarnation of the child is meant.
func (m *Machine) end(e protocol.Entry) {
	m.entries = slices.DeleteFunc(m.entries, func(x protocol.Entry) bool {
		if x.Kind != protocol.EntryWaiting || *x.Step != *e.Step || x.Callee != nil {
			return false
		}
		m.taken++
		return true
	})
	m.outcome(m.h.Steps[*e.Step])
	m.put(e)
	m.land(*e.Step)
}

// Due ends the waits whose moment has come and returns them; for a step whose next attempt may begin, too.
func (m *Machine) Due(now time.Time) []protocol.Key {
	var ended []protocol.Key
	m.pending = slices.DeleteFunc(m.pending, func(s *Step) bool {
		if s.Until == nil || now.Before(*s.Until) || m.withheld(s) {
			return false
		}
		ended = append(ended, s.Key)
		switch s.Op {
		case protocol.OpDo, protocol.OpRollback:
			s.Until = nil
		case protocol.OpSleep:
			s.finish(nil, nil)
			m.end(protocol.Entry{Kind: protocol.EntrySlept, Step: &s.Key})
		case protocol.OpEvent:
			f := &protocol.Failure{Name: protocol.FailureTimeout, Message: fmt.Sprintf("no event of type %q came in time", s.Type)}
			m.end(protocol.Entry{Kind: protocol.EntryTimedOut, Step: &s.Key, Type: s.Type, Error: f})
			s.finish(nil, f)
		case protocol.OpCall:
			m.h.outlived(s)
			m.endCall(s, protocol.EntryTimedOut, timedOutCall(s))
		}
		return true
	})
	return ended
}

// NextDue is the moment at which the next wait ends; ok is false if none has an end.
func (m *Machine) NextDue() (next time.Time, ok bool) {
	for _, s := range m.pending {
		if s.Until != nil && (!ok || s.Until.Before(next)) && !m.withheld(s) {
			next, ok = *s.Until, true
		}
	}
	return next, ok
}

// Waiting reports how many waits have no outcome, and whether one of them is for an event.
func (m *Machine) Waiting() (n int, forEvent bool) {
	for _, s := range m.pending {
		forEvent = forEvent || takesEvents(s.Op)
	}
	return len(m.pending), forEvent
}

// Value returns a recorded value taken from the world, or records what produce returns. Branches have values of their
// own: calls have no name that tells them apart.
func (m *Machine) Value(b *Branch, kind string, produce func() json.RawMessage) (json.RawMessage, error) {
	s, err := m.call(b, protocol.OpValue, b.path+kind)
	switch {
	case errors.Is(err, ErrLost): // what the branch makes of it counts for nothing
		return produce(), nil
	case err != nil:
		return nil, err
	}
	if s.Done {
		return s.Result, nil
	}
	s.finish(produce(), nil)
	m.keep(s)
	m.outcome(s)
	if !m.recall { // else it is a value of this run alone
		m.put(protocol.Entry{Kind: protocol.EntryRecorded, Step: &s.Key, Result: s.Result})
	}
	m.land(s.Key)
	return s.Result, nil
}

// namedWaits is how many waits a park tells in full.
const namedWaits = 100

// Park adds the entry that ends this activity and returns what it waits for. Of many waits it tells what decides about
// wakes, the types of events: no message could hold the names of ten thousand.
func (m *Machine) Park() protocol.Entry {
	e := protocol.Entry{Kind: protocol.EntryParked}
	types := map[string]bool{}
	for i, s := range m.pending {
		switch known := types[s.Type]; {
		case i < namedWaits:
			e.Waits = append(e.Waits, protocol.Wait{Key: s.Key, Type: s.Type, Until: s.Until})
		case takesEvents(s.Op) && !known:
			e.Waits = append(e.Waits, protocol.Wait{Key: protocol.Key{Op: s.Op}, Type: s.Type})
		}
		types[s.Type] = types[s.Type] || takesEvents(s.Op)
	}
	if next, ok := m.NextDue(); ok {
		e.Until = &next
	}
	m.put(e)
	return e
}

// Claim adds the entry by which the run goes on after a park, under another wake. What a lost run before it asks of a run
// is over by that.
func (m *Machine) Claim(wake protocol.Wake) {
	m.h.hard, m.h.unblamed = false, false
	m.put(protocol.Entry{Kind: protocol.EntryClaimed, Wake: &wake})
}

// Record adds an entry that belongs to no step, such as a release.
func (m *Machine) Record(e protocol.Entry) { m.put(e) }

// Finish adds the terminal entry.
func (m *Machine) Finish(result json.RawMessage, failure *protocol.Failure) {
	e := protocol.Entry{Kind: protocol.EntryCompleted, Result: result}
	if failure != nil {
		e = protocol.Entry{Kind: protocol.EntryFailed, Error: failure}
	}
	if m.h.Rolling != nil && m.h.Rolling.Terminate {
		e.Kind = protocol.EntryTerminated
	}
	m.put(e)
}

// FinishObject adds the terminal entry of an instance whose output is in the object store.
func (m *Machine) FinishObject(output *protocol.Object) {
	m.put(protocol.Entry{Kind: protocol.EntryCompleted, Object: output})
}

// Expire says when the instance can be cleaned away whose terminal entry was just added.
func (m *Machine) Expire(at *time.Time) { m.entries[len(m.entries)-1].Expires = at }

func (m *Machine) put(e protocol.Entry) {
	m.soft(e)
	m.hard = m.Position()
}

// soft adds an entry that only informs: nothing waits for it to be durable.
func (m *Machine) soft(e protocol.Entry) {
	if m.recall {
		return
	}
	if e.Step != nil {
		s := m.h.Steps[*e.Step]
		s.told = true
		if m.forked {
			e.Branch = s.Branch
		}
	}
	if m.entries == nil { // most appends have the end of one step and the start of the next
		m.entries = make([]protocol.Entry, 0, 2)
	}
	m.entries = append(m.entries, e)
}

// Position is the position after the newest entry. Entries up to a position are durable once the append of the Take
// that returned it is.
func (m *Machine) Position() uint64 { return m.taken + uint64(len(m.entries)) }

// Hard is the position up to which entries must be durable before the next effect.
func (m *Machine) Hard() uint64 { return m.hard }

// Buffered reports whether there are entries to append.
func (m *Machine) Buffered() bool { return len(m.entries) > 0 }

// Take hands out the entries to append, and the position up to which they are durable when that append is stored.
func (m *Machine) Take() ([]protocol.Entry, uint64) {
	e := m.entries
	m.entries = nil
	m.taken += uint64(len(e))
	return e, m.taken
}

// WouldTake reports whether one of the inputs is older than the park and would end one of its waits. It must be told
// all inputs that were not delivered, in order: those that were have been offered to every wait.
func (m *Machine) WouldTake(park uint64, waits []protocol.Wait, inputs []Input) bool {
	ids := map[string]bool{} // beside those that are known
	takes := func(in Input) bool {
		if m.known[in.ID] || m.void(in, ids) {
			return false
		}
		ids[in.ID] = true
		return in.Sequence < park && Matches(waits, in.Type)
	}
	return slices.ContainsFunc(m.h.Carried, takes) || slices.ContainsFunc(inputs, takes)
}

// EventDue reports whether a wait for an event would time out now.
func (m *Machine) EventDue(now time.Time) bool {
	return slices.ContainsFunc(m.pending, func(s *Step) bool {
		return takesEvents(s.Op) && s.Until != nil && !now.Before(*s.Until) && !m.withheld(s)
	})
}

// Replaying reports whether another run has made all calls so far, and more of its calls are to come. That a call has
// no outcome yet does not matter: what comes before it was said when it was recorded.
func (m *Machine) Replaying() bool { return !m.live && m.called < m.recorded }
