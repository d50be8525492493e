package engine_test

import (
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

func event(name string) protocol.Key {
	return protocol.Key{Op: protocol.OpEvent, Name: name, Count: 1}
}

func waitFor(t *testing.T, m *engine.Machine, name, eventType string, until *time.Time) *engine.Step {
	t.Helper()
	return must[*engine.Step](t)(m.WaitForEvent(m.Root(), name, eventType, until))
}

// took tells the sequence of the event that ended a wait, 0 if none did.
func took(s *engine.Step) uint64 {
	if s.Received == nil {
		return 0
	}
	return s.Received.Input
}

func TestEventsOfATypeComeInOrder(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	a1, b1, a2, a3 := l.input("1", "a"), l.input("2", "b"), l.input("3", "a"), l.input("4", "a")
	m := l.machine()
	x := waitFor(t, m, "x", "a", nil)
	if ended := m.Deliver([]engine.Input{a1, b1, a2}); !slices.Equal(ended, []protocol.Key{event("x")}) {
		t.Fatalf("ended %v, want x", ended)
	}
	y := waitFor(t, m, "y", "a", nil)
	z := waitFor(t, m, "z", "a", nil)
	m.Deliver([]engine.Input{a2, a3})
	if took(x) != a1.Sequence || took(y) != a2.Sequence || took(z) != a3.Sequence {
		t.Errorf("x, y, z took %d, %d, %d, want %d, %d, %d", took(x), took(y), took(z), a1.Sequence, a2.Sequence, a3.Sequence)
	}
	if b := waitFor(t, m, "b", "b", nil); took(b) != b1.Sequence {
		t.Errorf("b took %d, want the event that waited for it", took(b))
	}
	if m.Seen() != a3.Sequence {
		t.Errorf("seen up to %d, want %d", m.Seen(), a3.Sequence)
	}
}

func TestWaitsOfOneTypeTakeTurns(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	x, other, y := waitFor(t, m, "x", "a", nil), waitFor(t, m, "other", "b", nil), waitFor(t, m, "y", "a", nil)
	first, second := l.input("1", "a"), l.input("2", "a")
	if ended := m.Deliver([]engine.Input{first}); !slices.Equal(ended, []protocol.Key{event("x")}) || y.Done || other.Done {
		t.Fatalf("ended %v, want the oldest wait for the type", ended)
	}
	if ended := m.Deliver([]engine.Input{first, second}); !slices.Equal(ended, []protocol.Key{event("y")}) || took(x) != first.Sequence {
		t.Fatalf("ended %v, x took %d", ended, took(x))
	}
	if other.Done {
		t.Error("a wait ended with an event of another type")
	}
}

// TestConsumptionIsRecordedWithTheResult cannot be told apart in two messages: one entry says both.
func TestConsumptionIsRecordedWithTheResult(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	waitFor(t, m, "x", "a", nil)
	in := l.input("1", "a")
	m.Deliver([]engine.Input{in})
	if m.Hard() != m.Position() {
		t.Error("an event taken must be durable before the next effect")
	}
	entries, _ := m.Take()
	wantKinds(t, entries, protocol.EntryReceived)
	if e := entries[0]; e.Input != in.Sequence || e.InputID != in.ID || string(e.Result) != string(in.Payload) || *e.Step != event("x") || e.Type != "a" || !e.Sent.Equal(in.Sent) {
		t.Fatalf("entry is %s", jsonOf(t, e))
	}
	l.add(entries...)
	h := l.history()
	if !h.Consumed[in.Sequence] || !h.ConsumedIDs[in.ID] {
		t.Error("the log does not tell that the event is consumed")
	}
	m = engine.NewMachine(h)
	if x := waitFor(t, m, "x", "a", nil); took(x) != in.Sequence || string(x.Result) != string(in.Payload) {
		t.Errorf("replayed, x took %d", took(x))
	}
	y := waitFor(t, m, "y", "a", nil)
	if m.Deliver([]engine.Input{in}); y.Done {
		t.Error("an event is taken twice")
	}
}

func TestVoidInputs(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	before := engine.Input{Sequence: l.create - 1, ID: "0", Type: "a"}
	m := l.machine()
	waitFor(t, m, "x", "a", nil)
	in := l.input("1", "a")
	m.Deliver([]engine.Input{in})
	l.take(m)
	tests := []struct {
		name   string
		inputs []engine.Input
		taken  uint64
	}{
		{"for an instance that had the id before", []engine.Input{before}, 0},
		{"consumed", []engine.Input{in}, 0},
		{"a consumed one repeated", []engine.Input{{Sequence: 50, ID: "1", Type: "a"}}, 0},
		{"a consumed one repeated as another type", []engine.Input{{Sequence: 50, ID: "1", Type: "b"}, {Sequence: 51, ID: "1", Type: "a"}}, 0},
		{"a repetition of one not consumed", []engine.Input{{Sequence: 50, ID: "2", Type: "b"}, {Sequence: 51, ID: "2", Type: "a"}}, 0},
		{"the first of two", []engine.Input{{Sequence: 50, ID: "2", Type: "a"}, {Sequence: 51, ID: "2", Type: "a"}}, 50},
		{"void ones first", []engine.Input{before, in, {Sequence: 50, ID: "1", Type: "a"}, {Sequence: 51, ID: "3", Type: "a"}}, 51},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := l.machine()
			waitFor(t, m, "x", "a", nil)
			y, z := waitFor(t, m, "y", "a", nil), waitFor(t, m, "z", "a", nil)
			wouldTake := m.WouldTake(1000, []protocol.Wait{{Key: event("y"), Type: "a"}}, tt.inputs)
			m.Deliver(tt.inputs)
			if took(y) != tt.taken || z.Done {
				t.Errorf("took %d and %d, want %d and nothing", took(y), took(z), tt.taken)
			}
			if wouldTake != (tt.taken != 0) {
				t.Errorf("WouldTake says %v of inputs that a wait takes: %v", wouldTake, tt.taken != 0)
			}
		})
	}
}

func TestWouldTakeLooksAtOlderInputsOnly(t *testing.T) {
	t.Parallel()
	waits := []protocol.Wait{
		{Key: event("x"), Type: "a"},
		{Key: protocol.Key{Op: protocol.OpSleep, Name: "nap", Count: 1}, Type: "b"},
	}
	tests := []struct {
		name  string
		input engine.Input
		want  bool
	}{
		{"older", engine.Input{Sequence: 19, ID: "1", Type: "a"}, true},
		{"newer", engine.Input{Sequence: 21, ID: "1", Type: "a"}, false},
		{"another type", engine.Input{Sequence: 19, ID: "1", Type: "c"}, false},
		{"what waits is a sleep", engine.Input{Sequence: 19, ID: "1", Type: "b"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := newLog(t).machine().WouldTake(20, waits, []engine.Input{tt.input}); got != tt.want {
				t.Errorf("WouldTake is %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTimedOutWaitTakesNothingLater(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	x := waitFor(t, m, "x", "a", at(time.Hour))
	if m.EventDue(noon) || !m.EventDue(*at(time.Hour)) {
		t.Error("EventDue does not tell whether a wait would time out")
	}
	if ended := m.Due(*at(time.Hour)); !slices.Equal(ended, []protocol.Key{event("x")}) || x.Error == nil || x.Error.Name != protocol.FailureTimeout {
		t.Fatalf("ended %v with %v, want a timeout", ended, x.Error)
	}
	late := l.input("1", "a")
	if ended := m.Deliver([]engine.Input{late}); ended != nil || x.Received != nil {
		t.Fatal("a wait that has timed out takes an event")
	}
	l.take(m)
	m = l.machine()
	x = waitFor(t, m, "x", "a", at(9*time.Hour))
	m.Deliver([]engine.Input{late})
	if x.Received != nil || x.Error == nil || x.Error.Name != protocol.FailureTimeout {
		t.Fatalf("replayed: received %v, error %v", x.Received, x.Error)
	}
	if y := waitFor(t, m, "y", "a", nil); took(y) != late.Sequence {
		t.Error("the next wait does not get the event")
	}
}

func TestRecordedEndOfAWaitCounts(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	waitFor(t, m, "x", "a", at(time.Hour))
	waitFor(t, m, "never", "a", nil)
	l.take(m)
	m = l.machine()
	x, never := waitFor(t, m, "x", "b", nil), waitFor(t, m, "never", "b", at(time.Minute))
	if x.Type != "a" || x.Until == nil || !x.Until.Equal(*at(time.Hour)) || never.Until != nil || m.Buffered() {
		t.Errorf("x waits for %q until %v, never until %v, buffered %v", x.Type, x.Until, never.Until, m.Buffered())
	}
}

func TestAbandonedWaitTakesNothing(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	x := waitFor(t, m, "x", "a", nil)
	m.Abandon(x.Key)
	in := l.input("1", "a")
	if ended := m.Deliver([]engine.Input{in}); ended != nil || x.Done {
		t.Fatal("a wait that was given up takes an event")
	}
	if n, _ := m.Waiting(); n != 0 {
		t.Errorf("%d things are waited for", n)
	}
	if y := must[*engine.Step](t)(m.WaitForEvent(m.Root(), "y", "a", nil)); took(y) != in.Sequence {
		t.Error("the event is gone")
	}
}
