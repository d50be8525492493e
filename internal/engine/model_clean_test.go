package engine_test

import (
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// janitor cleans away what is older than a horizon.
type janitor struct {
	horizon uint8 // 0: it does nothing
	asked   uint8 // sequence of its control
	checked bool  // nothing is lost if the horizon is purged
}

// clean lets the janitor do what it does next.
func (x *step) clean(s0 *state) {
	switch j := s0.janitor; {
	case j.horizon == 0 && s0.left.cleanings > 0:
		x.chooseHorizon(s0)
	case j.checked:
		s := *s0
		s.gone, s.goneAt, s.janitor = s.gone|(1<<(j.horizon+1)-1), s.n, janitor{}
		if s.newest(s.n, createMessage) > j.horizon && s.messages[s.newest(s.n, createMessage)].what == 0 {
			s.faulty = true // what the runner of the new instance follows may be gone
		}
		x.emit(&s, "the janitor purges up to %d", j.horizon)
	case j.horizon > 0:
		x.carry(s0)
	}
}

// chooseHorizon begins a cleaning: all that is up to the horizon is so old that no read or append can be under way
// that does not know it. Bodies may run for as long.
func (x *step) chooseHorizon(s0 *state) {
	if x.world.rules.AgedHorizon && s0.network != (hanging{}) {
		return
	}
	for _, a := range s0.runners {
		if a.phase != idle && (a.phase != executing || a.tail == 0) && x.world.rules.AgedHorizon {
			return
		}
	}
	floor := s0.n
	s0.wakes(func(w wakeID) {
		if w < firstFiring && *s0.deliveryOf(w) != acked && x.world.rules.AckFloor {
			floor = min(floor, uint8(w)-1)
		}
	})
	for h := uint8(1); h <= floor; h++ {
		if s0.gone&(1<<h) != 0 {
			continue
		}
		s := *s0
		s.left.cleanings--
		s.janitor = janitor{horizon: h}
		s.expired = x.world.view(s0, s0.n).situation.Phase == engine.Finished
		x.emit(&s, "the janitor begins, with the horizon %d", h)
	}
}

// carry brings what lives over the horizon, one thing at a time.
func (x *step) carry(s0 *state) {
	s := *s0
	j := &s.janitor
	v := x.world.view(s0, s0.n)
	create := s.newest(s.n, createMessage)
	newest := s.n
	for newest > 0 && s.gone&(1<<newest) != 0 {
		newest--
	}
	over := x.snapshotOver(s0, v)
	switch finished := v.situation.Phase == engine.Finished && s.expired; {
	case !v.situation.Exists, finished && newest <= j.horizon, create > j.horizon && s.messages[create].what == 0:
		j.checked = true
		x.emit(&s, "the janitor has nothing to carry")
	case finished && v.end == protocol.EntryDeleted:
		s.janitor = janitor{}
		x.emit(&s, "the janitor waits for the end of a delete")
	case over && (create > j.horizon || !x.world.rules.CarryCreate):
		j.checked = true
		x.emit(&s, "the janitor has carried the instance")
	case over:
		s.store(message{kind: createMessage, what: uint16(v.situation.Incarnation)})
		j.checked = !x.world.rules.VerifyCarried
		x.emit(&s, "the janitor carries the create to %d", s.n)
	case j.asked == 0:
		s.store(message{kind: controlMessage, what: compact | uint16(s.n+1)<<idShift})
		j.asked, j.checked = s.n, !x.world.rules.VerifyCarried
		x.emit(&s, "the janitor asks for a snapshot at %d", s.n)
	case *s.deliveryOf(wakeID(j.asked)) == acked:
		s.janitor = janitor{}
		x.emit(&s, "the janitor gives up")
	}
}

// snapshotOver reports whether the log has a snapshot that holds what is up to the horizon.
func (x *step) snapshotOver(s *state, v *view) bool {
	for i := s.janitor.horizon + 1; i <= s.n; i++ {
		if m := v.messages[i]; m.kind == logMessage {
			a := &x.world.appends[m.what]
			e := a.Entries[0]
			if e.Kind == protocol.EntrySnapshot && e.Input >= uint64(s.janitor.horizon) && a.Incarnation == v.situation.Incarnation {
				return true
			}
		}
	}
	return false
}

// goesOn reports whether an execution whose append was refused goes on after the tail of the log.
func (w *world) goesOn(s *state, a *activation, tail uint8) bool {
	if tail == 0 || a.then == thenDecide || a.then == thenAck {
		return false
	}
	newest := &w.appends[s.messages[tail].what]
	if !w.rules.GoOnExactly && newest.Entries[0].Kind == protocol.EntrySnapshot {
		return true
	}
	k := s.prefix(a.tail, a.blind)
	ok, err := w.fold(&k, a.born, a.tail, false).GoOn(uint64(a.tail), uint64(tail), newest)
	if err != nil {
		panic(err)
	}
	return ok
}
