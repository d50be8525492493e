package engine_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// record is an entry about a step, on a branch.
func record(kind protocol.EntryKind, branch string, op protocol.Op, name string) protocol.Entry {
	e := protocol.Entry{Kind: kind, Branch: branch, Step: &protocol.Key{Op: op, Name: name, Count: 1}}
	switch kind {
	case protocol.EntryStarted, protocol.EntryStepCompleted:
		e.Attempt, e.Started = 1, &noon
	case protocol.EntryWaiting:
		e.Until = at(time.Hour)
	}
	return e
}

func completed(branch, name string) protocol.Entry {
	return record(protocol.EntryStepCompleted, branch, protocol.OpDo, name)
}

func started(branch, name string) protocol.Entry {
	return record(protocol.EntryStarted, branch, protocol.OpDo, name)
}

func sleeping(branch, name string) protocol.Entry {
	return record(protocol.EntryWaiting, branch, protocol.OpSleep, name)
}

// TestGate lets code call one step after another on the root branch, as far as it may. What is called is a step, or a
// sleep if its name begins with z. The end is a dot.
func TestGate(t *testing.T) {
	t.Parallel()
	type appends = [][]protocol.Entry
	tests := []struct {
		name    string
		log     appends
		calls   string
		stopped string // the call that may not be made
		missing string // what it waits for
	}{
		{"nothing recorded", nil, "a b .", "", ""},
		{"all called", appends{{completed("", "a")}, {completed("", "b")}}, "a b .", "", ""},
		{"more calls", appends{{completed("", "a"), completed("", "b")}}, "a b c d .", "", ""},
		{"a step is gone", appends{{completed("", "a")}, {completed("", "b")}}, "a .", ".", "b"},
		{"all steps are gone", appends{{completed("", "a")}, {completed("", "b")}}, ".", ".", "a b"},
		{"another step in place of one", appends{{completed("", "a")}, {completed("", "b")}}, "a c b .", "c", "b"},
		{"two swapped", appends{{completed("", "a")}, {completed("", "b")}}, "b a .", "b", "a"},
		{"two swapped, of one append", appends{{completed("", "a"), completed("", "b")}}, "b a .", "b", "a"},
		{"two that overlapped", appends{{started("", "a"), started("", "b")}, {completed("", "a"), completed("", "b")}}, "b a .", "", ""},
		{"the first of three comes last", appends{{completed("", "a")}, {completed("", "b"), completed("", "c")}}, "b c a .", "b", "a"},
		{"one that had begun is gone", appends{{completed("", "a"), started("", "b")}}, "a .", ".", "b"},
		{"one that had begun is another", appends{{completed("", "a"), started("", "b")}}, "a c .", "c", "b"},
		{"one that waits is another", appends{{completed("", "a"), sleeping("", "z")}}, "a zz .", "zz", "z"},
		{"one that had begun was given up", appends{{started("", "a")}, {completed("", "b")}}, "b c .", "", ""},
		{"one that waits was given up", appends{{sleeping("", "z"), completed("", "b")}}, "b c .", "", ""},
		{"one was given up, the next is gone", appends{{started("", "a")}, {started("", "b")}}, "c .", "c", "b"},
		{"a group is gone", appends{{completed("", "a")}, {completed("1.1/", "b"), completed("1.2/", "c")}}, "a d .", "d", "b c"},
		{"a group in a group is gone", appends{{completed("", "a")}, {completed("1.1/2.1/", "b")}}, "a .", ".", "b"},
		{"a step of a group is now called without it", appends{{completed("1.1/", "a"), completed("1.2/", "b")}}, "a b c .", "", ""},
		{"values do not count", appends{{record(protocol.EntryRecorded, "", protocol.OpValue, "now")}, {completed("", "a")}}, "a .", "", ""},
		{"compensations do not count", appends{{completed("", "a")}, {record(protocol.EntryStepCompleted, "", protocol.OpRollback, "a")}}, "a .", "", ""},
		{"accepted", appends{{completed("", "a"), sleeping("", "z")}, {{Kind: protocol.EntryPaused}}, {{Kind: protocol.EntryResumed, Accept: true}}}, "b .", "", ""},
		{"accepted, then another is gone", appends{{completed("", "a")}, {{Kind: protocol.EntryPaused}},
			{{Kind: protocol.EntryResumed, Accept: true}}, {completed("", "b")}}, "c .", "c", "b"},
		{"resumed without accepting", appends{{completed("", "a")}, {{Kind: protocol.EntryPaused}}, {{Kind: protocol.EntryResumed}}}, "b .", "b", "a"},
		{"a name is used once less", appends{{completed("", "a")}, {{Kind: protocol.EntryStepCompleted, Attempt: 1,
			Step: &protocol.Key{Op: protocol.OpDo, Name: "a", Count: 2}}}}, "a .", ".", "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			for _, entries := range tt.log {
				l.add(entries...)
			}
			m := l.machine()
			stopped, missing := callAll(t, m, strings.Fields(tt.calls))
			if stopped != tt.stopped || missing != tt.missing {
				t.Errorf("stopped at %q for want of %q, want %q for want of %q", stopped, missing, tt.stopped, tt.missing)
			}
		})
	}
}

func callAll(t *testing.T, m *engine.Machine, calls []string) (stopped, missing string) {
	t.Helper()
	root := m.Root()
	names := func(d protocol.Divergence) string {
		var all []string
		for _, k := range d.Recorded {
			all = append(all, k.Name)
		}
		return strings.Join(all, " ")
	}
	for _, name := range calls {
		op := protocol.OpDo
		switch {
		case name == "." && !m.OpenEnd(root):
			return name, names(m.Divergence(root, "", ""))
		case name == ".":
			return "", ""
		case name[0] == 'z':
			op = protocol.OpSleep
		}
		if !m.Open(root, op, name) {
			d := m.Divergence(root, op, name)
			if d.Called == nil || *d.Called != (protocol.Key{Op: op, Name: name, Count: 1}) {
				t.Errorf("the divergence names %v as what was called", d.Called)
			}
			return name, names(d)
		}
		if op == protocol.OpSleep {
			must[*engine.Step](t)(m.Sleep(root, name, noon.Add(time.Hour)))
			continue
		}
		if s := must[*engine.Step](t)(m.Do(root, name, protocol.StepConfig{})); !s.Done {
			m.Begin(s, noon)
			m.Complete(s, nil, noon)
		}
	}
	return "", ""
}

// TestGateOpensForOtherGoroutines: two lines of calls of which the engine knows nothing share a branch.
func TestGateOpensForOtherGoroutines(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add(completed("", "a"))
	l.add(completed("", "b"), completed("", "c"))
	m := l.machine()
	root := m.Root()
	closed := func(name string) {
		t.Helper()
		if m.Open(root, protocol.OpDo, name) {
			t.Fatalf("%q may be called", name)
		}
	}
	closed("new")
	closed("b")
	if !m.Open(root, protocol.OpValue, "now") {
		t.Error("a value has to wait")
	}
	must[*engine.Step](t)(m.Do(root, "a", protocol.StepConfig{}))
	closed("new")
	must[*engine.Step](t)(m.Do(root, "b", protocol.StepConfig{}))
	must[*engine.Step](t)(m.Do(root, "c", protocol.StepConfig{}))
	if !m.Open(root, protocol.OpDo, "new") || !m.OpenEnd(root) {
		t.Error("all that is recorded was called, and the gate is closed")
	}
}

// TestGateOfBranches: a branch answers for itself and those within it, the whole for all, and one whose context ended
// for nothing.
func TestGateOfBranches(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add(completed("1.1/", "a"), completed("1.2/", "b"), completed("1.2/1.1/", "c"))
	m := l.machine()
	root := m.Root()
	g := m.Group(root)
	one, two := m.Fork(root, g), m.Fork(root, g)
	open := func(b *engine.Branch) bool { return m.Open(b, protocol.OpDo, "new") && m.OpenEnd(b) }
	must[*engine.Step](t)(m.Do(one, "a", protocol.StepConfig{}))
	if !open(one) || open(two) || open(root) {
		t.Errorf("with one branch through, open are %v, %v and %v", open(one), open(two), open(root))
	}
	if d := m.Divergence(two, "", ""); d.Branch != "1.2/" || !slices.Equal(d.Recorded, []protocol.Key{do("b"), do("c")}) {
		t.Errorf("the branch misses %+v", d)
	}
	m.Exempt(two)
	if !open(two) || !open(root) {
		t.Errorf("with the other exempt, open are %v and %v", open(two), open(root))
	}
}

// TestBranchesAreRecorded: on the first entries of a step, so that the next run knows where it belongs.
func TestBranchesAreRecorded(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	root := m.Root()
	m.Do(root, "before", protocol.StepConfig{})
	b := m.Fork(root, m.Group(root))
	s := must[*engine.Step](t)(m.Do(b, "within", protocol.StepConfig{}))
	m.Begin(s, noon)
	m.Complete(s, nil, noon)
	must[*engine.Step](t)(m.Sleep(b, "nap", noon.Add(time.Hour)))
	m.Value(b, "now", func() json.RawMessage { return nil })
	m.Join(b)
	must[*engine.Step](t)(m.Sleep(root, "after", noon.Add(time.Hour)))
	l.take(m)
	branches := map[string]string{}
	for k, s := range l.history().Steps {
		branches[k.Name] = s.Branch
	}
	for name, want := range map[string]string{"within": "1.1/", "nap": "1.1/", "1.1/now": "", "after": ""} {
		if branches[name] != want {
			t.Errorf("%q is recorded on branch %q, want %q", name, branches[name], want)
		}
	}
}

func TestDivergenceInWords(t *testing.T) {
	t.Parallel()
	many := make([]protocol.Key, protocol.MaxUnreached)
	for i := range many {
		many[i] = do("a")
	}
	nap := protocol.Key{Op: protocol.OpSleep, Name: "nap", Count: 2}
	tests := []struct {
		name string
		d    protocol.Divergence
		why  *protocol.Failure
		want string
	}{
		{"returned", protocol.Divergence{Recorded: []protocol.Key{do("a")}}, nil, `the log holds step "a", but the workflow function returned without`},
		{"returned an error", protocol.Divergence{Recorded: []protocol.Key{do("a")}}, &protocol.Failure{Message: "boom"},
			`the workflow function returned without calling it first (its error: boom). Deploy`},
		{"a long error", protocol.Divergence{Recorded: []protocol.Key{do("a")}}, &protocol.Failure{Message: strings.Repeat("é", 4000)},
			`é…). Deploy`},
		{"no compensation", protocol.Divergence{Recorded: []protocol.Key{{Op: protocol.OpRollback, Name: "a", Count: 1}}}, nil,
			`the log holds the compensation of step "a", and the code has none. Deploy code that has and resume`},
		{"a branch returned", protocol.Divergence{Recorded: many[:5], Branch: "1.1/"}, nil,
			`the log holds step "a", step "a", step "a" and 2 more, but a function of a group returned without`},
		{"the winner of a race called more", protocol.Divergence{Recorded: []protocol.Key{{Op: protocol.OpRace, Name: "r", Count: 1}}, Called: &nap, Branch: "1.1/", Decided: true},
			nil, `the log holds how race "r" ended, but the function that was first called sleep "nap" #2 before it returned`},
		{"the winner of a race is gone", protocol.Divergence{
			Recorded: []protocol.Key{{Op: protocol.OpRace, Name: "r", Count: 1}}, Called: &protocol.Key{Op: protocol.OpRace, Name: "r", Count: 1}, Decided: true,
		}, nil, `how race "r" ended, but the code has not got the function that was first in it`},
		{"called", protocol.Divergence{Recorded: many, Called: &nap}, nil, `step "a" and more, but the code called sleep "nap" #2 without`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := engine.Diverged(tt.d, tt.why)
			if f.Name != protocol.FailureDivergence || !strings.Contains(f.Message, tt.want) || !strings.Contains(f.Message, "resume") {
				t.Errorf("%s: %s", f.Name, f.Message)
			}
		})
	}
}
