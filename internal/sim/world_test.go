package sim

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

const project = "p"

// names of the streams that are simulated.
var (
	workflows = protocol.WorkflowsStream(project)
	timers    = protocol.TimersStream(project)
)

// began is when every simulation begins.
var began = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// world is one simulation.
type world struct {
	*rand.Rand
	rules  rules
	now    time.Time
	server *server

	actors     []*actor
	running    *actor
	runners    []*runner
	deliveries []*delivery
	alarms     []*alarm
	hanging    []*nats.Msg // requests that nobody waits for
	lateAcks   []*delivery
	scripts    map[string][]op
	instances  []protocol.Instance
	plan       []act // what happens from outside, in order
	clients    int
	checker    *checker
	calm       bool // no faults any more
	long       bool // what informs is stored before much time passes
	faults     int  // how many there may still be
	faulty     bool // there was one
	steps      int
	trace      []string
	traced     bool
}

// actor does one thing after another, and waits in between until it is its turn.
type actor struct {
	name   string
	runner *runner // whose process it is in, nil for others
	next   func() (point, bool)
	stop   func()
	yield  func(point) bool
	at     point
	x      *execution // what it executes
}

// point says what an actor does when it goes on.
type point int

const (
	asking    point = iota // send a request
	pausing                // try again, after a while
	computing              // go on with a body, or with code
)

// stopped ends the goroutine of an actor that is stopped.
type stopped struct{}

func newWorld(seed uint64, r rules, traced bool) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, seed)), rules: r, now: began, traced: traced, scripts: map[string][]op{}}
	w.server = &server{streams: map[string]*stream{}, lag: w.lag, blind: !r.CompareAndAppend}
	w.checker = newChecker(w)
	for _, name := range []string{workflows, timers} {
		w.server.streams[name] = &stream{name: name, stored: w.stored, purged: w.purged}
	}
	return w
}

// spawn adds an actor.
func (w *world) spawn(name string, r *runner, do func()) {
	a := &actor{name: name, runner: r, at: asking}
	a.next, a.stop = iter.Pull(func(yield func(point) bool) {
		a.yield = yield
		defer func() {
			if p := recover(); p != nil && p != (stopped{}) {
				w.checker.fail("panic: %v\n%s", p, debug.Stack())
			}
		}()
		do()
	})
	w.actors = append(w.actors, a)
}

// pause lets others come first.
func (w *world) pause(p point) {
	if !w.running.yield(p) {
		panic(stopped{})
	}
}

// resume lets an actor go on until it pauses.
func (w *world) resume(a *actor) {
	w.running = a
	p, more := a.next()
	w.running = nil
	a.at = p
	if !more {
		w.actors = slices.DeleteFunc(w.actors, func(o *actor) bool { return o == a })
	}
}

// kill stops the actors that a process has.
func (w *world) kill(r *runner) {
	w.actors = slices.DeleteFunc(w.actors, func(a *actor) bool {
		if a.runner != r {
			return false
		}
		w.running = a // what it releases on its way out is its own
		a.stop()
		w.running = nil
		return true
	})
}

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.IntN(n) == 0 }

// fault reports whether something goes wrong now, once in n times while there may be faults.
func (w *world) fault(n int) bool {
	if w.calm || w.faults == 0 || w.IntN(n) != 0 {
		return false
	}
	w.faults--
	w.faulty = true
	return true
}

// fate decides what becomes of a request.
func (w *world) fate(isAppend bool) fate {
	if !w.fault(12) {
		return arrives
	}
	if isAppend {
		return fate(1 + w.IntN(5))
	}
	return []fate{lost, answerLost, refused}[w.IntN(3)]
}

// lag is how many changes a replica lacks.
func (w *world) lag(s *stream) int {
	if w.calm || w.faults == 0 || w.IntN(4) != 0 {
		return 0
	}
	return w.IntN(1 + min(8, s.changes))
}

// stream is the stream of instances.
func (w *world) stream() *stream { return w.server.streams[workflows] }

// stored is called for every message that a stream stores.
func (w *world) stored(m *message) {
	if strings.HasPrefix(m.subject, "timer.") {
		w.storedTimer(m)
		return
	}
	instance, class, err := protocol.ParseInstanceSubject(m.subject)
	if err != nil {
		panic(err)
	}
	switch class {
	case protocol.ClassLog, protocol.ClassDone:
	default:
		w.deliveries = append(w.deliveries, &delivery{
			wake: protocol.Wake{Stream: workflows, Sequence: m.sequence}, message: m, instance: instance,
		})
	}
	w.checker.stored(instance, class, m)
}

// purged is called for every message that is purged: its wake is never delivered again.
func (w *world) purged(m *message) {
	w.deliveries = slices.DeleteFunc(w.deliveries, func(d *delivery) bool { return d.message == m })
}

func (w *world) tracing() bool { return w.traced }

// tell adds a line to the trace.
func (w *world) tell(format string, args ...any) {
	if !w.traced {
		return
	}
	who := "world"
	if w.running != nil {
		who = w.running.name
	}
	w.trace = append(w.trace, fmt.Sprintf("%4d %8s  %-16s ", w.steps, w.now.Sub(began).Truncate(time.Millisecond), who)+fmt.Sprintf(format, args...))
}

// describe says what a request is about.
func (w *world) describe(m *nats.Msg) string {
	switch _, class, err := protocol.ParseInstanceSubject(m.Subject); {
	case err != nil:
		return fmt.Sprintf("%s %s", m.Subject, m.Data)
	case class == protocol.ClassLog:
		var a protocol.Append
		decode(m.Data, &a)
		return fmt.Sprintf("appends to %s after %s: %s", m.Subject, m.Header.Get(protocol.HeaderExpectedSubjectSequence), describe(&a))
	default:
		return fmt.Sprintf("publishes %s %s", m.Subject, m.Data)
	}
}

// describe lists the entries of an append.
func describe(a *protocol.Append) string {
	var all []string
	for _, e := range a.Entries {
		text := string(e.Kind)
		if e.Step != nil {
			text += fmt.Sprintf(" %s#%d", e.Step.Name, e.Step.Count)
		}
		if e.Input != 0 {
			text += fmt.Sprint(" by ", e.Input)
		}
		if e.Lost {
			text += " (lost run)"
		}
		all = append(all, text)
	}
	return fmt.Sprintf("[%s] holder %d incarnation %d mark %d", strings.Join(all, ", "), a.Holder.Sequence, a.Incarnation, a.Mark)
}
