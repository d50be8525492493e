package engine_test

import (
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// run begins a step, or tells that it is done.
func run(t *testing.T, m *engine.Machine, b *engine.Branch, name string, limit int) *engine.Step {
	t.Helper()
	s := must[*engine.Step](t)(m.Do(b, name, protocol.StepConfig{LostRuns: limit, Retries: 99}))
	if !s.Done {
		m.Begin(s, noon)
	}
	return s
}

func TestLostRunBlamesWhatHadStarted(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	root := m.Root()
	if m.StartIsHard() {
		t.Error("a start is hard although nothing was lost")
	}
	m.Complete(run(t, m, root, "done", 9), nil, noon)
	failAttempt(m, run(t, m, root, "retrying", 9), &protocol.Failure{}, noon)
	run(t, m, root, "one", 9)
	run(t, m, root, "two", 9)
	l.take(m)

	e := l.history().ClaimEntry(l.holder)
	if !e.Lost || !slices.Equal(e.Blamed, []protocol.Key{do("one"), do("two")}) {
		t.Fatalf("lost %v, blamed %v, want the two that had started", e.Lost, e.Blamed)
	}
	m = l.lost()
	if !m.StartIsHard() {
		t.Error("after a lost run a start must be durable before its body")
	}
	s := run(t, m, m.Root(), "one", 9)
	if n := s.Attempts[len(s.Attempts)-1].Number; s.LostRuns != 1 || n != 2 {
		t.Errorf("lost runs %d, attempt %d, want 1 and 2", s.LostRuns, n)
	}
	if s := run(t, m, m.Root(), "three", 9); s.LostRuns != 0 {
		t.Error("a step is charged although others are to blame")
	}
	l.take(m)
	for k, want := range map[protocol.Key]int{do("done"): 0, do("retrying"): 0, do("one"): 1, do("two"): 1, do("three"): 0} {
		if got := l.history().Steps[k].LostRuns; got != want {
			t.Errorf("%v has %d lost runs, want %d", k, got, want)
		}
	}
}

// TestLostRunThatBlamesNobody is a body that kills its runner before its start is stored: whatever the next run
// starts before something ends well is charged.
func TestLostRunThatBlamesNobody(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.lost()
	if e := l.history().Runs; len(e) != 2 || !e[0].Lost || e[1].Lost {
		t.Errorf("runs are %+v, want a lost one and another", e)
	}
	root := m.Root()
	one, two := run(t, m, root, "one", 9), run(t, m, root, "two", 9)
	m.Complete(one, nil, noon)
	three := run(t, m, root, "three", 9)
	if one.LostRuns != 1 || two.LostRuns != 1 || three.LostRuns != 0 {
		t.Errorf("lost runs are %d, %d, %d, want 1, 1, 0", one.LostRuns, two.LostRuns, three.LostRuns)
	}
	l.take(m)

	m = l.lost() // two and three are blamed now, and none is charged for it again
	two, three = run(t, m, m.Root(), "two", 9), run(t, m, m.Root(), "three", 9)
	if four := run(t, m, m.Root(), "four", 9); two.LostRuns != 2 || three.LostRuns != 1 || four.LostRuns != 0 {
		t.Errorf("lost runs are %d, %d, %d, want 2, 1, 0", two.LostRuns, three.LostRuns, four.LostRuns)
	}
}

func TestOneLostRunChargesAStepOnce(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.lost()
	s := run(t, m, m.Root(), "x", 1)
	for range 5 { // its body returns, so that it is not what kills runners
		l.take(m)
		failAttempt(m, s, &protocol.Failure{Name: "Boom"}, noon)
		m.Due(noon.Add(time.Hour))
		m.Begin(s, noon)
	}
	l.take(m)
	if got := l.history().Steps[do("x")].LostRuns; s.LostRuns != 1 || got != 1 {
		t.Errorf("lost runs are %d, and %d in the log, want 1", s.LostRuns, got)
	}
}

func TestTooManyLostRuns(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	for i := range 3 {
		if s := run(t, m, m.Root(), "x", 2); s.Done || s.LostRuns != i {
			t.Fatalf("run %d: done %v with %d lost runs", i+1, s.Done, s.LostRuns)
		}
		l.take(m)
		m = l.lost()
	}
	for range 2 { // then replayed
		s := run(t, m, m.Root(), "x", 2)
		if !s.Done || s.Error == nil || s.Error.Name != protocol.FailureLostRuns || !s.Error.Terminal {
			t.Fatalf("done %v with %v, want the failure of too many lost runs", s.Done, s.Error)
		}
		if m.Buffered() {
			if m.Hard() != m.Position() {
				t.Error("the failure need not be durable")
			}
			l.take(m)
		}
		m = l.machine()
	}
}

func TestWhatIsNoLostRun(t *testing.T) {
	t.Parallel()
	started := protocol.Entry{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "x", Count: 1}, Attempt: 1, Started: &noon}
	claimed := func(w protocol.Wake) protocol.Entry { return protocol.Entry{Kind: protocol.EntryClaimed, Wake: &w} }
	parked := protocol.Entry{Kind: protocol.EntryParked}
	released := protocol.Entry{Kind: protocol.EntryReleased}
	tests := []struct {
		name    string
		entries []protocol.Entry
		by      protocol.Wake
		lost    bool
	}{
		{"holder, nothing stored", nil, wake(7), true},
		{"holder, a step started", []protocol.Entry{started}, wake(7), true},
		{"holder after release", []protocol.Entry{started, released}, wake(7), false},
		{"holder after release and another claim", []protocol.Entry{started, released, claimed(wake(7))}, wake(7), true},
		{"holder after its park", []protocol.Entry{started, parked}, wake(7), false},
		{"event after a park", []protocol.Entry{parked}, wake(9), false},
		{"event that holds", []protocol.Entry{parked, claimed(wake(9))}, wake(9), true},
		{"event that holds and parked", []protocol.Entry{parked, claimed(wake(9)), parked}, wake(9), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			for _, e := range tt.entries {
				l.add(e)
			}
			e := l.history().ClaimEntry(tt.by)
			if e.Kind != protocol.EntryClaimed || *e.Wake != tt.by || e.Lost != tt.lost || !e.Lost && e.Blamed != nil {
				t.Fatalf("claim is %s, want one with lost %v", jsonOf(t, e), tt.lost)
			}
			l.add(e)
			h := l.history()
			if h.Phase != engine.Running || h.Holder != tt.by {
				t.Errorf("after the claim: %+v", h.Situation)
			}
			if got := engine.NewMachine(h).StartIsHard(); got != tt.lost {
				t.Errorf("start is hard: %v, want %v", got, tt.lost)
			}
		})
	}
}

func TestReleasedRunBlamesNobody(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	run(t, m, m.Root(), "x", 1)
	m.Record(protocol.Entry{Kind: protocol.EntryReleased})
	l.take(m)
	m = l.lost()
	s := run(t, m, m.Root(), "x", 1)
	if s.LostRuns != 0 || s.Attempts[len(s.Attempts)-1].Number != 2 {
		t.Errorf("lost runs %d, attempt %d, want 0 and 2", s.LostRuns, s.Attempts[len(s.Attempts)-1].Number)
	}
	if runs := l.history().Runs; len(runs) != 2 || runs[0].Lost || runs[1].Lost {
		t.Errorf("runs are %+v, want two, none of them lost", runs)
	}
}
