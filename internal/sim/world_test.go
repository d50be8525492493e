package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

const project = "p"

// names of the streams that are simulated.
var (
	workflows = protocol.WorkflowsStream(project, 0)
	timers    = protocol.TimersStream(project)
)

// began is when every simulation begins.
var began = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// world is one simulation.
type world struct {
	*rand.Rand
	crew   *crew
	plot   plot
	rules  rules
	now    time.Time
	server *server

	actors     []*actor
	running    *actor
	runners    []*runner
	deliveries []*delivery
	alarms     []*alarm
	hanging    []hanging // requests that are on their way
	lateAcks   []*delivery
	scripts    map[string][]op
	instances  []protocol.Instance
	objects    map[string]object
	plan       []act // what happens from outside, in order
	clients    int
	cleaning   int // how many janitors are at it
	checker    *checker
	calm       bool    // no faults any more
	long       bool    // what informs is stored before much time passes
	faults     int     // how many there may still be
	faulty     bool    // there was one
	contests   bool    // the code has races, and groups that fail
	doomed     *runner // it is killed before it does anything else
	steps      int
	trace      []string
	traced     bool
}

// object is the history of a snapshot that no message can hold.
type object struct {
	history json.RawMessage
	put     time.Time
}

// plot says what a game is rich in.
type plot uint64

const (
	everything plot = iota
	deletes         // and instances that get the ids of those
	cleanings
	troubles // faults
	plots
)

func newWorld(seed uint64, r rules, c *crew) *world {
	w := &world{
		crew: c, objects: map[string]object{}, plot: plot(seed) % plots, Rand: rand.New(rand.NewPCG(seed, seed)), rules: r, now: began, scripts: map[string][]op{}}
	w.contests = seed/uint64(plots)%5 == 3
	w.server = &server{streams: map[string]*stream{}, lag: w.lag, blind: !r.CompareAndAppend}
	w.checker = newChecker(w)
	for _, name := range []string{workflows, timers} {
		w.server.streams[name] = &stream{name: name, stored: w.stored, purged: w.purged}
	}
	return w
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
