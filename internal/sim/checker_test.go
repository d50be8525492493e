package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// checker sees everything that is stored, knows what was ever stored, and says what must not be.
type checker struct {
	w       *world
	lives   map[uint64]*life // by incarnation
	newest  map[protocol.Instance]*life
	gone    []held // wakes that somebody let go
	results int
	failure string
}

// life is all that was ever stored of an incarnation.
type life struct {
	instance   protocol.Instance
	truth      *engine.History
	situations map[uint64]engine.Situation // by the sequences of its log
	outcomes   map[protocol.Key]uint64     // when they were stored
	obeyed     []protocol.Entry
	controls   []engine.Control
	events     []engine.Input
	endAt      uint64
	announced  uint64
	bodies     map[string]int
}

func newChecker(w *world) *checker {
	return &checker{w: w, lives: map[uint64]*life{}, newest: map[protocol.Instance]*life{}}
}

// fail notes the first thing that is wrong.
func (c *checker) fail(format string, args ...any) {
	if c.failure == "" {
		c.failure = fmt.Sprintf(format, args...)
		c.w.tell("WRONG: %s", c.failure)
	}
}

// stored looks at a message that was stored.
func (c *checker) stored(i protocol.Instance, class protocol.Class, m *message) {
	l := c.newest[i]
	switch class {
	case protocol.ClassCreate:
		c.created(i, m)
	case protocol.ClassLog:
		var a protocol.Append
		decode(m.data, &a)
		c.appended(i, m.sequence, &a)
	case protocol.ClassDone:
		var d protocol.Done
		if decode(m.data, &d); c.lives[d.Incarnation] != nil {
			c.lives[d.Incarnation].announced = max(c.lives[d.Incarnation].announced, d.Log)
		}
	case protocol.ClassEvent:
		if l != nil {
			l.events = append(l.events, readEvent(m.sequence, m.data))
		}
	case protocol.ClassControl:
		if l != nil {
			control := engine.Control{Sequence: m.sequence, Stored: m.time}
			decode(m.data, &control.Control)
			l.controls = append(l.controls, control)
		}
	}
}

func (c *checker) created(i protocol.Instance, m *message) {
	var create protocol.Create
	decode(m.data, &create)
	l := c.newest[i]
	switch {
	case create.Carried != 0:
		if l == nil || l.truth.Incarnation != create.Carried {
			c.fail("a create of another incarnation is carried: %d", create.Carried)
		}
		c.w.crew.saw["create carried"]++
		return
	case l != nil && l.truth.Phase != engine.Finished:
		c.fail("create %d is accepted over a living instance", m.sequence)
	}
	if l != nil {
		c.w.crew.saw["created again"]++
	}
	l = &life{
		instance: i, truth: engine.NewHistory(workflows, m.sequence, create), situations: map[uint64]engine.Situation{},
		outcomes: map[protocol.Key]uint64{}, bodies: map[string]int{},
	}
	c.lives[m.sequence], c.newest[i] = l, l
}

// appended looks at an entry of a log.
func (c *checker) appended(i protocol.Instance, sequence uint64, a *protocol.Append) {
	l := c.newest[i]
	switch {
	case l == nil || c.w.stream().newest(i.CreateSubject()) == nil:
		c.fail("entry %d is of an instance that is gone", sequence)
		return
	case a.Incarnation != l.truth.Incarnation:
		c.fail("entry %d is of another incarnation", sequence)
		return
	}
	latest := a.Time
	for _, r := range c.w.runners {
		if r.id == a.Runner {
			latest = r.latest
		}
	}
	if wrong := l.contradicts(a, latest); wrong != "" {
		c.fail("entry %d: %s", sequence, wrong)
	}
	if e := a.Entries[0]; e.Kind == protocol.EntryClaimed && e.Lost != l.truth.ClaimEntry(a.Holder).Lost {
		c.fail("claim %d says that a run was lost: %v", sequence, e.Lost)
	}
	c.see(l, a)
	if a.Entries[0].Kind == protocol.EntrySnapshot {
		l.truth.Tail = sequence
	} else if err := l.truth.Apply(sequence, a); err != nil {
		c.fail("entry %d: %v", sequence, err)
	}
	c.raced(l, sequence, a)
	l.situations[sequence] = l.truth.Situation
	for _, e := range a.Entries {
		switch e.Kind {
		case protocol.EntryRestarted:
			for k := range l.outcomes {
				if l.truth.Steps[k] == nil {
					delete(l.outcomes, k)
				}
			}
		case protocol.EntryCompleted:
			c.ended(l, sequence, &e)
		}
		if isEnd(e.Kind) {
			l.endAt = sequence
		}
		if e.Step != nil && l.truth.Steps[*e.Step].Done && l.outcomes[*e.Step] == 0 {
			l.outcomes[*e.Step] = sequence
		}
	}
	if l.truth.Phase != engine.Finished {
		l.endAt = 0
	}
	c.stable(l)
}

// raced looks at the races that an append decides: no event or time that comes later than what made a branch the first is given
// to another.
func (c *checker) raced(l *life, sequence uint64, a *protocol.Append) {
	for _, e := range a.Entries {
		if e.Winner == nil || e.Step.Op != protocol.OpRace {
			continue
		}
		within := l.truth.Steps[*e.Step].Within
		won, last := fmt.Sprint(within, *e.Winner+1, "/"), 0
		for k, s := range l.truth.Steps {
			if strings.HasPrefix(s.Branch, won) || k.Op == protocol.OpValue && strings.HasPrefix(k.Name, won) {
				last = max(last, s.Nth)
			}
		}
		for k, s := range l.truth.Steps {
			waits := k.Op == protocol.OpEvent || k.Op == protocol.OpSleep
			if waits && strings.HasPrefix(s.Branch, within) && !strings.HasPrefix(s.Branch, won) && s.Nth > last {
				c.fail("entry %d: %v of a branch that has lost ended after %v was won", sequence, k, *e.Step)
			}
		}
	}
}

// see notes what an append is an example of.
func (c *checker) see(l *life, a *protocol.Append) {
	saw := c.w.crew.saw
	if a.Entries[0].Lost && !c.w.faulty {
		c.fail("a run of %v is counted as lost, but nothing went wrong", l.instance)
	}
	for _, e := range a.Entries {
		saw[string(e.Kind)]++
		switch {
		case e.Kind == protocol.EntryClaimed && e.Lost:
			saw["lost run"]++
		case e.Kind == protocol.EntryClaimed && a.Holder.Stream == timers:
			saw["claimed by a timer"]++
		case e.Kind == protocol.EntryRestarted && e.From != nil:
			saw["restarted from a step"]++
		case e.Kind == protocol.EntryRestarted && l.truth.Phase == engine.Finished:
			saw["restarted after the end"]++
		case e.Kind == protocol.EntrySnapshot:
			saw["snapshot of what is "+l.truth.Phase.String()]++
		case e.Kind == protocol.EntryParked && len(e.Waits) > 1:
			saw["parked with several waits"]++
		}
	}
	if len(a.Entries) > 1 && a.Entries[0].Input != 0 && a.Entries[1].Input != 0 && a.Entries[1].Step == nil {
		saw["several controls at once"]++
	}
}

func isEnd(kind protocol.EntryKind) bool {
	switch kind {
	case protocol.EntryCompleted, protocol.EntryFailed, protocol.EntryTerminated, protocol.EntryDeleted:
		return true
	}
	return false
}

// contradicts tells what an append says that its log forbids. The clock of its runner has never shown more than latest.
func (l *life) contradicts(a *protocol.Append, latest time.Time) string {
	if e := a.Entries[0]; l.truth.Phase == engine.Paused && e.Input == 0 {
		return "goes on although it is paused"
	}
	finished := l.truth.Phase == engine.Finished
	for _, e := range a.Entries {
		switch e.Kind {
		case protocol.EntryRestarted, protocol.EntryDeleted, protocol.EntrySnapshot:
			finished = finished && l.truth.End == protocol.EntryDeleted
		}
		switch {
		case finished:
			return fmt.Sprintf("%s after the end", e.Kind)
		case e.Step != nil:
			if wrong := l.contradictsStep(&e, latest); wrong != "" {
				return wrong
			}
		case e.Input != 0 && e.Kind != protocol.EntrySnapshot:
			if wrong := l.obeys(&e); wrong != "" {
				return wrong
			}
		}
		finished = isEnd(e.Kind)
	}
	return ""
}

func (l *life) contradictsStep(e *protocol.Entry, latest time.Time) string {
	s := l.truth.Steps[*e.Step]
	switch e.Kind {
	case protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntrySlept, protocol.EntryTimedOut,
		protocol.EntryReceived, protocol.EntryRecorded:
		if s != nil && s.Done {
			return fmt.Sprintf("%v has two outcomes", *e.Step)
		}
	}
	switch e.Kind {
	case protocol.EntryReceived:
		switch {
		case l.truth.Consumed[e.Input] || l.truth.ConsumedIDs[e.InputID]:
			return fmt.Sprintf("event %d is consumed twice", e.Input)
		case e.Input < max(l.truth.Incarnation, l.truth.EventsFrom):
			return fmt.Sprintf("event %d is void, but consumed", e.Input)
		}
		i := slices.IndexFunc(l.events, func(in engine.Input) bool { return in.Sequence == e.Input })
		if i < 0 || l.events[i].ID != e.InputID || string(l.events[i].Payload) != string(e.Result) {
			return fmt.Sprintf("event %d was never sent like this", e.Input)
		}
	case protocol.EntrySlept, protocol.EntryTimedOut:
		if s != nil && s.Until != nil && latest.Before(*s.Until) {
			return fmt.Sprintf("%v ends %v too early", *e.Step, s.Until.Sub(latest))
		}
	}
	return ""
}

// obeys checks that controls are obeyed once, in order, and each id once.
func (l *life) obeys(e *protocol.Entry) string {
	i := slices.IndexFunc(l.controls, func(c engine.Control) bool { return c.Sequence == e.Input })
	if i < 0 || l.controls[i].Input != e.InputID {
		return fmt.Sprintf("control %d was never sent", e.Input)
	}
	for _, older := range l.obeyed {
		if older.Input >= e.Input || older.InputID == e.InputID {
			return fmt.Sprintf("control %d is obeyed twice, or out of order", e.Input)
		}
	}
	l.obeyed = append(l.obeyed, *e)
	return ""
}

// ended compares what the code returned with what the log holds.
func (c *checker) ended(l *life, sequence uint64, e *protocol.Entry) {
	var got, want []string
	if err := json.Unmarshal(e.Result, &got); err != nil {
		c.fail("entry %d: %v", sequence, err)
	}
	for k, s := range l.truth.Steps {
		if k.Op != protocol.OpValue && (s.Done || !s.Lost) {
			want = append(want, fmt.Sprintf("%v: %s", k, answer(s)))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.fail("entry %d: the code got %q, the log holds %q", sequence, got, want)
	}
}

// result is what a body returns: something new each time.
func (c *checker) result() json.RawMessage {
	c.results++
	return encode(c.results)
}

// body looks at a body that begins.
func (c *checker) body(x *execution, s *engine.Step, number int) {
	l := c.lives[x.history.Incarnation]
	c.w.tell("body of %v begins, attempt %d", s.Key, number)
	known, begun := l.situations[x.expected]
	switch {
	case begun && (known.Phase != engine.Running || known.Holder != x.wake):
		c.fail("a body begins after %d, which says %v, holder %v", x.expected, known.Phase, known.Holder)
	case !begun && x.wake.Sequence != x.history.Incarnation:
		c.fail("a body begins without a claim")
	}
	if l.truth.Epoch == x.history.Epoch {
		for _, before := range x.answered {
			if at := l.outcomes[before.Key]; at == 0 || at > x.expected {
				c.fail("the body of %v begins, but the outcome of %v before it is not stored", s.Key, before.Key)
			}
		}
		if at := l.outcomes[s.Key]; at != 0 && at <= x.expected {
			c.fail("the body of %v begins, but its outcome is stored", s.Key)
		}
	}
	if now := l.truth.Steps[s.Key]; l.truth.Tail == x.expected && engine.NewMachine(l.truth).StartIsHard() {
		if now == nil || len(now.Attempts) == 0 || !now.Attempts[len(now.Attempts)-1].Open {
			c.fail("the body of %v begins after a lost run, but its start is not stored", s.Key)
		}
	}
	id := fmt.Sprint(x.history.Epoch, s.Key, number)
	if l.bodies[id]++; l.bodies[id] > 1 && !c.w.faulty && len(l.controls) == 0 {
		c.fail("the body of %v begins twice, but nothing went wrong", s.Key)
	}
}

// timesOut looks at an execution in which waits for events time out. What a wait has taken need not be read again.
func (c *checker) timesOut(x *execution) {
	for _, m := range c.w.stream().messages[max(x.m.Seen(), x.history.Incarnation):] {
		if m.went == 0 && matches(x.h.instance.EventSubject(), m.subject) && !x.history.Consumed[m.sequence] {
			c.fail("a wait of %v times out, but event %d was not read", x.h.instance, m.sequence)
		}
	}
}

// letGo notes that a runner is done with a wake.
func (c *checker) letGo(h *held) {
	c.gone = append(c.gone, *h)
}

// stable checks that no wake that was let go makes anybody execute the instance.
func (c *checker) stable(l *life) {
	for _, h := range c.gone {
		if h.instance != l.instance {
			continue
		}
		situation := l.truth.Situation
		action := c.w.rules.decide(situation, h.Wake, engine.OlderUnknown, c.w.now.Add(1000*time.Hour))
		if action == engine.LookOlder && engine.NewMachine(l.truth).WouldTake(situation.Park, situation.Waits, l.events) {
			action = engine.Claim
		}
		if action == engine.Claim || action == engine.Start {
			c.fail("%v was let go, and now it says %v", h.Wake.Wake, action)
		}
	}
}
