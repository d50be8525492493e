package engine_test

import (
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// rules are those of a runner that no function of the engine holds. Each is a switch.
type rules struct {
	ReadReachesInput  bool // a read counts for an input only if it includes it
	ReadReachesPark   bool // a read counts for a firing only if it includes its park
	LookAfterPark     bool // after parking, look whether an older input is there
	OnlyOlderInputs   bool // and leave newer ones to their own wakes
	StoreBeforeBody   bool // results are stored before the next body begins
	StoreBeforeAck    bool
	ArmBeforeAck      bool
	AnnounceBeforeAck bool
	TimerPerPark      bool // each park has a timer of its own
	LookAfterRefusal  bool // a refusal alone decides nothing
	ClaimNamesWake    bool // whoever claims becomes the holder
	AskBeforeClaim    bool // ask whether somebody executes under the wake
	SayNothingBegan   bool // who gives a create back unbegun says so in the log
	NudgeToRevive     bool // who goes on after a park does so under a new wake
	ClaimToGoOn       bool // and so does who goes on because a wake finds it in memory

	MarkControls    bool // what obeys controls names the newest of them
	NameControls    bool // and the id of each
	ObeyAll         bool // and obeys all up to it
	BoundPurge      bool // a deleted instance loses nothing newer than the delete
	Tombstone       bool // and not the delete itself
	PurgeCarried    bool // but its create, although a cleaning has published it again since
	AckFloor        bool // no wake is cleaned away
	AgedHorizon     bool // nothing is cleaned away that somebody who knows nothing yet could have read
	CarryEvents     bool // a snapshot has the events that no wait has taken
	CarryCreate     bool // and the create is published again
	VerifyCarried   bool // both before anything is cleaned away
	CompareSnapshot bool // a snapshot is stored over what it stands for only
	GoOnExactly     bool // who executes goes on over a snapshot of what it knows only
	ExpiredIsFinal  bool // nothing revives what may be cleaned away
	Withhold        bool // who may be beaten in a race is given nothing meanwhile

	// decide is the decision table.
	decide func(v *view, w engine.Wake, older engine.Older, now time.Time) engine.Action
}

// sound are the rules as they are.
func sound() rules {
	return rules{
		ReadReachesInput: true, ReadReachesPark: true, LookAfterPark: true, OnlyOlderInputs: true, StoreBeforeBody: true,
		StoreBeforeAck: true, ArmBeforeAck: true, AnnounceBeforeAck: true, TimerPerPark: true, LookAfterRefusal: true,
		ClaimNamesWake: true, AskBeforeClaim: true, NudgeToRevive: true, ClaimToGoOn: true, SayNothingBegan: true,
		MarkControls: true, NameControls: true, ObeyAll: true, BoundPurge: true, Tombstone: true, PurgeCarried: true,
		AckFloor: true, AgedHorizon: true, CarryEvents: true, CarryCreate: true, VerifyCarried: true,
		CompareSnapshot: true, GoOnExactly: true, ExpiredIsFinal: true, Withhold: true,
		decide: func(v *view, w engine.Wake, older engine.Older, now time.Time) engine.Action {
			return engine.Decide(v.situation, w, older, now)
		},
	}
}

// wake is a wake as the decision table gets it.
func (w *world) wake(s *state, id wakeID) engine.Wake {
	wake := engine.Wake{Wake: id.name()}
	switch {
	case id >= firstFiring:
		park := s.firings[id-firstFiring].park
		wake.Kind, wake.Park, wake.Due = engine.WakeDue, uint64(park), *w.end(s, park)
		wake.Incarnation = w.appends[s.messages[park].what].Incarnation
	case s.messages[id].kind == nudgeMessage:
		wake.Kind = engine.WakeNudge
	case s.messages[id].kind == controlMessage:
		wake.Kind = engine.WakeControl
	case s.messages[id].kind == createMessage && s.messages[id].what != 0:
		wake.Kind = engine.WakeCarried
	case s.messages[id].kind != createMessage:
		wake.Kind, wake.EventType = engine.WakeEvent, eventType(s.messages[id].kind)
	}
	return wake
}

// end is when a park ends, nil if it has no end.
func (w *world) end(s *state, park uint8) *time.Time {
	entries := w.appends[s.messages[park].what].Entries
	return entries[len(entries)-1].Until
}

// step is one thing that happens.
type step struct {
	world *world
	// emit gets the state afterwards and what happened.
	emit func(s *state, what string, numbers ...uint8)
	// broken is set if something happened that must not.
	broken string
	// unheard is set if nobody answers the question who executes.
	unheard bool
}

// act lets runner r do what it does next, in all ways in which that can end.
func (x *step) act(s0 *state, r uint8) {
	a := &s0.runners[r]
	if a.live && a.phase >= checking && s0.left.revivals > 0 {
		x.revive(s0, r)
	}
	if a.phase == looking && s0.messages[a.wake%firstFiring].kind == createMessage && a.wake < firstFiring && !a.again && s0.left.releases > 0 {
		x.giveBack(s0, r)
	}
	switch a.phase {
	case looking, older, refused:
		x.read(s0, r)
		if x.unheard = s0.faulty && s0.executed(a.wake); x.unheard {
			x.read(s0, r)
			x.unheard = false
		}
	case appending, uncertain:
		x.append(s0, r)
	case executing:
		x.execute(s0, r)
	case waiting:
		x.wait(s0, r)
	default:
		x.project(s0, r)
	}
}

// giveBack returns a create to the server before anything began: the runner shuts down, or has no code for it.
func (x *step) giveBack(s0 *state, r uint8) {
	s := *s0
	s.left.releases--
	s.runners[r] = activation{}
	if w := s0.runners[r].wake; x.world.rules.SayNothingBegan && s.tail(s.n) == 0 {
		h := engine.NewHistory(stream, uint64(w), protocol.Create{})
		x.put(&s, message{kind: logMessage, what: x.world.under(h, w, protocol.Entry{Kind: protocol.EntryReleased})})
	}
	x.emit(&s, "R%d gives its wake back", r)
}

// read reads the instance and decides.
func (x *step) read(s0 *state, r uint8) {
	s := *s0
	a := &s.runners[r]
	switch a.phase {
	case older:
		v := x.world.view(&s, s.n)
		found := v.older
		switch {
		case s.tail(s.n) != a.tail:
			found = engine.OlderUnknown // about another park
		case !x.world.rules.OnlyOlderInputs:
			found = v.any
		}
		x.decide(&s, a, s.n, found)
		x.emit(&s, "R%d looks for older inputs", r)
	case refused:
		v := x.world.view(&s, s.n)
		if v.situation.Phase == engine.Running && v.situation.Holder == a.wake.name() {
			*a = activation{} // somebody else works under it
		} else {
			x.decide(&s, a, s.n, engine.OlderUnknown)
		}
		x.emit(&s, "R%d reads again after the refusal", r)
	default:
		x.look(s0, r)
	}
}

// revive lets a goroutine of a parked execution call in: it goes on under a wake of its own.
func (x *step) revive(s0 *state, r uint8) {
	s := *s0
	s.left.revivals--
	a := &s.runners[r]
	a.phase, a.then, a.read = appending, thenRun, 0
	if x.world.rules.NudgeToRevive {
		a.old, a.wake, a.mute = a.wake, wakeID(s.store(message{kind: nudgeMessage})), true
	}
	a.what = x.reclaim(&s, a)
	x.emit(&s, "R%d: a goroutine calls in after the park", r)
}

// execute ends the body, or tells meanwhile that it began, or ends it and gives the instance back.
func (x *step) execute(s0 *state, r uint8) {
	s := *s0
	a := &s.runners[r]
	a.done |= 1 << a.op
	x.run(&s, a)
	x.emit(&s, "R%d: body of step %d ends", r, s0.runners[r].op)
	if s = *s0; s.left.told > 0 {
		s.left.told--
		if a.what = x.world.run(&s, a, inform).what; a.what != 0 {
			a.phase, a.then = appending, thenExecute
			x.emit(&s, "R%d tells that the body of step %d began", r, a.op)
		}
	}
	if s = *s0; s.left.releases > 0 {
		s.left.releases--
		a.done |= 1 << a.op
		a.phase, a.then, a.what = appending, thenRelease, x.world.run(&s, a, release).what
		x.emit(&s, "R%d: body of step %d ends, the runner shuts down", r, a.op)
	}
}

// look reads any state of the stream that counts for the wake.
func (x *step) look(s0 *state, r uint8) {
	a := s0.runners[r]
	from := s0.reach(a.wake)
	if isFiring := a.wake >= firstFiring; isFiring && !x.world.rules.ReadReachesPark || !isFiring && !x.world.rules.ReadReachesInput {
		from = 1
	}
	for upTo := from; upTo <= s0.n; upTo++ {
		s := *s0
		if upTo < s0.n {
			if s.left.stale == 0 {
				continue
			}
			s.left.stale--
		}
		x.decide(&s, &s.runners[r], upTo, engine.OlderUnknown)
		x.emit(&s, "R%d reads up to %d of %d", r, upTo, s0.n)
	}
}

// decide asks the table and turns to what it says.
func (x *step) decide(s *state, a *activation, upTo uint8, known engine.Older) {
	v := x.world.view(s, upTo)
	memory := a.kept
	*a = activation{phase: a.phase, wake: a.wake, again: a.again, mute: a.mute, born: uint8(v.situation.Incarnation)}
	if upTo >= s.goneAt {
		a.blind = s.gone
	}
	action, o := x.world.action(s, v, a.wake, known, clock(s.now))
	switch action {
	case engine.Obey:
		a.phase, a.tail, a.what, a.then = appending, uint8(v.situation.Tail), o.what, o.then
	case engine.Ack, engine.Poke:
		a.phase = acking
	case engine.Project:
		a.phase, a.tail = announcing, v.endAt
	case engine.Arm:
		a.phase, a.tail = arming, uint8(v.situation.Park)
		if x.world.end(s, a.tail) == nil {
			a.phase, a.tail = acking, 0
		}
	case engine.Keep:
		*a = activation{}
	case engine.LookOlder:
		a.phase, a.tail, a.kept = older, uint8(v.situation.Tail), memory
	case engine.Start:
		if a.again {
			x.claim(a, v)
		} else {
			a.tail = uint8(v.situation.Tail)
			x.run(s, a)
		}
	case engine.Claim:
		runs := v.situation.Phase == engine.Running && !v.released
		if runs && x.world.rules.AskBeforeClaim && s.executed(a.wake) && !x.unheard {
			*a = activation{}
			return
		}
		if v.situation.Phase == engine.Parked && uint64(memory.park) == v.situation.Tail {
			x.goOn(a, memory)
		}
		x.claim(a, v)
	}
}

// goOn goes on in memory: with what was read before, even if it is gone since.
func (x *step) goOn(a *activation, memory kept) {
	a.live, a.blind = true, memory.blind
	if !x.world.rules.ClaimToGoOn {
		a.wake, a.again = memory.wake, true
	}
}

// run lets the code go on until it needs something.
func (x *step) run(s *state, a *activation) {
	a.live = true
	n := x.world.run(s, a, goOn)
	switch n.kind {
	case runBody:
		a.phase, a.op = executing, n.op
		x.begin(s, a, n.op)
	case appendFirst:
		a.phase, a.then, a.what = appending, thenRun, n.what
	case waitForEvent:
		a.phase = waiting
	case goToSleep:
		x.store(s, a, n.what, thenCheck)
	case finish:
		x.store(s, a, n.what, thenAnnounce)
	}
}

// begin is a body that begins.
func (x *step) begin(s *state, a *activation, op uint8) {
	v := x.world.truth(s)
	before := uint8(1)<<op - 1
	current := x.world.view(s, s.n).situation.Incarnation == uint64(a.born)
	switch s.bodies[op]++; {
	case s.left.stale == x.world.limits.stale && !current:
		x.broken = "a body begins of an instance that is gone"
	case s.left.stale == x.world.limits.stale && v.situation.Phase == engine.Paused:
		x.broken = "a body begins of an instance that is paused"
	case v.done&before != before:
		x.broken = "a body begins before what comes before it is stored"
	case s.left.stale == x.world.limits.stale && (v.done&(1<<op) != 0 || v.situation.Phase == engine.Finished):
		x.broken = "a body begins although its outcome is stored"
	case s.bodies[op] > 1 && !s.faulty:
		x.broken = "a body begins twice, but nothing went wrong"
	}
	s.bodies[op] = min(s.bodies[op], 2)
}

// afterPark turns to the timer, if the park has an end, and to the ack.
func (x *step) afterPark(s *state, a *activation) {
	a.phase = arming
	switch {
	case x.world.end(s, a.tail) == nil:
		a.phase = acking
	case !x.world.rules.ArmBeforeAck:
		*s.deliveryOf(a.wake) = acked
	}
}

// wait reads inputs, at least once, or parks.
func (x *step) wait(s0 *state, r uint8) {
	a := s0.runners[r]
	if a.read < s0.newestInput() {
		s := *s0
		b := &s.runners[r]
		for b.read < s.newestInput() {
			if b.read++; s.messages[b.read].kind != logMessage {
				b.blind |= s.gone & (1 << b.read)
			}
		}
		x.run(&s, b)
		x.emit(&s, "R%d reads inputs up to %d", r, b.read)
	}
	if a.read > 0 {
		s := *s0
		b := &s.runners[r]
		x.store(&s, b, x.world.run(&s, b, goOn).what, thenCheck)
		x.emit(&s, "R%d parks", r)
	}
}

// project does what follows the log: look at older inputs once more, arm, announce, ack.
func (x *step) project(s0 *state, r uint8) {
	s := *s0
	a := &s.runners[r]
	switch a.phase {
	case checking:
		v := x.world.view(&s, a.tail) // all that is older than the park
		found := v.older
		if !x.world.rules.OnlyOlderInputs {
			found = x.world.view(&s, s.n).any
		}
		if found == engine.OlderSome {
			a.read = s.newestInput()
			a.phase, a.then, a.what = appending, thenRun, x.reclaim(&s, a)
		} else {
			x.afterPark(&s, a)
		}
		x.emit(&s, "R%d looks at inputs older than its park", r)
	case arming:
		if !x.world.rules.TimerPerPark {
			s.armed = 0
		}
		s.armed |= 1 << a.tail
		a.phase = acking
		x.emit(&s, "R%d arms the timer of park %d", r, a.tail)
	case announcing:
		s.announced = max(s.announced, a.tail)
		a.phase = acking
		if x.world.deleted(&s, a.tail) {
			a.phase = purging
		}
		x.emit(&s, "R%d announces the end", r)
	case purging:
		x.purge(s0, r)
	case acking:
		if !a.mute {
			*s.deliveryOf(a.wake) = acked
		}
		if a.phase = lingering; !a.live || s.left.revivals == 0 && s.left.memories == 0 {
			*a = activation{}
		}
		x.emit(&s, "R%d acks %v", r, uint8(s0.runners[r].wake))
	case lingering:
		*a = activation{}
		x.emit(&s, "R%d forgets the parked execution", r)
	}
}
