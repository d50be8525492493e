package sim

import (
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// side is branches that run side by side, of a group or a race, as an execution has them.
type side struct {
	x       *execution
	parent  *line
	step    *engine.Step
	race    bool
	success bool
	lines   []*line // in the order in which they began
	back    []*line // those that have returned, in this order
	settled bool    // the others were told that it is over
}

// fork begins branches.
func (x *execution) fork(l *line, o op) (err error) {
	s := &side{x: x, parent: l, race: o.op == protocol.OpRace, success: o.success}
	if s.race {
		if s.step, err = x.m.Race(l.branch, o.name); err != nil {
			return err
		}
	} else {
		s.step = x.m.Group(l.branch)
	}
	for i, todo := range o.branches {
		b := &line{todo: todo, of: s, index: i, fails: o.fails != nil && o.fails[i]}
		if s.race {
			b.branch = x.m.Contend(s.step, l.branch)
		} else {
			b.branch = x.m.Fork(l.branch, s.step)
		}
		s.lines = append(s.lines, b)
	}
	x.lines, x.sides, l.side = append(x.lines, s.lines...), append(x.sides, s), s
	return nil
}

// whole reports whether all branches have returned.
func (s *side) whole() bool { return len(s.back) == len(s.lines) }

// returns ends a branch.
func (x *execution) returns(l *line) {
	if !x.m.OpenEnd(l.branch) {
		x.m.Exempt(l.branch)
	}
	x.lines = slices.DeleteFunc(x.lines, func(o *line) bool { return o == l })
	l.of.back = append(l.of.back, l)
}

// lose ends what a line does because it was told to.
func (l *line) lose() { l.step, l.todo, l.fails = nil, nil, true }

// told reports whether a line was told that what it does is over.
func (l *line) told() bool {
	for ; l.of != nil; l = l.of.parent {
		if l.of.settled {
			return true
		}
	}
	return false
}

// branch is which of the branches a line is, or is within; nil if none.
func (s *side) branch(l *line) *line {
	for ; l.of != nil; l = l.of.parent {
		if l.of == s {
			return l
		}
	}
	return nil
}

// moves reports whether a branch for which it matters goes on by itself, or soon will: its body was told to stop.
func (s *side) moves(matters func(b *line) bool) bool {
	return slices.ContainsFunc(s.x.lines, func(l *line) bool {
		b := s.branch(l)
		return b != nil && (s.x.able(l) || l.body && l.told()) && matters(b)
	})
}

func anyBranch(*line) bool { return true }

// settle decides what can be decided, and tells those who have lost.
func (x *execution) settle() {
	for again := true; again; {
		again = slices.ContainsFunc(x.sides, func(s *side) bool { return !s.settled && s.look() })
	}
	if len(x.sides) > 0 {
		x.m.Match()
	}
}

// look reports whether it has settled.
func (s *side) look() bool {
	first, failure := s.first()
	switch {
	case s.step.Done:
		w := s.step.Winner
		came := w == nil && s.whole() || w != nil && slices.Contains(s.back, s.lines[*w])
		if !came || s.moves(anyBranch) {
			return false
		}
		s.x.m.Settle(s.step)
		s.x.r.w.crew.saw[map[bool]string{true: "a race decided, seen again", false: "a group failed, seen again"}[s.race]]++
	case first == nil && failure == nil, s.parent.told(), s.x.m.Closed(s.parent.branch):
		return false
	case !s.x.m.Decidable(s.step):
		return false
	case s.race:
		earlier := func(b *line) bool { return first != nil && b.branch.Last() < first.branch.Last() }
		if s.moves(earlier) {
			return false
		}
		v := engine.Verdict{Winner: -1, Failure: failure}
		if first != nil {
			v.Winner, v.Result = first.index, encode(first.index)
		}
		s.x.m.Decide(s.step, v)
		s.x.r.w.crew.saw["race decided"]++
	default:
		s.x.m.FailGroup(s.step, first.index, failure)
		s.x.r.w.crew.saw["group failed"]++
	}
	s.settled = true
	return true
}

// first is the branch that is first, as far as is known, and the failure that it is first with; a failure without a branch is
// that of all.
func (s *side) first() (first *line, failure *protocol.Failure) {
	for _, b := range s.back {
		counts := b.fails == !s.race || s.race && !s.success
		if counts && (first == nil || s.race && b.branch.Last() < first.branch.Last()) {
			first = b
		}
	}
	switch {
	case first != nil && first.fails:
		failure = &protocol.Failure{Name: fmt.Sprint("Branch", first.index)}
	case first == nil && s.race && s.whole():
		failure = &protocol.Failure{Name: protocol.FailureRace}
	}
	return first, failure
}

// withheld reports whether a wait of a branch must not end now, because another one of its race goes on or was first.
func (x *execution) withheld(b *engine.Branch) bool {
	i := slices.IndexFunc(x.lines, func(l *line) bool { return l.branch == b })
	if i < 0 || !x.r.w.rules.Withhold {
		return false
	}
	for l := x.lines[i]; l.of != nil; l = l.of.parent {
		s, mine := l.of, l
		if !s.race || s.settled || s.step.Done {
			continue
		}
		if first, failure := s.first(); first != nil || failure != nil || s.moves(func(o *line) bool { return o != mine }) {
			x.r.w.crew.saw["withheld"]++
			return true
		}
	}
	return false
}

// join ends a group or a race whose branches have returned, and gives the line what came of it.
func (x *execution) join(l *line) {
	s := l.side
	for _, b := range s.lines {
		x.m.Join(b.branch)
		l.answers = append(l.answers, b.answers...)
	}
	x.sides = slices.DeleteFunc(x.sides, func(o *side) bool { return o == s })
	l.side = nil
	first, failure := s.first()
	rules := x.r.w.rules
	switch {
	case s.race && !s.step.Done:
		x.m.Abandon(s.step.Key)
		l.lose()
	case s.step.Done && (s.race && rules.KeepWinner || !s.race && rules.KeepFailed):
		l.got(s.step)
		x.answered = append(x.answered, s.step)
	case s.race || failure != nil && s.step.Done: // what this run says, whatever the log does
		said := *s.step
		said.Error, said.Winner = failure, nil
		if first != nil {
			said.Winner = &first.index
		}
		l.got(&said)
	}
}

// got notes what the code gets.
func (l *line) got(s *engine.Step) {
	l.answers = append(l.answers, fmt.Sprintf("%v: %s", s.Key, answer(s)))
}
