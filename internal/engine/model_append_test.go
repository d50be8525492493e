package engine_test

import (
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// reclaim is the append by which a parked execution goes on.
func (x *step) reclaim(s *state, a *activation) uint16 {
	k := s.prefix(a.tail, a.blind)
	h := x.world.fold(&k, a.born, a.tail, false)
	return x.world.under(h, a.wake, protocol.Entry{Kind: protocol.EntryClaimed, Wake: new(a.wake.name())})
}

// claim turns to the append that takes the instance.
func (x *step) claim(a *activation, v *view) {
	h := x.world.fold(&v.messages, a.born, v.upTo, false)
	a.phase, a.tail, a.then = appending, uint8(v.situation.Tail), thenRun
	a.what = x.world.under(h, a.wake, h.ClaimEntry(a.wake.name()))
}

// store turns to the append of a park or of the end, after which the wake may be acked.
func (x *step) store(s *state, a *activation, what uint16, then uint8) {
	a.phase, a.then, a.what = appending, then, what
	if !x.world.rules.StoreBeforeAck {
		*s.deliveryOf(a.wake) = acked
	}
}

// append sends an append, or sends it once more, in all ways in which that can end.
func (x *step) append(s0 *state, r uint8) {
	a := s0.runners[r]
	m := message{kind: logMessage, what: a.what, tag: a.tag}
	tail := s0.tail(s0.n)
	switch {
	case tail == a.tail, !x.world.rules.CompareSnapshot && a.then == thenAck:
		s := *s0
		x.stored(&s, &s.runners[r], x.put(&s, m))
		x.emit(&s, "R%d appends at %d", r, s.n)
	case a.tag != 0 && s0.messages[tail].tag == a.tag:
		s := *s0
		x.stored(&s, &s.runners[r], tail)
		x.emit(&s, "R%d finds its append at %d", r, tail)
	case a.live && x.world.goesOn(s0, &a, tail):
		s := *s0
		s.runners[r].tail = tail
		x.emit(&s, "R%d goes on over the snapshot at %d", r, tail)
	default:
		s := *s0
		b := &s.runners[r]
		*b = activation{phase: refused, wake: a.wake, again: a.again, mute: a.mute}
		if a.old != 0 {
			b.wake, b.mute = a.old, false
		}
		if !x.world.rules.LookAfterRefusal {
			b.phase = acking
		}
		x.emit(&s, "R%d: append over %d is refused", r, a.tail)
	}
	if a.phase == appending && s0.left.ambiguous > 0 {
		x.appendUnclear(s0, r)
	}
}

// appendUnclear sends an append that nobody answers. It is stored, or may be later.
func (x *step) appendUnclear(s0 *state, r uint8) {
	s := *s0
	a := &s.runners[r]
	s.left.ambiguous--
	a.phase, a.tag = uncertain, 1+s.left.ambiguous
	if s.network == (hanging{}) {
		hung := s
		hung.network = hanging{tag: a.tag, tail: a.tail, what: a.what}
		x.emit(&hung, "R%d: append over %d hangs in the network", r, a.tail)
	}
	if s.tail(s.n) == a.tail {
		x.put(&s, message{kind: logMessage, what: a.what, tag: a.tag})
		x.emit(&s, "R%d appends at %d, the answer is lost", r, s.n)
	}
}

// put stores an append.
func (x *step) put(s *state, m message) uint8 {
	at := s.store(m)
	if wrong := x.world.wrong(s); wrong != "" {
		x.broken = wrong
	}
	e := x.world.appends[m.what].Entries[0]
	if e.Lost && !s.faulty {
		x.broken = "a run is counted as lost, but nothing went wrong"
	}
	if e.Input != 0 && e.Step == nil && e.Kind != protocol.EntrySnapshot {
		s.bodies = [maxOps]uint8{} // whoever executed is told to stop
	}
	return at
}

// stored is what follows an append.
func (x *step) stored(s *state, a *activation, at uint8) {
	then, op := a.then, a.op
	if a.old != 0 {
		*s.deliveryOf(a.old) = acked
	}
	*a = activation{wake: a.wake, born: a.born, blind: a.blind, again: a.again, mute: a.mute, live: a.live, tail: at, read: a.read}
	switch then {
	case thenExecute:
		a.phase, a.op = executing, op
	case thenRelease:
		*a = activation{}
	case thenAnnounce:
		*a = activation{phase: announcing, wake: a.wake, born: a.born, again: a.again, mute: a.mute, tail: at}
		if !x.world.rules.AnnounceBeforeAck {
			*s.deliveryOf(a.wake) = acked
		}
	case thenDecide:
		x.decide(s, a, at, engine.OlderUnknown)
	case thenAck:
		a.phase = acking
	case thenCheck:
		a.read = 0
		a.phase = checking
		if v := x.world.view(s, at); !v.situation.WaitsForEvents() || !x.world.rules.LookAfterPark {
			x.afterPark(s, a)
		}
	default:
		x.run(s, a)
	}
}
