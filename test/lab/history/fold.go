package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// trial goes through one log, entry by entry.
type trial struct {
	*court
	*story
	truth *engine.History
	ids   map[string]bool
	// owner is the runner that executes; rests is set if none does until somebody claims.
	owner string
	rests bool
	// fired has, of timers by their sequence, the park that they fired for.
	fired  map[uint64]engine.Wake
	obeyed []protocol.Entry
	// results are those of steps, as texts.
	results map[protocol.Key]string
	// since is when a step was last given a moment, parked when the instance was.
	since  map[protocol.Key]time.Time
	parked time.Time
	at     logged
}

// fold holds a log against what it may say, each message against those before it.
func (c *court) fold(s *story) {
	stream := s.at.Stream()
	if s.creates > 1 {
		c.accuse(CreateKept, s, 0, "%d creates are stored", s.creates)
	}
	t := &trial{court: c, story: s, ids: map[string]bool{}, results: map[protocol.Key]string{}, since: map[protocol.Key]time.Time{}, fired: map[uint64]engine.Wake{}, truth: engine.NewHistory(stream, s.created, s.create)}
	s.truth = t.truth
	if n := len(s.log); s.created == 0 && n > 0 && last(s.log[n-1].Entries).Kind == protocol.EntryDeleted {
		s.gone = true
		return
	}
	for _, l := range s.log {
		t.at = l
		if len(l.Entries) == 0 {
			t.wrong(Legal, "says nothing")
			continue
		}
		if l.Incarnation != s.created {
			if l.Incarnation > s.created || last(l.Entries).Kind != protocol.EntryDeleted {
				t.wrong(Legal, "is of incarnation %d", l.Incarnation)
			}
			t.truth.Tail = l.sequence
			continue
		}
		t.hold()
		t.follow()
		if k := last(l.Entries).Kind; k == protocol.EntryParked {
			t.parked = l.stored
		}
		if l.Entries[0].Kind == protocol.EntrySnapshot {
			t.truth.Tail = l.sequence
		} else if err := t.truth.Apply(l.sequence, &l.Append); err != nil {
			t.wrong(Readable, "%v", err)
		}
	}
}

func last(all []protocol.Entry) protocol.Entry { return all[len(all)-1] }

func (t *trial) wrong(r Rule, format string, args ...any) {
	t.accuse(r, t.story, t.at.sequence, "entry %d: %s", t.at.sequence, fmt.Sprintf(format, args...))
}

// steers reports whether a message obeys controls: whoever gets one may do that.
func (l logged) steers() bool { return l.Entries[0].Input != 0 && l.Entries[0].Step == nil }

// queues reports whether a message parks an instance that got no slot: whoever gets its wake does that.
func (l logged) queues() bool {
	e := l.Entries[0]
	return e.Kind == protocol.EntryParked && len(e.Waits) == 1 && e.Waits[0].Op == protocol.OpSlot
}

// hold checks who writes, and under which wake.
func (t *trial) hold() {
	l := t.at
	first := l.Entries[0]
	if t.ids[l.ID] {
		t.wrong(Owned, "has the id %s, as one before it", l.ID)
	}
	t.ids[l.ID] = true
	switch {
	case first.Kind == protocol.EntrySnapshot:
		return
	case l.steers():
		if l.Mark < l.Holder.Sequence || l.Holder.Sequence < first.Input {
			t.wrong(Owned, "obeys control %d under %v with mark %d", first.Input, l.Holder, l.Mark)
		}
		t.rests = true
		return
	case first.Kind == protocol.EntryClaimed:
		t.claim(first)
	case l.queues():
		t.rests = true
		return
	case t.truth.Begun && t.rests:
		t.wrong(Owned, "goes on without a claim")
	case t.truth.Begun && (l.Runner != t.owner || l.Holder != t.truth.Holder):
		t.wrong(Owned, "is by %s under %v without a claim, the instance is with %s under %v", l.Runner, l.Holder, t.owner, t.truth.Holder)
	case !t.truth.Begun && l.Holder != t.truth.Holder:
		t.wrong(Owned, "begins under %v", l.Holder)
	}
	t.owner, t.rests = l.Runner, engine.Rests(last(l.Entries).Kind)
}

// claim checks that the wake of a claim is one that may execute the instance as it stands.
func (t *trial) claim(first protocol.Entry) {
	l := t.at
	if first.Wake == nil || *first.Wake != l.Holder {
		t.wrong(Owned, "claims under %v, its holder is %v", first.Wake, l.Holder)
		return
	}
	if first.Lost != t.truth.ClaimEntry(l.Holder).Lost {
		t.wrong(Owned, "says that a run was lost: %v", first.Lost)
	}
	wake, ok := t.wake(l.Holder)
	if !ok {
		t.wrong(Owned, "claims under %v, which is no wake of this instance", l.Holder)
		return
	}
	older := engine.OlderNone
	if engine.NewMachine(t.truth).WouldTake(t.truth.Park, t.truth.Waits, t.inputs()) {
		older = engine.OlderSome
	}
	// A wake that was obeyed before makes the control that it is one in vain.
	if action := engine.Decide(t.truth.Situation, wake, older, l.stored.Add(t.rec.skew(t.parked, l.stored))); action != engine.Claim && action != engine.Start {
		t.wrong(Owned, "claims under %v (%v) what is %v under %v since %d: the table says %v",
			l.Holder, t.kinds[l.Holder.Sequence], t.truth.Phase, t.truth.Holder, t.truth.Park, action)
	}
}

// wake is the message that a claim names.
func (t *trial) wake(name protocol.Wake) (engine.Wake, bool) {
	w := engine.Wake{Wake: name}
	if name.Stream == protocol.TimersStream(t.story.at.Project) {
		return t.timer(w)
	}
	class, ok := t.kinds[name.Sequence]
	if !ok || name.Stream != t.truth.Stream || name.Sequence >= t.at.sequence {
		return w, false
	}
	switch class {
	case protocol.ClassCreate:
		w.Kind = engine.WakeCreate
	case protocol.ClassNudge:
		w.Kind = engine.WakeNudge
	case protocol.ClassControl:
		w.Kind = engine.WakeControl
		w.Vain = name.Sequence <= t.truth.Mark
	case protocol.ClassEvent:
		w.Kind = engine.WakeEvent
		for _, e := range t.events {
			if e.Sequence == name.Sequence {
				w.EventType = e.Type
			}
		}
	default:
		return w, false
	}
	return w, true
}

// timer is the firing that a claim names. Which park it fired for is not stored: the one at which it is first named.
func (t *trial) timer(w engine.Wake) (engine.Wake, bool) {
	if known, ok := t.fired[w.Sequence]; ok {
		return known, true
	}
	if t.truth.Phase != engine.Parked || t.truth.Until == nil {
		return w, false
	}
	w.Kind, w.Park, w.Incarnation, w.Due = engine.WakeDue, t.truth.Park, t.truth.Incarnation, *t.truth.Until
	t.fired[w.Sequence] = w
	return w, true
}

// follow checks that each entry may follow what the log says.
func (t *trial) follow() {
	if e := t.at.Entries[0]; t.truth.Phase == engine.Paused && !t.at.steers() && e.Kind != protocol.EntrySnapshot {
		t.wrong(Legal, "goes on although the instance is paused")
	}
	finished := t.truth.Phase == engine.Finished
	done := map[protocol.Key]bool{} // in this message
	for _, e := range t.at.Entries {
		switch e.Kind {
		case protocol.EntryRestarted, protocol.EntryDeleted, protocol.EntrySnapshot:
			finished = finished && t.truth.End == protocol.EntryDeleted
		}
		if finished {
			t.wrong(Legal, "%s after the end", e.Kind)
		}
		switch {
		case e.Step != nil:
			t.step(&e, done)
		case e.Input != 0 && e.Kind != protocol.EntrySnapshot:
			t.obey(&e)
		}
		finished = terminal(e.Kind)
	}
}

func terminal(k protocol.EntryKind) bool {
	switch k {
	case protocol.EntryCompleted, protocol.EntryFailed, protocol.EntryTerminated, protocol.EntryDeleted:
		return true
	}
	return false
}

// outcome reports whether an entry ends a step or wait for good.
func outcome(k protocol.EntryKind) bool {
	switch k {
	case protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntrySlept, protocol.EntryTimedOut, protocol.EntryReceived, protocol.EntryRecorded:
		return true
	}
	return false
}

func (t *trial) step(e *protocol.Entry, done map[protocol.Key]bool) {
	s := t.truth.Steps[*e.Step]
	ended := done[*e.Step] || s != nil && s.Done
	wait := e.Step.Op == protocol.OpSleep || e.Step.Op == protocol.OpEvent || e.Step.Op == protocol.OpCall
	switch {
	case outcome(e.Kind) && ended && wait:
		t.wrong(OneEnd, "%s: %v has ended before", e.Kind, *e.Step)
	case outcome(e.Kind) && ended:
		t.wrong(OneResult, "%s: %v has an outcome", e.Kind, *e.Step)
	case ended && e.Kind != protocol.EntryHeartbeat:
		t.wrong(Legal, "%s of %v, whose outcome is recorded", e.Kind, *e.Step)
	}
	done[*e.Step] = done[*e.Step] || outcome(e.Kind)
	if e.Kind == protocol.EntryStepCompleted {
		t.results[*e.Step] = t.text(e.Result, e.Object)
	}
	if e.Until != nil {
		t.since[*e.Step] = t.at.stored
	}
	switch e.Kind {
	case protocol.EntryReceived:
		t.received(e)
	case protocol.EntrySlept, protocol.EntryTimedOut:
		t.short(e)
		if s == nil || s.Until == nil { // it was over before anything of it had to be stored
			return
		}
		t.early(e, *s.Until)
		if e.Kind == protocol.EntryTimedOut {
			t.overlooked(e, s)
		}
	case protocol.EntryStarted:
		if s != nil && s.Failed > 0 && s.Until != nil && e.Attempt == s.Failed+1 {
			t.early(e, *s.Until)
		}
	}
}

// early: neither the clock of the runner nor that of the server, which no fault touches, may have shown less. A clock that was set
// back after the runner looked shows less in the log.
func (t *trial) early(e *protocol.Entry, until time.Time) {
	skew := t.rec.skew(t.since[*e.Step], t.at.stored)
	if by := until.Sub(t.at.Time); by > skew {
		t.wrong(NotEarly, "%s of %v comes %v early, says its runner", e.Kind, *e.Step, by)
	}
	if by := until.Sub(t.at.stored); by > skew {
		t.wrong(NotEarly, "%s of %v comes %v early, says the server", e.Kind, *e.Step, by)
	}
}

// short: a sleep takes as long as the code says, counted from when the body before it returned.
func (t *trial) short(e *protocol.Entry) {
	from := t.sleeps()[e.Step.Name]
	if e.Step.Op != protocol.OpSleep || from.after == "" {
		return
	}
	result := t.results[protocol.Key{Op: protocol.OpDo, Name: from.after, Count: 1}]
	if begun, ok := t.returned()[result]; ok {
		if before := begun.Add(from.takes).Sub(t.at.stored); before > t.rec.skew(t.at.stored.Add(-from.takes-time.Minute), t.at.stored) {
			t.wrong(NotEarly, "%v ends %v before its time, counted from the return of %s", *e.Step, before, from.after)
		}
	}
}

func (t *trial) received(e *protocol.Entry) {
	switch {
	case t.truth.Consumed[e.Input] || t.truth.ConsumedIDs[e.InputID]:
		t.wrong(OneEnd, "event %d (%s) is taken twice", e.Input, e.InputID)
	case e.Input < max(t.truth.Incarnation, t.truth.EventsFrom):
		t.wrong(OneEnd, "event %d is void, but taken", e.Input)
	}
	i := slices.IndexFunc(t.events, func(in event) bool { return in.Sequence == e.Input })
	if i < 0 {
		t.wrong(OneEnd, "event %d is not stored", e.Input)
		return
	}
	if in := t.events[i]; in.ID != e.InputID || in.Type != e.Type || string(in.Payload) != string(e.Result) || object(in.Object) != object(e.Object) {
		t.wrong(OneEnd, "event %d was never sent like this", e.Input)
	}
}

func object(o *protocol.Object) string {
	if o == nil {
		return ""
	}
	return o.Name
}

// overlooked: who ends a wait by its time has read every event that was acknowledged by then. One that no wait has taken must not have
// been there at that moment. When an event was stored says less: a leader dates it before the others have it, and it can be read.
func (t *trial) overlooked(e *protocol.Entry, s *engine.Step) {
	until := *s.Until
	machine := engine.NewMachine(t.truth)
	before := until.Add(-t.rec.skew(t.since[*e.Step], t.at.stored))
	known := t.acknowledged()
	var there []engine.Input
	for _, in := range t.events {
		acked, ok := known[in.ID]
		if ok && acked.Before(before) && in.Sequence < t.at.sequence && !t.takenHere(in.Sequence) {
			there = append(there, in.Input)
		}
	}
	if machine.WouldTake(t.at.sequence, []protocol.Wait{{Key: *e.Step, Type: s.Type}}, there) {
		t.wrong(OneEnd, "%v times out at %s, but an event of type %s was there", *e.Step, until.Format(clock), s.Type)
	}
}

// takenHere reports whether the message itself gives the event to a wait.
func (t *trial) takenHere(input uint64) bool {
	return slices.ContainsFunc(t.at.Entries, func(e protocol.Entry) bool { return e.Kind == protocol.EntryReceived && e.Input == input })
}

// obey checks that controls are obeyed once, in order, and each id once.
func (t *trial) obey(e *protocol.Entry) {
	i := slices.IndexFunc(t.controls, func(c engine.Control) bool { return c.Sequence == e.Input })
	if i < 0 || t.controls[i].Input != e.InputID {
		t.wrong(Obeyed, "control %d was never sent", e.Input)
		return
	}
	for _, older := range t.obeyed {
		if older.Input >= e.Input || older.InputID == e.InputID {
			t.wrong(Obeyed, "control %d is obeyed twice, or out of order", e.Input)
		}
	}
	t.obeyed = append(t.obeyed, *e)
}
