package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// world is one setting of the model, and what it remembers of what the engine said.
type world struct {
	program string // of ops: S step, E wait for an event, T the same with an end, Z sleep
	rules   rules
	limits  budget

	appends []protocol.Append // by the numbers that log messages have
	numbers map[string]uint16
	views   map[prefix]*view
	next    map[runKey]next
	stable  map[stableKey]bool
}

func newWorld(program string, limits budget, r rules) *world {
	return &world{
		program: program, limits: limits, rules: r, appends: make([]protocol.Append, 1), numbers: map[string]uint16{},
		views: map[prefix]*view{}, next: map[runKey]next{}, stable: map[stableKey]bool{},
	}
}

// number gives an append with these entries a number. It goes through JSON like the real ones.
func (w *world) number(holder wakeID, entries ...protocol.Entry) uint16 {
	if !w.rules.ClaimNamesWake {
		holder = 1
	}
	body, err := json.Marshal(protocol.Append{
		V: protocol.Version, Incarnation: 1, Holder: holder.name(), Time: noon, Entries: entries,
	})
	if err != nil {
		panic(err)
	}
	if n, ok := w.numbers[string(body)]; ok {
		return n
	}
	var a protocol.Append
	if err := json.Unmarshal(body, &a); err != nil {
		panic(err)
	}
	n := uint16(len(w.appends))
	w.appends, w.numbers[string(body)] = append(w.appends, a), n
	return n
}

// fold reads the log up to a sequence.
func (w *world) fold(messages *prefix, upTo uint8) *engine.History {
	h := engine.NewHistory(stream, 1, protocol.Create{Workflow: "mail", ID: "a"})
	for i := uint8(2); i <= upTo; i++ {
		if messages[i].kind != logMessage {
			continue
		}
		a := w.appends[messages[i].what]
		if err := h.Apply(uint64(i), &a); err != nil {
			panic(err)
		}
	}
	return h
}

// inputs lists the events up to a sequence.
func inputs(messages *prefix, upTo uint8) []engine.Input {
	var all []engine.Input
	for i := uint8(2); i <= upTo; i++ {
		m := messages[i]
		if m.kind == eventMessage || m.kind == strangeMessage {
			all = append(all, engine.Input{Sequence: uint64(i), ID: fmt.Sprint(m.what), Type: eventType(m.kind)})
		}
	}
	return all
}

func eventType(kind uint8) string {
	if kind == eventMessage {
		return "wanted"
	}
	return "strange"
}

// view is what a prefix of the stream says.
type view struct {
	situation engine.Situation
	done      uint8        // ops that have an outcome, as a set
	consumed  uint16       // events, as a set
	older     engine.Older // whether an input older than the park would end a wait
	any       engine.Older // whether any input would
	released  bool         // the newest run gave the instance back
	wrong     string       // what the newest message of the log must not have said
}

// prefix cuts the stream and leaves out what only appenders look at.
func (s *state) prefix(upTo uint8) prefix {
	var p prefix
	for i := uint8(1); i <= upTo; i++ {
		p[i] = message{kind: s.messages[i].kind, what: s.messages[i].what}
	}
	return p
}

// view reads a prefix of the stream.
func (w *world) view(s *state, upTo uint8) *view {
	k := s.prefix(upTo)
	if v := w.views[k]; v != nil {
		return v
	}
	h := w.fold(&k, upTo)
	v := &view{older: engine.OlderNone, any: engine.OlderNone, released: h.Released()}
	tail := s.tail(upTo)
	var newest *protocol.Append
	if tail > 0 {
		newest = &w.appends[s.messages[tail].what]
	}
	v.situation = engine.Situate(stream, 1, uint64(tail), newest)
	for _, step := range h.Steps {
		if step.Done {
			v.done |= 1 << opOf(step.Key)
		}
		if step.Received != nil {
			v.consumed |= 1 << step.Received.Input
		}
	}
	if m := engine.NewMachine(h); h.Phase == engine.Parked {
		all := inputs(&k, upTo)
		if m.WouldTake(h.Park, h.Waits, all) {
			v.older = engine.OlderSome
		}
		if m.WouldTake(maxMessages+1, h.Waits, all) {
			v.any = engine.OlderSome
		}
	}
	if upTo > 0 && tail == upTo {
		v.wrong = wrong(w.fold(&k, upTo-1), newest)
	}
	w.views[k] = v
	return v
}

func opOf(k protocol.Key) int { return int(k.Name[0] - '0') }

// wrong tells what an append must not say over a log.
func wrong(h *engine.History, a *protocol.Append) string {
	if h.Phase == engine.Finished {
		return "an entry after the end"
	}
	for _, e := range a.Entries {
		switch e.Kind {
		case protocol.EntryStepCompleted, protocol.EntrySlept, protocol.EntryTimedOut, protocol.EntryReceived:
			if s := h.Steps[*e.Step]; s != nil && s.Done {
				return fmt.Sprintf("%v has two outcomes", *e.Step)
			}
		}
		if e.Kind == protocol.EntryReceived && (h.Consumed[e.Input] || h.ConsumedIDs[e.InputID]) {
			return fmt.Sprintf("event %d is consumed twice", e.Input)
		}
	}
	return ""
}

// next is what workflow code does next: run the body of a step, at once or after an append, wait, sleep, or end.
type next struct {
	kind nextKind
	op   uint8
	what uint16
}

type nextKind uint8

const (
	runBody nextKind = iota
	appendFirst
	waitForEvent
	goToSleep
	finish
)

type runKey struct {
	log  prefix // the log of this run, and the inputs read
	read uint8
	done uint8
	now  uint8
	wake wakeID
	last bool // no newer input is there
	mode mode
}

// mode says what becomes of the code when it needs the outer world.
type mode uint8

const (
	goOn    mode = iota
	inform       // its body runs meanwhile: only what informs is appended
	release      // the runner shuts down: no body begins, what is there is appended
)

// run lets the code go on over the log up to its own tail, the inputs it has read and the bodies that ended, until it
// needs the outer world.
func (w *world) run(s *state, a *activation, mode mode) next {
	k := runKey{
		log: s.prefix(max(a.tail, a.read)), read: a.read, done: a.done, now: s.now, wake: a.wake,
		last: a.read >= s.newestInput(), mode: mode,
	}
	for i := uint8(2); i < uint8(len(k.log)); i++ {
		known := a.read
		if k.log[i].kind == logMessage {
			known = a.tail
		}
		if i > known {
			k.log[i] = message{}
		}
	}
	if n, ok := w.next[k]; ok {
		return n
	}
	h := w.fold(&k.log, a.tail)
	c := &code{world: w, key: k, h: h, m: engine.NewMachine(h)}
	n := c.run(clock(s.now))
	if mode == release {
		c.m.Record(protocol.Entry{Kind: protocol.EntryReleased})
	}
	if mode != goOn || n.kind != runBody {
		n.what = c.take()
	}
	w.next[k] = n
	return n
}

// code is one run of the program over a machine, from the top.
type code struct {
	world *world
	key   runKey
	h     *engine.History
	m     *engine.Machine
}

func (c *code) run(now time.Time) next {
	root := c.m.Root()
	for i, op := range c.world.program {
		stop, n := false, next{}
		if c.key.mode == release && !c.ended(i) {
			return n // the code stops at its first call that is not answered
		}
		switch name := fmt.Sprint(i); op {
		case 'S':
			stop, n = c.step(root, i, name)
		case 'E', 'T':
			stop, n = c.event(root, i, name, op == 'T', now)
		case 'Z':
			s, err := c.m.Sleep(root, name, moment(i))
			c.m.Due(now)
			stop, n = err != nil || !s.Done, next{kind: goToSleep, op: uint8(i)}
		}
		if !stop {
			continue
		}
		if c.key.mode == goOn && (n.kind == goToSleep || n.kind == waitForEvent) {
			c.m.Park()
		}
		return n
	}
	if c.key.mode == goOn {
		c.m.Finish(nil, nil)
	}
	return next{kind: finish}
}

// ended reports whether the log has the outcome of an op, or its body has ended.
func (c *code) ended(op int) bool {
	done := c.key.done&(1<<op) != 0
	for k, s := range c.h.Steps {
		done = done || s.Done && opOf(k) == op
	}
	return done
}

// take numbers the append of what there is, 0 if there is nothing.
func (c *code) take() uint16 {
	if !c.m.Buffered() {
		return 0
	}
	entries, _ := c.m.Take()
	return c.world.number(c.key.wake, entries...)
}

// step runs a step as the execution does: its start is told, and what must be durable before its body is appended.
func (c *code) step(b *engine.Branch, op int, name string) (stop bool, n next) {
	s, err := c.m.Do(b, name, protocol.StepConfig{LostRuns: 100})
	if err != nil {
		panic(err)
	}
	if s.Done {
		return false, n
	}
	if k := len(s.Attempts); k == 0 || !s.Attempts[k-1].Open { // else this run has told the start
		c.m.Begin(s, noon)
	}
	if c.key.done&(1<<op) != 0 {
		c.m.Complete(s, nil, noon)
		return false, n
	}
	need := c.m.Hard()
	if c.m.StartIsHard() {
		need = c.m.Position()
	}
	if need == 0 || !c.world.rules.StoreBeforeBody {
		return true, next{kind: runBody, op: uint8(op)}
	}
	return true, next{kind: appendFirst, op: uint8(op)}
}

// event waits for an event. A wait times out only if no input is there that was not read.
func (c *code) event(b *engine.Branch, op int, name string, ends bool, now time.Time) (stop bool, n next) {
	var until *time.Time
	if ends {
		end := moment(op)
		until = &end
	}
	s, err := c.m.WaitForEvent(b, name, eventType(eventMessage), until)
	if err != nil {
		panic(err)
	}
	c.m.Deliver(inputs(&c.key.log, c.key.read))
	if c.key.last {
		c.m.Due(now)
	}
	return !s.Done, next{kind: waitForEvent, op: uint8(op)}
}

// describe lists the kinds of entries of an append.
func (w *world) describe(what uint16) string {
	var names []string
	for _, e := range w.appends[what].Entries {
		n := string(e.Kind)
		if e.Step != nil {
			n += " " + e.Step.Name
		}
		if e.Wake != nil {
			n += " " + e.Wake.String()
		}
		names = append(names, n)
	}
	return "[" + strings.Join(names, ", ") + "]"
}
