package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// ErrLost is returned by a call of a branch that has lost a race. It counts as not made, unless it is recorded.
var ErrLost = errors.New("another function of the race was first")

// Verdict is how a race ended.
type Verdict struct {
	// Winner is the index of the branch that was first, −1 if none was.
	Winner int
	// Result is what it returned, Object where that is if it is too large for a message, Failure is set if it failed.
	Result  json.RawMessage
	Object  *protocol.Object
	Failure *protocol.Failure
}

// Race is called for a race. If the step that it returns is not done, the race is to be run; if it is, its branches run
// only to come to the point at which they stood.
func (m *Machine) Race(b *Branch, name string) (*Step, error) {
	s, err := m.call(b, protocol.OpRace, name)
	if err != nil {
		return nil, err
	}
	if group := m.nextGroup(b); s.Within == "" {
		s.Within = fmt.Sprintf("%s%d.", b.path, group)
		m.soft(protocol.Entry{Kind: protocol.EntryStarted, Step: &s.Key, Within: s.Within})
	}
	return s, nil
}

// Contend begins the branch of a race that has an index, counted from 0 and in order.
func (m *Machine) Contend(race *Step, parent *Branch) *Branch {
	m.tick++
	m.forked = true
	index := len(race.contenders)
	b := &Branch{
		parent: parent, path: fmt.Sprintf("%s%d/", race.Within, index+1), born: m.tick, race: race, index: index,
	}
	race.contenders = append(race.contenders, b)
	return b
}

// Last is the number of the newest outcome that the branch, or one within it, was given. Of two branches of a race that
// return, the one with the lower is first: code between steps counts as taking no time.
func (b *Branch) Last() int { return b.last }

func (b *Branch) reach(outcome int) {
	for x := b; x != nil; x = x.parent {
		x.last = max(x.last, outcome)
	}
}

// Decidable reports whether a race may be decided, or a group fail, in the order of what is recorded: its branches have
// called all that they had called before.
func (m *Machine) Decidable(race *Step) bool {
	return !slices.ContainsFunc(race.contenders, func(b *Branch) bool { return !m.OpenEnd(b) })
}

// Decide records how a race ended, and with it which calls of its branches are given up. From now on the race is closed:
// its branches call nothing more.
func (m *Machine) Decide(race *Step, v Verdict) {
	e := protocol.Entry{Kind: protocol.EntryStepCompleted, Step: &race.Key, Result: v.Result, Object: v.Object, Error: v.Failure}
	if v.Failure != nil {
		e.Kind = protocol.EntryStepFailed
	}
	if v.Winner >= 0 {
		e.Winner = &v.Winner
	}
	for _, s := range race.calls {
		if !s.Done {
			m.forgo(s)
			e.GivenUp = append(e.GivenUp, s.Key)
		}
		if s.Config != nil && s.Config.Sensitive { // what it returned may be in what the race did
			e.Config = &protocol.StepConfig{Sensitive: true}
		}
	}
	race.decided(&e)
	m.keep(race)
	m.outcome(race)
	m.put(e)
	m.land(race.Key)
	race.settled, race.calls = true, nil
}

// forgo gives up a call of a branch that has lost. The log must name it: the next run calls it again.
func (m *Machine) forgo(s *Step) {
	if s.First == 0 && !s.told {
		m.soft(protocol.Entry{Kind: protocol.EntryWaiting, Step: &s.Key})
	}
	s.giveUp()
	m.pending = slices.DeleteFunc(m.pending, func(p *Step) bool { return p == s })
	m.land(s.Key)
}

// giveUp notes that nobody waits for the outcome of a step.
func (s *Step) giveUp() {
	s.Lost = true
	if n := len(s.Attempts); n > 0 {
		s.Attempts[n-1].Open = false
	}
}

// decided notes how a race ended.
func (s *Step) decided(e *protocol.Entry) {
	s.finish(e.Result, e.Error)
	s.Object, s.Winner, s.Config = e.Object, e.Winner, e.Config
}

// decided folds the entry that ends a race.
func (h *History) decided(s *Step, e *protocol.Entry) {
	s.decided(e)
	for _, k := range e.GivenUp {
		if lost := h.step(k); !lost.Done {
			lost.giveUp()
		}
	}
}

// Settle lets the branches of a race end that was decided by an earlier run, or of a group that failed then: the first one
// has returned, and the others have come as far as they will.
func (m *Machine) Settle(race *Step) { race.settled = true }

// Overtaken reports whether a race was decided, or a group failed, while the call of one of its branches had no outcome.
func (s *Step) Overtaken() bool { return s.Lost && !s.Done }

// GivenUp is Overtaken by the name of the call.
func (m *Machine) GivenUp(k protocol.Key) bool {
	s := m.h.Steps[k]
	return s != nil && s.Overtaken()
}

// closed is the innermost race that was decided without the branch, or in which it has returned, or group that has failed:
// it calls nothing but what is recorded. Nil if there is none.
func (b *Branch) closed() *Step {
	for x := b; x != nil; x = x.parent {
		if x.race != nil && x.race.Done && !(x.race.Accepted && !x.race.settled && x.won()) {
			return x.race
		}
	}
	return nil
}

// won reports whether the race of a branch was decided for it.
func (b *Branch) won() bool { return b.race.Winner != nil && *b.race.Winner == b.index }

// recordedIn is the step that the next call of a name is about, if a branch of the race has called it before.
func (m *Machine) recordedIn(race *Step, op protocol.Op, name string) *Step {
	s := m.h.Steps[m.next(op, name)]
	if s == nil || op != protocol.OpValue && !strings.HasPrefix(s.Branch, race.Within) {
		return nil
	}
	return s
}

// answered reports whether a call within a closed race is one that the log answers. A race within it is gone through.
func (m *Machine) answered(race *Step, op protocol.Op, name string) bool {
	s := m.recordedIn(race, op, name)
	return s != nil && (s.Done || op == protocol.OpRace)
}

// Contradicts reports whether a branch is in one that has won a race, and has not returned in this run: it must come to
// its end by what is recorded alone.
func (m *Machine) Contradicts(b *Branch) bool {
	for x := b; x != nil; x = x.parent {
		if x.race != nil && x.race.Done {
			return !x.race.settled && x.won()
		}
	}
	return false
}

// races gives the beginnings of the paths of all branches of each race, or group, that a path is within.
func races(path string, yield func(within string)) {
	for i := range len(path) {
		if path[i] == '.' {
			yield(path[:i+1])
		}
	}
}

// voidFrom is where what a restart makes void begins in the order of steps; −1: it knows no such step. A race of which it
// makes a part void begins again from its start.
func (h *History) voidFrom(from *protocol.Key) int {
	if from == nil {
		return 0
	}
	at := slices.Index(h.Order, *from)
	if at < 0 {
		return at
	}
	within := map[string]bool{}
	for i := len(h.Order) - 1; i >= 0; i-- {
		s := h.Steps[h.Order[i]]
		if i < at && s.Op == protocol.OpRace && within[s.Within] {
			for _, k := range h.Order[i:at] {
				note(within, h.Steps[k])
			}
			at = i
		}
		if i >= at {
			note(within, s)
		}
	}
	return at
}

// note marks the races that a step is within.
func note(within map[string]bool, s *Step) {
	path := s.Branch
	if s.Op == protocol.OpValue {
		path = s.Name
	}
	races(path, func(w string) { within[w] = true })
}
