package engine_test

import (
	"github.com/skein-run/skein/internal/engine"
)

// all does everything that can happen in a state, one at a time.
func (x *step) all(s *state) {
	for r := range uint8(len(s.runners)) {
		if s.runners[r].phase != idle {
			x.act(s, r)
			x.crash(s, r)
		}
	}
	x.deliverWakes(s)
	x.send(s)
	x.steer(s)
	x.create(s)
	x.clean(s)
	x.fire(s)
	x.tick(s)
	x.network(s)
}

func (x *step) crash(s0 *state, r uint8) {
	if s0.left.crashes == 0 {
		return
	}
	s := *s0
	s.left.crashes--
	s.faulty = true
	s.runners[r] = activation{}
	x.emit(&s, "R%d CRASHES", r)
}

// deliverWakes gives each wake that is not acked to an idle runner: for the first time, again because nobody has it in
// hand any more, or again although somebody has.
func (x *step) deliverWakes(s0 *state) {
	r := uint8(0)
	for r < uint8(len(s0.runners)) && s0.runners[r].phase != idle {
		r++
	}
	s0.wakes(func(w wakeID) {
		d := *s0.deliveryOf(w)
		if s0.left.resets > 0 && d != fresh {
			s := *s0
			s.left.resets--
			s.faulty = true
			*s.deliveryOf(w) = fresh
			x.emit(&s, "the server forgets that it delivered wake %v", uint8(w))
		}
		owner := s0.owner(w)
		if owner != nil && owner.mute && owner.wake == w {
			x.deliverToOwner(s0, w)
		}
		zombie := d == delivered && owner != nil && !owner.mute
		for r, a := range s0.runners {
			if a.phase == lingering && d != acked && !zombie && s0.left.memories > 0 {
				s := *s0
				s.left.memories--
				s.runners[r] = activation{phase: looking, wake: w, again: d == delivered, kept: kept{a.tail, a.wake, a.blind}}
				*s.deliveryOf(w) = delivered
				x.emit(&s, "R%d gets wake %v, and has the instance in memory", uint8(r), uint8(w))
			}
		}
		if r == uint8(len(s0.runners)) || d == acked || zombie && s0.left.zombies == 0 {
			return
		}
		s := *s0
		if zombie {
			s.left.zombies--
			s.faulty = true
		}
		s.runners[r] = activation{phase: looking, wake: w, again: d == delivered}
		*s.deliveryOf(w) = delivered
		x.emit(&s, "R%d gets wake %v", r, uint8(w))
	})
}

// deliverToOwner gives a nudge to the runner that made it, which can ack it from now on.
func (x *step) deliverToOwner(s0 *state, w wakeID) {
	s := *s0
	if *s.deliveryOf(w) == acked {
		return
	}
	*s.deliveryOf(w) = delivered
	s.owner(w).mute = false
	x.emit(&s, "the runner that made the nudge %v gets it", uint8(w))
}

// send lets events arrive.
func (x *step) send(s0 *state) {
	put := func(left *uint8, s *state, m message, what string) {
		if *left > 0 {
			*left--
			s.store(m)
			x.emit(s, what, s.n)
		}
	}
	id := uint16(s0.newestInput()) + 1
	s := *s0
	put(&s.left.events, &s, message{kind: eventMessage, what: id}, "event %d")
	s = *s0
	put(&s.left.strange, &s, message{kind: strangeMessage, what: id}, "event %d of another type")
	if last := s0.messages[s0.newestInput()]; last.kind == eventMessage {
		s = *s0
		put(&s.left.repeats, &s, last, "event %d repeats another")
	}
}

// fire lets timers fire: when due, twice, or early.
func (x *step) fire(s0 *state) {
	for park := uint8(1); park <= s0.n; park++ {
		if s0.armed&(1<<park) == 0 {
			continue
		}
		s := *s0
		s.firings[s.fired] = firing{park: park}
		s.fired++
		if clock(s.now).Before(*x.world.end(&s, park)) {
			if s.left.early > 0 {
				s.left.early--
				s.armed &^= 1 << park
				x.emit(&s, "the timer of park %d fires EARLY", park)
			}
			continue
		}
		if s.left.twice > 0 {
			again := s
			again.left.twice--
			x.emit(&again, "the timer of park %d fires, and will once more", park)
		}
		s.armed &^= 1 << park
		x.emit(&s, "the timer of park %d fires", park)
	}
}

// tick lets the moment come that a parked instance waits for.
func (x *step) tick(s0 *state) {
	v := x.world.view(s0, s0.n)
	if v.situation.Phase != engine.Parked || v.situation.Until == nil || !clock(s0.now).Before(*v.situation.Until) {
		return
	}
	s := *s0
	for clock(s.now).Before(*v.situation.Until) {
		s.now++
	}
	x.emit(&s, "the wait of park %d is over", uint8(v.situation.Park))
}

// network brings what hangs in it, or loses it.
func (x *step) network(s0 *state) {
	if s0.network == (hanging{}) {
		return
	}
	s := *s0
	s.network = hanging{}
	x.emit(&s, "the network loses an append")
	if s.tail(s.n) == s0.network.tail {
		x.put(&s, message{kind: logMessage, tag: s0.network.tag, what: s0.network.what})
		x.emit(&s, "the network delivers an append at %d", s.n)
	}
}
