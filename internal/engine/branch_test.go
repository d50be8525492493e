package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// deed is one thing that a line of calls does.
type deed struct {
	kind  string // call, go, wait
	name  string // of the step called
	group int    // of a go or wait
	line  []deed // of a go
}

func call(name string) deed              { return deed{kind: "call", name: name} }
func spawn(group int, line ...deed) deed { return deed{kind: "go", group: group, line: line} }
func wait(group int) deed                { return deed{kind: "wait", group: group} }
func (d deed) String() string            { return fmt.Sprint(d.kind, " ", d.name, d.group, d.line) }

// branchRun is one interleaving of lines, chosen by a random source.
type branchRun struct {
	m    *engine.Machine
	r    *rand.Rand
	live []*strand
	errs []error
}

// strand is a branch that runs: what is left to do, and its groups.
type strand struct {
	b       *engine.Branch
	todo    []deed
	open    *engine.Step // a body that runs
	groups  map[int]*engine.Step
	members map[int][]*strand
	over    bool
}

func (x *branchRun) begin(b *engine.Branch, line []deed) *strand {
	s := &strand{b: b, todo: line, groups: map[int]*engine.Step{}, members: map[int][]*strand{}}
	// A branch ends after those that it began: whoever leaves its groups alone has made a mistake of another kind.
	for g := range 3 {
		s.todo = append(slices.Clip(s.todo), wait(g))
	}
	x.live = append(x.live, s)
	return s
}

// step lets one strand do one thing; it returns false if the strand must wait.
func (x *branchRun) step(s *strand) bool {
	if s.open != nil {
		x.m.Complete(s.open, nil, noon)
		s.open = nil
		return true
	}
	d := s.todo[0]
	switch d.kind {
	case "call":
		step, err := x.m.Do(s.b, d.name, protocol.StepConfig{})
		if err != nil {
			x.errs = append(x.errs, err)
			break
		}
		x.m.Begin(step, noon)
		s.open = step
	case "go":
		if s.groups[d.group] == nil {
			s.groups[d.group] = x.m.Group(s.b)
		}
		s.members[d.group] = append(s.members[d.group], x.begin(x.m.Fork(s.b, s.groups[d.group]), d.line))
	case "wait":
		if slices.ContainsFunc(s.members[d.group], func(m *strand) bool { return !m.over }) {
			return false
		}
		for _, m := range s.members[d.group] {
			x.m.Join(m.b)
		}
		s.members[d.group] = nil
	}
	s.todo = s.todo[1:]
	return true
}

// interleave runs a line of calls with its branches in a random order and returns the errors.
func interleave(r *rand.Rand, line []deed) []error {
	h := engine.NewHistory(stream, 1, protocol.Create{})
	x := &branchRun{m: engine.NewMachine(h), r: r}
	x.begin(x.m.Root(), line)
	for len(x.live) > 0 {
		i := r.IntN(len(x.live))
		s := x.live[i]
		for range 1 + r.IntN(3) {
			if len(s.todo) == 0 && s.open == nil {
				s.over = true
				x.live = slices.Delete(x.live, i, i+1)
				break
			}
			if !x.step(s) {
				break
			}
		}
	}
	return x.errs
}

func TestNamesOfBranches(t *testing.T) {
	t.Parallel()
	a, b := call("a"), call("b")
	tests := []struct {
		name string
		line []deed
		want error
	}{
		{"one branch, one after the other", []deed{a, a, b, a}, nil},
		{"siblings, names of their own", []deed{spawn(0, a), spawn(0, b), wait(0)}, nil},
		{"siblings", []deed{spawn(0, a), spawn(0, a), wait(0)}, engine.ErrAmbiguous},
		{"siblings deeper", []deed{spawn(0, spawn(0, a), wait(0)), spawn(0, spawn(0, a), wait(0)), wait(0)}, engine.ErrAmbiguous},
		{"parent before the fork", []deed{a, spawn(0, a), wait(0)}, nil},
		{"parent long before the fork", []deed{a, spawn(0, b, spawn(0, a), wait(0)), wait(0)}, nil},
		{"parent between fork and join", []deed{spawn(0, a), a, wait(0)}, engine.ErrAmbiguous},
		{"parent between two forks", []deed{spawn(0, b), a, spawn(0, a), wait(0)}, nil},
		{"parent after the join", []deed{spawn(0, a), wait(0), a}, nil},
		{"parent before and after", []deed{a, spawn(0, a), wait(0), a}, nil},
		{"groups one after the other", []deed{spawn(0, a), wait(0), spawn(1, a), wait(1)}, nil},
		{"groups side by side", []deed{spawn(0, a), spawn(1, a), wait(0), wait(1)}, engine.ErrAmbiguous},
		{"a group that began before the other was joined", []deed{spawn(1, b, a), spawn(0, a), wait(0), wait(1)}, engine.ErrAmbiguous},
		{"after the join of one of two groups", []deed{spawn(1, b), spawn(0, a), wait(0), a, wait(1)}, nil},
		{"a nested group that is joined, and its aunt", []deed{spawn(0, spawn(0, a), wait(0), b), spawn(0, a), wait(0)}, engine.ErrAmbiguous},
		{"a nested group and its own parent", []deed{spawn(0, spawn(0, a), wait(0), a), wait(0), a}, nil},
		{"a nested group and its grandparent meanwhile", []deed{spawn(0, spawn(0, a), wait(0), b), a, wait(0)}, engine.ErrAmbiguous},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(1, 2))
			for range 200 { // whichever branch calls first
				errs := interleave(r, tt.line)
				if tt.want == nil && errs != nil {
					t.Fatalf("errors %v, want none", errs)
				}
				if tt.want != nil && !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, tt.want) }) {
					t.Fatalf("errors %v, want %v", errs, tt.want)
				}
			}
		})
	}
}

// TestNamesOfRandomBranches compares with the order that the lines themselves define.
func TestNamesOfRandomBranches(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	ambiguous := 0
	for range 1500 {
		line := randomLine(r, 3)
		want := sideBySide(line)
		if want {
			ambiguous++
		}
		for range 8 {
			errs := interleave(r, line)
			if (errs != nil) != want {
				t.Fatalf("%v: errors %v, want some: %v", line, errs, want)
			}
			for _, err := range errs {
				wantError(t, err, engine.ErrAmbiguous)
			}
		}
	}
	if ambiguous < 200 || ambiguous > 1300 {
		t.Errorf("%d of 1500 programs are ambiguous: too one-sided to tell anything", ambiguous)
	}
}

func randomLine(r *rand.Rand, depth int) []deed {
	var line []deed
	for range 1 + r.IntN(4) {
		switch k := r.IntN(5); {
		case k < 2:
			line = append(line, call(string(rune('a'+r.IntN(6)))))
		case k == 2:
			line = append(line, wait(r.IntN(2)))
		case depth > 0:
			line = append(line, spawn(r.IntN(2), randomLine(r, depth-1)...))
		}
	}
	return line
}

// sideBySide reports whether two calls of one name have no order. Each thing that happens gets the set of those that
// happen before it: what stands before it in its line, what came before the fork of its line, and the lines joined.
func sideBySide(line []deed) bool {
	var calls []string
	var before [][]bool // of each call, which calls come before
	var walk func(line []deed, past []bool) []bool
	walk = func(line []deed, past []bool) []bool {
		open := map[int][]bool{}
		for g := range 3 {
			line = append(slices.Clip(line), wait(g))
		}
		for _, d := range line {
			switch d.kind {
			case "call":
				calls, before = append(calls, d.name), append(before, past)
				past = union(past, nil, len(calls)-1)
			case "go":
				open[d.group] = union(open[d.group], walk(d.line, past), -1)
			case "wait":
				past = union(past, open[d.group], -1)
			}
		}
		return past
	}
	walk(line, nil)
	knows := func(i, j int) bool { return j < len(before[i]) && before[i][j] }
	for i := range calls {
		for j := range i {
			if calls[i] == calls[j] && !knows(i, j) && !knows(j, i) {
				return true
			}
		}
	}
	return false
}

// union is a new set with the members of both and one more.
func union(a, b []bool, one int) []bool {
	u := make([]bool, max(len(a), len(b), one+1))
	for i := range u {
		u[i] = i < len(a) && a[i] || i < len(b) && b[i] || i == one
	}
	return u
}
