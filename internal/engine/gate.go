package engine

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// gates know, line by line, which recorded steps the code of this run has not called yet. What was not recorded may only
// happen after them: else it would stand in the log in an order in which the code can never have come.
type gates struct {
	lines map[string]*line
}

// line is what is known of a branch. Branches go by their paths: those of another run are the same.
type line struct {
	// missing counts the recorded steps that were not called, those of branches that began on this one included.
	missing int
	// ended are those of these recorded steps that have an outcome, in the order of the outcomes. The first called of
	// them were called.
	ended  []*Step
	called int
}

// gated reports whether the order of calls of such steps counts. Values and groups have no names that code gives them, and
// what code reports decides about nothing: it may report something else tomorrow.
func gated(op protocol.Op) bool {
	return !unnamed(op) && op != protocol.OpRollback && op != protocol.OpSlot
}

// unnamed reports whether code gives such steps no names: a status leaves them out.
func unnamed(op protocol.Op) bool {
	return op == protocol.OpValue || op == protocol.OpReport || op == protocol.OpGroup
}

func newGates(h *History) *gates {
	g := &gates{lines: map[string]*line{"": {}}}
	if len(h.Order) == 0 {
		return g
	}
	last, outcomes := map[string]*Step{}, map[string]int{} // by branch: the newest step, and the newest outcome
	for _, k := range h.Order {
		if s := h.Steps[k]; gated(k.Op) {
			last[s.Branch] = s
			outcomes[s.Branch] = max(outcomes[s.Branch], s.Nth)
		}
	}
	ended := map[string][]*Step{}
	for _, k := range h.Order {
		s := h.Steps[k]
		s.missing = false
		switch {
		case !gated(k.Op) || s.Accepted || (s.Lost || s.GaveUp != nil) && !s.Done:
			continue
		case s.Done:
			for path := range within(s.Branch) {
				ended[path] = append(ended[path], s)
			}
		case last[s.Branch] != s || outcomes[s.Branch] > s.Behind:
			continue // its branch went on without its outcome: it was given up, and need not be called again
		}
		s.missing = true
		for path := range within(s.Branch) {
			g.line(path).missing++
		}
	}
	for path, steps := range ended {
		slices.SortFunc(steps, func(a, b *Step) int { return cmp.Compare(a.Nth, b.Nth) })
		g.line(path).ended = steps
	}
	return g
}

func (g *gates) line(path string) *line {
	l := g.lines[path]
	if l == nil {
		l = &line{}
		g.lines[path] = l
	}
	return l
}

// within gives the path of a branch and of those it is part of, the root's last.
func within(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for yield(path) && path != "" {
			path = path[:strings.LastIndexByte(path[:len(path)-1], '/')+1]
		}
	}
}

// arrive notes that a recorded step was called, or need not be any more.
func (g *gates) arrive(s *Step) {
	if !s.missing {
		return
	}
	s.missing = false
	for path := range within(s.Branch) {
		l := g.lines[path]
		l.missing--
		for l.called < len(l.ended) && !l.ended[l.called].missing {
			l.called++
		}
	}
}

// before is the number of the oldest outcome, on a branch and those within it, whose step was not called.
func (g *gates) before(path string) int {
	if l := g.lines[path]; l != nil && l.called < len(l.ended) {
		return l.ended[l.called].Nth
	}
	return math.MaxInt
}

// gate is asked for before anything else about a run: the history holds then what was recorded before it.
func (m *Machine) gate() *gates {
	if m.gates == nil {
		m.gates = newGates(m.h)
	}
	return m.gates
}

// next is the step that the next call of this name is about.
func (m *Machine) next(op protocol.Op, name string) protocol.Key {
	k := protocol.Key{Op: op, Name: name, Count: 1}
	if use := m.names[nameKey{op, name}]; use != nil {
		k.Count += use.count
	}
	return k
}

// Open reports whether a call may be made now, in the order of what is recorded: a recorded one if those were called that
// had ended, on its branch and those within it, before it was made; any other if all that these recorded were called.
// A call that may not be made waits: another goroutine on the branch may make the missing ones. Within a race that an
// earlier run decided, a call that the log does not answer waits until the race is settled: who wins does not get to it.
func (m *Machine) Open(b *Branch, op protocol.Op, name string) bool {
	if !gated(op) {
		return true
	}
	if race := b.closed(); race != nil && !m.answered(race, op, name) {
		return race.settled
	}
	g := m.gate()
	if g.lines[""].missing == 0 {
		return true
	}
	if s := m.h.Steps[m.next(op, name)]; s != nil {
		return s.Accepted || s.Behind < g.before(s.Branch)
	}
	return m.OpenEnd(b)
}

// Shut reports whether a call must wait until a race is settled that the branch is in.
func (m *Machine) Shut(b *Branch, op protocol.Op, name string) bool {
	race := b.closed()
	return race != nil && !race.settled && !m.answered(race, op, name)
}

// OpenEnd reports whether a branch may end: all that it and those within it recorded were called.
func (m *Machine) OpenEnd(b *Branch) bool {
	l := m.gate().lines[b.path]
	return l == nil || l.missing == 0
}

// Missing is how many recorded steps were not called.
func (m *Machine) Missing() int { return m.gate().lines[""].missing }

// Exempt lets a branch end without calling all that is recorded of it: its context has ended.
func (m *Machine) Exempt(b *Branch) {
	if m.OpenEnd(b) {
		return
	}
	for _, k := range m.h.Order {
		if s := m.h.Steps[k]; s.missing && strings.HasPrefix(s.Branch, b.path) {
			m.gates.arrive(s)
		}
	}
}

// Winnerless says that the code has no function any more that was first in a race.
func (m *Machine) Winnerless(b *Branch, race *Step) protocol.Divergence {
	return protocol.Divergence{Recorded: []protocol.Key{race.Key}, Called: &race.Key, Branch: b.path, Decided: true}
}

// Divergence says what is recorded and was not called before a call of the branch, or before its end if there is no
// call.
func (m *Machine) Divergence(b *Branch, op protocol.Op, name string) protocol.Divergence {
	d := protocol.Divergence{Branch: b.path}
	if op != "" && m.Shut(b, op, name) {
		k := m.next(op, name)
		d.Recorded, d.Called, d.Decided = []protocol.Key{b.closed().Key}, &k, true
		return d
	}
	precedes := func(s *Step) bool { return strings.HasPrefix(s.Branch, b.path) }
	if op != "" {
		k := m.next(op, name)
		d.Called = &k
		if called := m.h.Steps[k]; called != nil {
			precedes = func(s *Step) bool {
				return strings.HasPrefix(s.Branch, called.Branch) && s.Done && s.Nth <= called.Behind
			}
		}
	}
	for _, k := range m.h.Order {
		if s := m.h.Steps[k]; s.missing && precedes(s) && len(d.Recorded) < protocol.MaxUnreached {
			d.Recorded = append(d.Recorded, k)
		}
	}
	return d
}
