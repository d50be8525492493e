package engine_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

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
	born uint8
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
		log: s.prefix(max(a.tail, a.read), a.blind), born: a.born, read: a.read, done: a.done, now: s.now, wake: a.wake,
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
	h := w.fold(&k.log, a.born, a.tail, false)
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
		case 'R':
			stop, n = c.race(root, i, name, now)
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
		done = done || s.Done && opOf(k) == op && c.world.ends(k)
	}
	return done
}

// race is of an event and a moment. While one of the two has come, the other is not given anything.
func (c *code) race(b *engine.Branch, op int, name string, now time.Time) (stop bool, n next) {
	s, err := c.m.Race(b, name)
	if err != nil {
		panic(err)
	}
	first, second := c.m.Contend(s, b), c.m.Contend(s, b)
	var event, moments *engine.Step
	if c.world.rules.Withhold {
		c.m.Withhold = func(by *engine.Branch) bool {
			return by == first && moments != nil && moments.Done || by == second && event != nil && event.Done
		}
	}
	event, err = c.m.WaitForEvent(first, name+"e", eventType(eventMessage), nil)
	if err != nil && !errors.Is(err, engine.ErrLost) {
		panic(err)
	}
	moments, err = c.m.Sleep(second, name+"z", moment(op))
	if err != nil && !errors.Is(err, engine.ErrLost) {
		panic(err)
	}
	c.m.Deliver(events(&c.key.log, c.h.Incarnation, c.key.read))
	if c.key.read > 0 {
		c.m.Due(now)
	}
	c.m.Join(first)
	c.m.Join(second)
	switch {
	case s.Done:
		c.m.Settle(s)
	case event.Done:
		c.m.Decide(s, engine.Verdict{Winner: 0})
	case moments.Done:
		c.m.Decide(s, engine.Verdict{Winner: 1})
	default:
		return true, next{kind: waitForEvent, op: uint8(op)}
	}
	return false, n
}

// take numbers the append of what there is, 0 if there is nothing.
func (c *code) take() uint16 {
	if !c.m.Buffered() {
		return 0
	}
	entries, _ := c.m.Take()
	return c.world.under(c.h, c.key.wake, entries...)
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
	c.m.Deliver(events(&c.key.log, c.h.Incarnation, c.key.read))
	if c.key.last {
		c.m.Due(now)
	}
	return !s.Done, next{kind: waitForEvent, op: uint8(op)}
}
