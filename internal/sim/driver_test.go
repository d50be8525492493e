package sim

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// outOfTouch is how long a runner goes on without contact.
const outOfTouch = 10 * time.Minute

// play plays a whole game and returns what was wrong, "" if nothing.
func (w *world) play() string {
	w.makePlan()
	for range 2 + w.IntN(2) {
		w.startRunner()
	}
	if !w.chance(5) {
		w.faults = 1 + w.IntN(8)
	}
	if w.plot == troubles || w.plot == cleanings {
		w.faults = 5 + w.IntN(10)
	}
	for w.steps < 120+40*w.IntN(4) && w.checker.failure == "" {
		w.steps++
		w.storm()
	}
	w.calm = true
	w.tell("the storm is over")
	for _, r := range w.runners {
		w.thaw(r)
		r.offset = 0
		if r.stopping { // and has had the time for it
			w.crash(r)
		}
	}
	if len(w.alive()) == 0 {
		w.startRunner()
	}
	for limit := w.steps + 20_000; w.settle() && w.checker.failure == ""; w.steps++ {
		if w.steps > limit {
			w.checker.fail("there is no end to it")
		}
	}
	if w.checker.failure == "" {
		w.checker.atRest()
	}
	for len(w.actors) > 0 {
		w.end(w.actors[0])
	}
	return w.checker.failure
}

// alive are the runners that could get a wake.
func (w *world) alive() []*runner {
	var all []*runner
	for _, r := range w.runners {
		if !r.dead && !r.frozen && !r.stopping {
			all = append(all, r)
		}
	}
	return all
}

// able are the actors that can go on.
func (w *world) able() []*actor {
	var all []*actor
	for _, a := range w.actors {
		if (a.runner == nil || !a.runner.frozen) && (a.stalls <= w.steps || w.long) {
			all = append(all, a)
		}
	}
	return all
}

// storm lets one thing happen.
func (w *world) storm() {
	if r := w.doomed; r != nil {
		if w.doomed = nil; !r.dead {
			w.crash(r)
			return
		}
	}
	switch k := w.IntN(100); {
	case k < 55:
		if able := w.able(); len(able) > 0 {
			if a := able[w.IntN(len(able))]; !a.slow || w.chance(20) {
				w.resume(a)
				return
			}
		}
		w.deliverSome()
	case k < 78:
		w.deliverSome()
	case k < 84:
		if len(w.plan) > 0 {
			a := w.plan[0]
			w.plan = w.plan[1:]
			w.perform(a)
		}
	case k < 88:
		w.fireSome()
	case k < 91:
		w.pass(time.Duration(w.IntN(60)) * time.Second)
	case k < 94:
		w.arrive()
	default:
		w.upset()
	}
}

// deliverSome delivers a wake: a new one, one that nobody has in hand any more, or, as a fault, one that somebody has.
func (w *world) deliverSome() bool {
	alive := w.alive()
	if len(alive) == 0 || len(w.deliveries) == 0 {
		return false
	}
	r := alive[w.IntN(len(alive))]
	first := w.IntN(len(w.deliveries))
	for n := range w.deliveries {
		d := w.deliveries[(first+n)%len(w.deliveries)]
		switch {
		case d.acked && (d.count == 0 || !w.fault(40)):
		case d.count > 0 && w.marked(d) && !w.fault(20):
		case w.now.Before(d.notUntil):
		case len(r.inHand) >= 8:
		default:
			if d.acked = false; w.fault(20) {
				d.count = 0 // the server has forgotten what it delivered
			}
			w.deliver(d, r)
			return true
		}
	}
	return false
}

// marked reports whether somebody tells the server that the wake is worked on.
func (w *world) marked(d *delivery) bool {
	r := d.holder
	return r != nil && !r.dead && !r.frozen && r.inHand[d.wake] != nil
}

// fireSome lets a timer fire, if it is due. A fault lets it fire early, or once more.
func (w *world) fireSome() {
	if len(w.alarms) == 0 {
		w.pass(time.Duration(w.IntN(10)) * time.Minute)
		return
	}
	a := w.alarms[w.IntN(len(w.alarms))]
	if w.now.Before(a.due) && !w.fault(10) {
		if w.chance(2) {
			w.pass(a.due.Sub(w.now))
		}
		return
	}
	w.fire(a, w.fault(10))
}

// pass lets time pass. Nobody takes long for what takes no time: they come to an end of it first.
func (w *world) pass(d time.Duration) {
	if d > outOfTouch/2 {
		if w.cleaning > 0 && !w.chance(4) {
			return // to be drained, a janitor would have to give up
		}
		w.drain()
	}
	w.now = w.now.Add(d)
}

// drain lets everybody come to where it can stay for long: in a body, or nowhere.
func (w *world) drain() {
	w.long = true
	defer func() { w.long = false }()
	for range 2000 {
		moved := false
		for _, a := range w.able() {
			if a.at != computing || a.x.m.Buffered() {
				w.resume(a)
				moved = true
			}
		}
		if !moved {
			w.hanging = nil
			return
		}
	}
	w.checker.fail("somebody asks for ever")
}

// arrive lets something come that is late.
func (w *world) arrive() {
	switch {
	case len(w.hanging) > 0:
		hung := w.hanging[0]
		m := hung.m
		w.hanging = w.hanging[1:]
		if w.chance(4) {
			return
		}
		w.tell("late: %s", w.describeLate(m))
		answer := w.server.handle(m, w.now)[0]
		if heard := hung.answerLate(answer); heard {
			w.crew.saw["answered late"]++
		}
		if strings.HasPrefix(string(answer.Data), `{"stream"`) {
			w.crew.saw["stored late"]++
			return
		}
		w.crew.saw["refused late"]++
	case len(w.lateAcks) > 0:
		d := w.lateAcks[0]
		w.lateAcks = w.lateAcks[1:]
		w.tell("late: ack of %v", d.wake)
		d.acked = true
	}
}

func (w *world) describeLate(m *nats.Msg) string {
	if !w.traced {
		return ""
	}
	return w.describe(m)
}

// upset does something to a process, to one thing that it does, or to time.
func (w *world) upset() {
	r := w.runners[w.IntN(len(w.runners))]
	if len(w.actors) > 0 && w.fault(2) {
		a := w.actors[w.IntN(len(w.actors))]
		a.stalls = w.steps + 20 + w.IntN(100)
		w.tell("%s stalls until step %d", a.name, a.stalls)
		return
	}
	switch k := w.IntN(8); {
	case k == 0 && !r.dead && w.fault(1):
		w.crash(r)
	case k == 1 && len(w.alive()) < 3:
		w.startRunner()
	case k == 2 && !r.dead && !r.frozen && w.fault(1):
		w.tell("%s freezes", r.id)
		r.frozen, r.contact = true, w.now
	case k == 3 && r.frozen:
		w.thaw(r)
	case k == 4 && !r.dead && w.fault(1):
		r.offset += time.Duration(w.IntN(240)-120) * time.Minute
		w.tell("the clock of %s is wrong by %v", r.id, r.offset)
	case k == 5 && !r.dead && !r.stopping && !r.frozen:
		w.tell("%s shuts down", r.id)
		r.stopping = true
	case k == 6 && (w.plot == cleanings || w.chance(4)), k == 7 && w.plot == cleanings:
		if w.rules.AgedHorizon {
			w.pass(age + 2*kept)
		}
		w.clean()
		if w.chance(4) {
			w.plan = append([]act{{instance: w.someone(), control: protocol.Control{Action: protocol.ActionDelete}, id: "late"}}, w.plan...)
		}
	}
}

func (w *world) crash(r *runner) {
	w.tell("%s is killed", r.id)
	w.faulty = w.faulty || len(r.inHand) > 0
	w.kill(r)
	r.dead, r.frozen = true, false
	r.inHand, r.active, r.memory = nil, nil, nil
}

// thaw lets a frozen runner go on. After a while without contact it drops what it has.
func (w *world) thaw(r *runner) {
	if !r.frozen {
		return
	}
	w.tell("%s thaws", r.id)
	r.frozen = false
	if w.now.Sub(r.contact) > outOfTouch && w.rules.AgedHorizon {
		w.crew.saw["out of touch"]++
		w.crash(r)
	}
}

// settle lets happen what must. It returns false if nothing is left.
func (w *world) settle() bool {
	switch {
	case w.cleaning > 0 && w.chance(2) && w.deliverSome(): // a janitor waits for what comes of it
	case len(w.actors) > 0:
		w.resume(w.actors[w.IntN(len(w.actors))])
	case len(w.hanging) > 0 || len(w.lateAcks) > 0:
		w.arrive()
	case len(w.plan) > 0:
		a := w.plan[0]
		w.plan = w.plan[1:]
		w.perform(a)
	case w.deliverSome():
	default:
		return w.nextMoment()
	}
	return true
}

// nextMoment comes to the moment at which the next timer is due, or the next wake comes back.
func (w *world) nextMoment() bool {
	var next *alarm
	for _, a := range w.alarms {
		if next == nil || a.due.Before(next.due) {
			next = a
		}
	}
	for _, d := range w.deliveries {
		back := d.notUntil
		if back.Before(d.due) { // it fired early, and would come back often until then
			back = d.due
		}
		if !d.acked && (next == nil || back.Before(next.due)) {
			next = &alarm{due: back}
		}
	}
	if next == nil {
		return false
	}
	if w.now.Before(next.due) {
		w.now = next.due
	}
	if next.subject != "" {
		w.fire(next, false)
	}
	return true
}
