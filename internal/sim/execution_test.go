package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// execution is one activation of an instance: the code of a script over the machine.
type execution struct {
	r        *runner
	h        *held
	wake     protocol.Wake
	history  *engine.History
	m        *engine.Machine
	expected uint64
	durable  uint64
	lines    []*line
	root     *line
	sides    []*side // that go on
	loaded   bool    // inputs were read
	poked    bool    // inputs may have come
	control  uint64  // it is to make room for a control
	parked   bool
	passed   bool    // it takes no more wakes for its newest park
	wakes    []*held // that end it, and came while it was projected
	dropped  bool
	park     protocol.Entry
	answered []*engine.Step // what the code got
}

// line is a branch of the code.
type line struct {
	branch  *engine.Branch
	todo    []op
	of      *side // that it is a branch of
	index   int
	fails   bool  // it returns an error in the end
	side    *side // its branches, while they run
	step    *engine.Step
	op      op
	body    bool
	answers []string
}

// over ends an execution; why says what its runner does then.
type over int

const (
	goesOn over = iota
	ended
	waits
	held_
	superseded
	released
	yields
)

// execute runs the code and follows what becomes of it: append, project, ack.
func (r *runner) execute(h *held, history *engine.History) {
	x := &execution{r: r, h: h, wake: h.Wake.Wake, history: history, m: engine.NewMachine(history), expected: history.Tail}
	x.m.Withhold = x.withheld
	x.root = &line{branch: x.m.Root(), todo: r.w.scripts[h.instance.Workflow]}
	x.lines = []*line{x.root}
	delete(r.memory, h.instance)
	x.follow()
}

// follow runs the code, or goes on with it, until it is over or stays in memory.
func (x *execution) follow() {
	r, i := x.r, x.h.instance
	if older := r.active[i]; older != nil {
		older.dropped = true
	}
	r.active[i], r.w.running.x = x, x
	defer func() {
		if r.active[i] == x {
			delete(r.active, i)
		}
		x.pass()
	}()
	for {
		switch x.run() {
		case ended:
			if r.w.rules.ProjectBeforeAck {
				r.projectEnd(x.h, x.done())
			}
			r.ack(x.h)
			return
		case waits:
			if !x.projectPark() {
				return
			}
		case held_:
			panic(fmt.Sprintf("instance %v is held: %+v", i, x.history.Held))
		case superseded:
			r.refused(x.h)
			return
		case released:
			r.later(x.h, 0)
			return
		case yields:
			r.yielded(x.h, x.control)
			return
		}
	}
}

// run lets the code go on until the execution is over or parked.
func (x *execution) run() over {
	w := x.r.w
	for {
		if x.dropped {
			return superseded
		}
		if x.r.stopping || x.control > 0 {
			return x.release()
		}
		x.settle()
		var able []*line
		for _, l := range x.lines {
			if x.able(l) {
				able = append(able, l)
			}
		}
		if len(able) > 0 && (x.bodies() == 0 || !w.chance(3)) {
			if o := x.advance(able[w.IntN(len(able))]); o != goesOn {
				return o
			}
			continue
		}
		if o := x.idle(); o != goesOn {
			return o
		}
	}
}

func (x *execution) bodies() int {
	n := 0
	for _, l := range x.lines {
		if l.body {
			n++
		}
	}
	return n
}

// able reports whether a line can go on by itself.
func (x *execution) able(l *line) bool {
	switch s := l.step; {
	case l.body:
		return false
	case l.side != nil:
		return l.side.whole()
	case s != nil && x.m.GivenUp(s.Key):
		return true
	case s != nil && !s.Done && (s.Op != protocol.OpDo || s.Until != nil):
		return false
	case s != nil, l.told():
		return true
	case len(l.todo) == 0:
		return x.m.OpenEnd(l.branch)
	}
	return l.todo[0].op == "" && l.todo[0].branches != nil || x.m.Open(l.branch, l.todo[0].op, l.todo[0].name)
}

// advance lets a line do one thing.
func (x *execution) advance(l *line) over {
	switch s := l.step; {
	case l.side != nil:
		x.join(l)
	case s != nil && x.m.GivenUp(s.Key):
		l.lose()
	case s != nil && s.Done:
		l.answers = append(l.answers, fmt.Sprintf("%v: %s", s.Key, answer(s)))
		l.step, x.answered = nil, append(x.answered, s)
	case s != nil:
		return x.begin(l)
	case len(l.todo) > 0:
		x.call(l)
	case l == x.root:
		return x.finish()
	default:
		x.returns(l)
	}
	return goesOn
}

// answer is what the code gets for a call.
func answer(s *engine.Step) string {
	text := string(s.Result)
	if s.Error != nil {
		text = "error " + s.Error.Name
	}
	if s.Winner != nil {
		text += fmt.Sprint(" of branch ", *s.Winner)
	}
	if s.Received != nil {
		text += fmt.Sprint(" of ", s.Received.Input)
	}
	return text
}

func (x *execution) call(l *line) {
	o := l.todo[0]
	l.todo, l.op = l.todo[1:], o
	var err error
	var until *time.Time
	if o.wait > 0 {
		until = new(x.r.now().Add(o.wait))
	}
	switch o.op {
	case "", protocol.OpRace:
		err = x.fork(l, o)
	case protocol.OpDo:
		l.step, err = x.m.Do(l.branch, o.name, config)
	case protocol.OpSleep:
		l.step, err = x.m.Sleep(l.branch, o.name, x.r.now().Add(o.wait))
	case protocol.OpEvent:
		l.step, err = x.m.WaitForEvent(l.branch, o.name, o.eventType, until)
		if err == nil && !l.step.Done && !x.loaded {
			x.refresh()
		}
	case protocol.OpValue:
		_, err = x.m.Value(l.branch, o.name, func() json.RawMessage { return encode(x.r.w.IntN(1000)) })
	}
	switch {
	case errors.Is(err, engine.ErrLost):
		l.lose()
	case err != nil:
		panic(err)
	}
}

// begin begins the body of a step, when all is stored that must be.
func (x *execution) begin(l *line) over {
	number := x.m.Begin(l.step, x.r.now())
	need := x.m.Hard()
	if x.m.StartIsHard() && x.r.w.rules.HardStart {
		need = x.m.Position()
	}
	if x.r.w.rules.StoreBeforeBody && !x.flush(need) {
		return superseded
	}
	if x.dropped {
		return superseded
	}
	x.r.w.checker.body(x, l.step, number)
	l.body = true
	return goesOn
}

// endBody ends a body that runs.
func (x *execution) endBody(l *line) {
	l.body = false
	s := l.step
	switch {
	case x.m.GivenUp(s.Key):
		return
	case l.told() && x.r.w.chance(2): // it returned because it was told to stop
		x.m.Abandon(s.Key)
		l.lose()
		return
	}
	if s.Failed >= l.op.failures {
		x.m.Complete(s, x.r.w.checker.result(), x.r.now())
		return
	}
	failure := &protocol.Failure{Name: "Boom", Message: fmt.Sprint(s.Failed)}
	if s.MayRetry(failure) && !l.told() {
		x.m.FailAttempt(s, failure, x.r.now(), engine.Delay(*s.Config, s.Failed+1, 0.5))
		return
	}
	x.m.Fail(s, failure)
}

// idle is what happens while no line goes on by itself.
func (x *execution) idle() over {
	w := x.r.w
	var running []*line
	for _, l := range x.lines {
		if l.body {
			running = append(running, l)
		}
	}
	waiting, forEvent := x.m.Waiting()
	next, ends := x.m.NextDue()
	switch due := ends && !x.r.now().Before(next); {
	case x.poked && forEvent:
		x.poked = false
		x.refresh()
	case due:
		if x.m.EventDue(x.r.now()) {
			if w.rules.ReadBeforeTimeout {
				x.refresh()
			}
			w.checker.timesOut(x)
		}
		x.m.Due(x.r.now())
	case len(running) > 0 && w.chance(3):
		x.endBody(running[w.IntN(len(running))])
	case len(running) > 0:
		if (w.long || w.chance(4)) && !x.flush(x.m.Position()) {
			return superseded
		}
		w.pause(computing)
	case waiting == 0, slices.ContainsFunc(x.lines, x.gated):
		x.hold()
	case forEvent && w.chance(4):
		x.refresh()
	default:
		return x.leave()
	}
	return goesOn
}

// gated reports whether a line waits for others to call what is recorded.
func (x *execution) gated(l *line) bool {
	return l.step == nil && l.side == nil && !x.able(l)
}

// hold is what a runner does if the code contradicts the log. This code never does.
func (x *execution) hold() {
	x.r.w.checker.fail("%v is about to be held: the code is the same, but the log (tail %d) asks for calls that it does not make", x.h.instance, x.expected)
	panic(stopped{})
}

// refresh reads new inputs.
func (x *execution) refresh() {
	inputs := x.r.inputs(x.h.instance, x.history, x.m.Seen()+1)
	x.loaded = true
	x.m.Deliver(inputs)
}

// flush stores the machine's entries up to a position. It returns false if the execution is over.
func (x *execution) flush(upTo uint64) bool {
	for x.durable < upTo {
		entries, position := x.m.Take()
		if len(entries) > 0 && !x.store(entries) {
			return false
		}
		x.durable = position
	}
	return true
}

func (x *execution) store(entries []protocol.Entry) bool {
	a := &protocol.Append{
		Incarnation: x.history.Incarnation, Holder: x.wake, Mark: x.history.Mark, Epoch: x.history.Epoch, Entries: entries,
	}
	for {
		sequence, err := x.r.append(x.h.instance, x.expected, a)
		if err == nil {
			x.expected = sequence
			return true
		}
		conflict, ok := errors.AsType[*journal.ConflictError](err)
		if !ok {
			panic(err)
		}
		if conflict.Tail == nil {
			return false
		}
		var tail protocol.Append
		decode(conflict.Tail.Data, &tail)
		if s := engine.SnapshotOf(&tail); s != nil && s.Object != nil && x.r.fetch(s) != nil {
			return false
		}
		if ok, err := x.history.GoOn(x.expected, conflict.Tail.Sequence, &tail); err != nil {
			panic(err)
		} else if !ok && (x.r.w.rules.GoOnExactly || tail.Entries[0].Kind != protocol.EntrySnapshot) {
			return false
		}
		x.r.w.crew.saw["went on over a snapshot"]++
		x.expected = conflict.Tail.Sequence
	}
}

// finish stores the end.
func (x *execution) finish() over {
	x.m.Finish(encode(x.root.answers), nil)
	x.m.Expire(new(x.r.now().Add(kept)))
	if !x.r.w.rules.StoreBeforeAck {
		x.r.ack(x.h)
	}
	if !x.flush(x.m.Position()) {
		return superseded
	}
	return ended
}

// done is the announcement of the end.
func (x *execution) done() protocol.Done {
	return protocol.Done{
		V: protocol.Version, Workflow: x.h.instance.Workflow, ID: x.h.instance.ID, Incarnation: x.history.Incarnation,
		Log: x.expected, State: protocol.StateComplete, Finished: x.r.now(), Mark: x.history.Mark, Epoch: x.history.Epoch,
	}
}
