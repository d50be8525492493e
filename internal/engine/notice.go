package engine

import (
	"encoding/json"
	"fmt"

	"github.com/skein-run/skein/pkg/protocol"
)

// Teller tells what happened to an instance, message by message, in the order of the stream. What it tells of a message,
// and under which cursor, depends on nothing but what the stream holds up to there: whoever tells it again, or goes on
// after a snapshot, tells the same.
//
// It folds the log, but keeps no results: those of a long log would fill the memory of whoever follows it.
type Teller struct {
	h *History
	// begun is set once something of the log was told.
	begun bool
	// pause is the sequence of a pause that was asked for and not obeyed, pausing is set once that was told. Asked are the ids
	// of the controls seen.
	pause   uint64
	pausing bool
	asked   map[string]bool
}

// NewTeller begins with the create of an instance, as NewHistory does.
func NewTeller(stream string, incarnation uint64, create protocol.Create) *Teller {
	return &Teller{h: NewHistory(stream, incarnation, create), asked: map[string]bool{}}
}

// History is the log as far as it was told, without results.
func (t *Teller) History() *History { return t.h }

// Begun reports whether something of the log was told.
func (t *Teller) Begun() bool { return t.begun }

// Created tells of the create.
func (t *Teller) Created() protocol.Notice {
	c := t.h.Create
	return protocol.Notice{
		Cursor: protocol.Cursor{Sequence: t.h.Incarnation}, Kind: protocol.NoticeQueued, Time: c.Created,
		Value: c.Params, Object: c.ParamsObject,
	}
}

// Asked tells what a control makes of the instance before somebody obeys it. Of what it makes of it then, the log tells.
func (t *Teller) Asked(c Control) []protocol.Notice {
	meant := c.Incarnation == 0 || c.Incarnation == t.h.Incarnation
	if !meant || t.asked[c.Input] || c.Sequence <= max(t.h.Mark, t.h.Incarnation) {
		return nil
	}
	t.asked[c.Input] = true
	switch c.Action {
	case protocol.ActionPause:
		t.pause = c.Sequence
	case protocol.ActionResume:
		t.pause = 0
	}
	if !t.pauses() {
		return nil
	}
	return []protocol.Notice{{
		Cursor: protocol.Cursor{Sequence: c.Sequence}, Kind: protocol.NoticeWaitingForPause, Time: c.Stored,
	}}
}

// pauses reports whether an instance that executes is to pause, which was not told.
func (t *Teller) pauses() bool {
	if t.pause <= t.h.Mark {
		t.pause, t.pausing = 0, false
	}
	state := t.h.State()
	executes := state == protocol.StateRunning || state == protocol.StateRollingBack
	if t.pause == 0 || t.pausing || !executes {
		return false
	}
	t.pausing = true
	return true
}

// Logged folds the next message of the log and tells what it makes known. If the first one is a snapshot, its history must
// be in its place.
func (t *Teller) Logged(sequence uint64, a *protocol.Append) ([]protocol.Notice, error) {
	if t.begun && SnapshotOf(a) != nil {
		return nil, t.h.passOver(sequence, a)
	}
	g := &telling{h: t.h, a: a, sequence: sequence}
	if err := t.h.fold(sequence, a, g); err != nil {
		return nil, err
	}
	t.begun = t.begun || a.Incarnation == t.h.Incarnation
	t.h.forgetResults(a)
	if t.pauses() { // it was asked to before anybody knew that it executes
		g.at = perEntry * (len(a.Entries) + 1)
		g.tell(protocol.Notice{Kind: protocol.NoticeWaitingForPause})
	}
	for i := range g.notices {
		if g.notices[i].Kind == protocol.NoticeCleaned {
			g.notices[i].State = t.h.State()
		}
	}
	if n := len(g.notices); n > 0 {
		g.notices[n-1].Cursor.Index = 0
	}
	return g.notices, nil
}

// passOver folds a snapshot of what is known: it changes nothing.
func (h *History) passOver(sequence uint64, a *protocol.Append) error {
	if err := Readable(a); err != nil {
		return fmt.Errorf("log entry %d: %w", sequence, err)
	}
	h.Tail = sequence
	if a.Incarnation == h.Incarnation {
		h.Situation = Situate(h.Stream, h.Incarnation, sequence, a)
	}
	return nil
}

// forgetResults drops what a message brought that only code needs.
func (h *History) forgetResults(a *protocol.Append) {
	for _, e := range a.Entries {
		if e.Step != nil {
			h.Steps[*e.Step].forgetResult()
			continue
		}
		if e.Kind == protocol.EntrySnapshot {
			for _, s := range h.Steps {
				s.forgetResult()
			}
			h.Carried = nil
		}
	}
}

func (s *Step) forgetResult() {
	if s == nil { // a restart in the same message
		return
	}
	s.Result, s.Heartbeat = nil, nil
	if s.Received != nil {
		s.Received.Payload = nil
	}
}

// telling collects what one message tells. A nil telling sees nothing.
type telling struct {
	h        *History
	a        *protocol.Append
	sequence uint64

	notices []protocol.Notice
	// at is the place in the message of what comes next: entries have room for perEntry notices each.
	at int
	// runs, known and attempt are what was known before an entry: how many runs, whether its step was told of, and its newest
	// attempt.
	runs    int
	known   bool
	attempt int
}

// perEntry is how many notices one entry tells at most. It is part of the cursors: it never changes.
const perEntry = 8

// tell adds a notice.
func (t *telling) tell(n protocol.Notice) {
	t.at++
	n.Cursor, n.Runner = protocol.Cursor{Sequence: t.sequence, Index: t.at}, t.a.Runner
	if n.Time.IsZero() {
		n.Time = t.a.Time
	}
	t.notices = append(t.notices, n)
}

// begun tells of the run that began without a claim, if the message shows that there was one.
func (t *telling) begun(runs int) {
	if t == nil || len(t.h.Runs) == runs {
		return
	}
	t.tell(protocol.Notice{Kind: protocol.NoticeStarted, Version: t.a.Version})
	if t.a.Entries[0].Kind != protocol.EntryClaimed { // else nobody knows whose it was
		t.tell(protocol.Notice{Kind: protocol.NoticeRunning, Version: t.a.Version})
	}
}

func (t *telling) before(i int) {
	if t == nil {
		return
	}
	t.at, t.runs, t.known, t.attempt = perEntry*(i+1), len(t.h.Runs), false, 0
	key := t.a.Entries[i].Step
	if key == nil {
		return
	}
	if s := t.h.Steps[*key]; s != nil {
		t.known = s.First != 0
		if n := len(s.Attempts); n > 0 {
			t.attempt = s.Attempts[n-1].Number
		}
	}
}

// after tells what an entry has changed.
func (t *telling) after(i int) {
	if t == nil {
		return
	}
	e := &t.a.Entries[i]
	if e.Step != nil {
		t.step(e, t.h.Steps[*e.Step])
		return
	}
	t.instance(e)
}

// instance tells of an entry about the instance as a whole.
func (t *telling) instance(e *protocol.Entry) {
	n := protocol.Notice{Error: e.Error}
	switch e.Kind {
	case protocol.EntryClaimed:
		if t.runs == 0 {
			t.tell(protocol.Notice{Kind: protocol.NoticeStarted, Version: t.a.Version})
		}
		n.Kind, n.Version, n.Lost = protocol.NoticeRunning, t.a.Version, e.Lost
	case protocol.EntryReleased: // another runner takes it at once
		return
	case protocol.EntryParked:
		n.Kind, n.Until = protocol.NoticeWaiting, e.Until
		if len(e.Waits) == 1 && e.Waits[0].Op == protocol.OpSlot {
			n.Kind = protocol.NoticeQueued
		}
	case protocol.EntryCompleted:
		n.Kind, n.Value, n.Object = protocol.NoticeCompleted, e.Result, e.Object
	case protocol.EntryFailed:
		n.Kind = protocol.NoticeErrored
	case protocol.EntryTerminated:
		n.Kind = protocol.NoticeTerminated
	case protocol.EntryDeleted:
		n.Kind = protocol.NoticeDeleted
	case protocol.EntryPaused:
		n.Kind = protocol.NoticePaused
	case protocol.EntryHeld:
		n.Kind, n.Divergence = protocol.NoticeHeld, e.Divergence
	case protocol.EntryResumed:
		n.Kind = protocol.NoticeResumed
	case protocol.EntryRestarted:
		n.Kind, n.Step = protocol.NoticeRestarted, e.From
	case protocol.EntryRollingBack:
		n.Kind = protocol.NoticeRollbackStarted
	case protocol.EntryRolledBack:
		n.Kind = protocol.NoticeRollbackCompleted
		if e.Error != nil {
			n.Kind = protocol.NoticeRollbackFailed
		}
	case protocol.EntrySnapshot:
		n.Kind = protocol.NoticeCleaned
	}
	t.tell(n)
}

// step tells of an entry about a step.
func (t *telling) step(e *protocol.Entry, s *Step) {
	n := protocol.Notice{Step: e.Step, Branch: s.Branch, Error: e.Error}
	switch s.Op {
	case protocol.OpDo, protocol.OpRollback:
		t.body(e, s, n)
	case protocol.OpSleep:
		t.sleep(e, n)
	case protocol.OpEvent:
		t.wait(e, n)
	case protocol.OpCall:
		t.call(e, s, n)
	case protocol.OpRace:
		if e.Kind != protocol.EntryStarted {
			n.Kind, n.Winner, n.GivenUp = protocol.NoticeRaceDecided, e.Winner, e.GivenUp
			n.Value, n.Object = shown(s, e.Result, e.Object)
			t.tell(n)
		}
	case protocol.OpReport:
		n.Kind, n.Type, n.Value = protocol.NoticeProgress, e.Type, e.Result
		if e.Type != "" {
			n.Kind = protocol.NoticeEventReported
		}
		t.tell(n)
	case protocol.OpValue, protocol.OpSlot, protocol.OpGroup: // no names that code gives them: a status leaves them out, too
	}
}

// ofStep are the kinds that tell of a step, or of how one is undone.
type ofStep struct {
	started, completed, failed                      protocol.NoticeKind
	attemptStarted, attemptCompleted, attemptFailed protocol.NoticeKind
}

func kindsOf(op protocol.Op) ofStep {
	if op == protocol.OpRollback {
		return ofStep{
			protocol.NoticeRollbackStepStarted, protocol.NoticeRollbackStepCompleted, protocol.NoticeRollbackStepFailed,
			protocol.NoticeRollbackAttemptStarted, protocol.NoticeRollbackAttemptCompleted, protocol.NoticeRollbackAttemptFailed,
		}
	}
	return ofStep{
		protocol.NoticeStepStarted, protocol.NoticeStepCompleted, protocol.NoticeStepFailed,
		protocol.NoticeAttemptStarted, protocol.NoticeAttemptCompleted, protocol.NoticeAttemptFailed,
	}
}

// body tells of a step that has a body. The start of one that ended within the message has no entry of its own.
func (t *telling) body(e *protocol.Entry, s *Step, n protocol.Notice) {
	kinds := kindsOf(s.Op)
	if e.Kind == protocol.EntryHeartbeat {
		n.Kind, n.Attempt = protocol.NoticeHeartbeat, e.Attempt
		n.Value, _ = shown(s, e.Result, nil)
		t.tell(n)
		return
	}
	begin := protocol.Notice{Step: n.Step, Branch: n.Branch, Attempt: e.Attempt}
	if e.Started != nil {
		begin.Time = *e.Started
	}
	if !t.known {
		first := begin
		first.Kind, first.Attempt, first.Config = kinds.started, 0, e.Config
		t.tell(first)
	}
	if e.Attempt > t.attempt {
		begin.Kind = kinds.attemptStarted
		t.tell(begin)
	}
	ended := n
	ended.Attempt = e.Attempt
	switch e.Kind {
	case protocol.EntryAttemptFailed:
		ended.Kind, ended.Until = kinds.attemptFailed, e.Until
		t.tell(ended)
	case protocol.EntryStepCompleted:
		if e.Attempt > 0 {
			ended.Kind = kinds.attemptCompleted
			t.tell(ended)
		}
		n.Kind = kinds.completed
		n.Value, n.Object = shown(s, e.Result, e.Object)
		t.tell(n)
	case protocol.EntryStepFailed:
		if e.Attempt > 0 {
			ended.Kind = kinds.attemptFailed
			t.tell(ended)
		}
		n.Kind = kinds.failed
		t.tell(n)
	}
}

// shown is a value of a step as people may see it.
func shown(s *Step, value json.RawMessage, object *protocol.Object) (json.RawMessage, *protocol.Object) {
	if s.Config != nil && s.Config.Sensitive && (value != nil || object != nil) {
		return json.RawMessage(protocol.Redacted), nil
	}
	return value, object
}

func (t *telling) sleep(e *protocol.Entry, n protocol.Notice) {
	begin := n
	begin.Kind, begin.Until = protocol.NoticeSleepStarted, e.Until
	if !t.known {
		t.tell(begin)
	}
	if e.Kind == protocol.EntrySlept {
		n.Kind = protocol.NoticeSleepEnded
		t.tell(n)
	}
}

func (t *telling) wait(e *protocol.Entry, n protocol.Notice) {
	n.Type = e.Type
	if !t.known {
		begin := n
		begin.Kind, begin.Until, begin.Error = protocol.NoticeWaitStarted, e.Until, nil
		t.tell(begin)
	}
	switch e.Kind {
	case protocol.EntryReceived:
		n.Kind, n.Value, n.Object = protocol.NoticeWaitEnded, e.Result, e.Object
		t.tell(n)
	case protocol.EntryTimedOut:
		n.Kind = protocol.NoticeWaitTimedOut
		t.tell(n)
	}
}

// call tells of a call of another workflow. That its child is there is no news: it is told of with the intent.
func (t *telling) call(e *protocol.Entry, s *Step, n protocol.Notice) {
	n.Callee = s.Callee
	if !t.known {
		begin := n
		begin.Kind, begin.Until, begin.Error = protocol.NoticeCallStarted, e.Until, nil
		t.tell(begin)
	}
	switch e.Kind {
	case protocol.EntryReceived:
		done := s.Answer()
		n.Kind, n.Value, n.Object, n.Error = protocol.NoticeCallCompleted, done.Output, done.OutputObject, done.Error
		if done.Error != nil {
			n.Kind = protocol.NoticeCallFailed
		}
		t.tell(n)
	case protocol.EntryStepFailed:
		n.Kind = protocol.NoticeCallFailed
		t.tell(n)
	case protocol.EntryTimedOut:
		n.Kind = protocol.NoticeCallTimedOut
		t.tell(n)
	}
}
