package engine_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

var callee = protocol.Callee{Project: "bank", Shard: 1, Workflow: "pay", ID: "p-1"}

// callType is that of the call pay in the instance of newLog.
func callType(epoch int) string { return protocol.CallType(7, epoch, "pay", 1) }

func pay(t *testing.T, m *engine.Machine) *engine.Step {
	t.Helper()
	return must[*engine.Step](t)(m.Call(m.Root(), "pay"))
}

// calling is a log with a call whose child is there.
func calling(t *testing.T) (*steered, *engine.Machine, *engine.Step) {
	t.Helper()
	l := newSteered(t)
	m := l.machine()
	s := pay(t, m)
	m.Calling(s, callee, at(time.Hour))
	l.take(m)
	m.Called(s, 33)
	l.take(m)
	return l, m, s
}

func answerOf(l *log, epoch int, done protocol.Done) engine.Input {
	in := l.input("answer", callType(epoch))
	in.Payload, _ = json.Marshal(done)
	return in
}

// TestCallGoesOn: at whatever point a run ends, the next one goes on with the same child.
func TestCallGoesOn(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	s := pay(t, m)
	if p := m.Parent(s, protocol.Instance{Project: "mail", Workflow: "mail", ID: "a"}); p.Call != callType(0) || p.Incarnation != 7 || p.ID != "a" {
		t.Errorf("the child would know of %+v", p)
	}
	m.Calling(s, callee, at(time.Hour))
	if m.Hard() != 0 || m.Position() != 1 {
		t.Errorf("hard %d, position %d", m.Hard(), m.Position())
	}
	l.take(m)
	h := l.history()
	if e := h.ClaimEntry(l.holder); !e.Lost || len(e.Blamed) != 0 {
		t.Errorf("a lost run in a call is charged to %v", e.Blamed)
	}
	m = l.lost()
	if s = pay(t, m); s.Done || s.Type != "" || s.Callee == nil || *s.Callee != callee || !s.Until.Equal(noon.Add(time.Hour)) {
		t.Fatalf("after the intent: %+v", s)
	}
	if n, _ := m.Waiting(); n != 0 || m.Answered(s) {
		t.Error("the call waits for a child that nobody made")
	}
	m.Called(s, 33)
	l.take(m)
	m = l.lost()
	if s = pay(t, m); s.Type != callType(0) || s.Callee.Incarnation != 33 {
		t.Fatalf("while waiting: %+v", s)
	}
	if n, forEvent := m.Waiting(); n != 1 || !forEvent {
		t.Errorf("%d waits", n)
	}
	m.Deliver([]engine.Input{answerOf(l, 0, protocol.Done{State: protocol.StateComplete, Output: json.RawMessage(`"paid"`)})})
	l.take(m)
	m = l.lost()
	if s = pay(t, m); !s.Done || s.Answer() == nil || string(s.Answer().Output) != `"paid"` || len(m.Orphans()) != 0 {
		t.Errorf("after the answer: %+v", s)
	}
}

// TestAnswerBeforeTheWait: the child may end before its parent says that it made it.
func TestAnswerBeforeTheWait(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	m.Calling(pay(t, m), callee, nil)
	l.take(m)
	in := answerOf(l, 0, protocol.Done{State: protocol.StateDeleted})
	m = l.lost()
	s := pay(t, m)
	m.Deliver([]engine.Input{in})
	if s.Done || !m.Answered(s) {
		t.Fatal("the answer is not seen")
	}
	m.Called(s, 7)
	if done := s.Answer(); done == nil || done.Error == nil {
		t.Errorf("answer %+v, want an error", done)
	}
	l.take(m)
	if s := l.history().Steps[s.Key]; !s.Done || s.Callee == nil || s.Callee.Incarnation != 7 {
		t.Errorf("the log says %+v of the call, and forgets which incarnation of the child it was", s)
	}
}

// TestUntold: a call that ends without its child is remembered until the instance is parked, for the child must be told.
func TestUntold(t *testing.T) {
	t.Parallel()
	want := []engine.Call{{Type: callType(0), Callee: protocol.Callee{Project: "bank", Shard: 1, Workflow: "pay", ID: "p-1", Incarnation: 33}}}
	tests := []struct {
		name string
		end  func(l *steered, m *engine.Machine, s *engine.Step)
	}{
		{"given up", func(l *steered, m *engine.Machine, s *engine.Step) {
			m.Abandon(s.Key)
			m.GiveUpCall(s, &protocol.Failure{Name: protocol.FailureCanceled})
			l.take(m)
		}},
		{"timed out", func(l *steered, m *engine.Machine, s *engine.Step) {
			if ended := m.Due(noon.Add(time.Hour)); !slices.Equal(ended, []protocol.Key{s.Key}) {
				l.t.Errorf("ended %v", ended)
			}
			l.take(m)
		}},
		{"restarted", func(l *steered, _ *engine.Machine, _ *engine.Step) { l.obey(l.action(protocol.ActionRestart)) }},
		{"undone", func(l *steered, _ *engine.Machine, _ *engine.Step) {
			l.obey(l.control(protocol.Control{Action: protocol.ActionTerminate, Rollback: true}))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, m, s := calling(t)
			tt.end(l, m, s)
			h := l.history()
			if !slices.Equal(h.Untold, want) || !slices.Equal(h.Orphans(), want) {
				t.Fatalf("untold %+v, orphans %+v, want %+v", h.Untold, h.Orphans(), want)
			}
			snapshot := must[protocol.Entry](t)(h.Snapshot(nil, l.last))
			l.put(protocol.Append{V: 1, Incarnation: 7, Holder: h.Holder, Time: noon, Mark: h.Mark, Epoch: h.Epoch, Entries: []protocol.Entry{snapshot}})
			if h = l.history(); !slices.Equal(h.Untold, want) {
				t.Errorf("after a snapshot: %+v", h.Untold)
			}
			l.add(protocol.Entry{Kind: protocol.EntryParked})
			if h = l.history(); len(h.Untold) != 0 {
				t.Errorf("after a park: %+v", h.Untold)
			}
		})
	}
}

// TestToldInTheSameRun: what was told needs not be told at the end.
func TestToldInTheSameRun(t *testing.T) {
	t.Parallel()
	_, m, s := calling(t)
	if open := m.Orphans(); len(open) != 1 || open[0].Type != callType(0) {
		t.Fatalf("orphans of an open call: %+v", open)
	}
	m.GiveUpCall(s, &protocol.Failure{Name: protocol.FailureCanceled})
	c, untold := m.Untold(s)
	if !untold || !m.AnyUntold() {
		t.Fatal("the child counts as told")
	}
	m.Told(c)
	if _, untold = m.Untold(s); untold || m.AnyUntold() || len(m.Orphans()) != 0 {
		t.Error("the child does not count as told")
	}
}

// TestFailedCreateHasNoOrphan: an instance of somebody else must not be told to end.
func TestFailedCreateHasNoOrphan(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	s := pay(t, m)
	m.Calling(s, callee, nil)
	l.take(m)
	m.FailCall(s, &protocol.Failure{Name: protocol.FailureExists, Terminal: true})
	l.take(m)
	if h := l.history(); len(h.Orphans()) != 0 {
		t.Errorf("orphans %+v", h.Orphans())
	}
	if s = pay(t, l.machine()); !s.Done || s.Error.Name != protocol.FailureExists {
		t.Errorf("replayed: %+v", s)
	}
}

// TestRestartMakesAnotherCall: a call that a restart makes void begins another child, one that it keeps does not.
func TestRestartMakesAnotherCall(t *testing.T) {
	t.Parallel()
	l, m, _ := calling(t)
	m.Complete(must[*engine.Step](t)(m.Do(m.Root(), "later", protocol.DefaultStep())), nil, noon)
	l.take(m)
	later := do("later")
	l.obey(l.control(protocol.Control{Action: protocol.ActionRestart, From: &later}))
	if s := pay(t, l.machine()); s.Type != callType(0) || s.Callee == nil {
		t.Errorf("a call that was kept: %+v", s)
	}
	l.obey(l.action(protocol.ActionRestart))
	m = l.machine()
	s := pay(t, m)
	if p := m.Parent(s, protocol.Instance{}); s.Callee != nil || s.Type != "" || p.Call != callType(2) {
		t.Errorf("a call that is void: %+v, parent %+v", s, p)
	}
	if l.history().Awaits(7, engine.Call{Type: callType(0)}) {
		t.Error("the void call is awaited")
	}
}
