package engine_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// steered is an instance with controls on its stream.
type steered struct {
	*log
	controls []engine.Control
}

// control stores a control.
func (s *steered) control(c protocol.Control) engine.Control {
	s.last++
	if c.Input == "" {
		c.Input = fmt.Sprint("c", s.last)
	}
	s.controls = append(s.controls, engine.Control{Sequence: s.last, Stored: noon, Control: c})
	return s.controls[len(s.controls)-1]
}

func (s *steered) action(a protocol.Action) engine.Control {
	return s.control(protocol.Control{Action: a})
}

// obey applies all controls up to c, and reports whether that changed something.
func (s *steered) obey(c engine.Control) bool {
	s.t.Helper()
	h := s.history()
	entries, epoch, _ := h.Obey(wake(c.Sequence), s.controls, noon)
	if len(entries) == 0 {
		return false
	}
	s.holder = wake(c.Sequence)
	s.put(protocol.Append{
		V: protocol.Version, Incarnation: s.create, Holder: s.holder, Time: noon, Entries: entries, Mark: c.Sequence, Epoch: epoch,
	})
	return true
}

func newSteered(t *testing.T) *steered { return &steered{log: newLog(t)} }

// TestObeyedOneByOne: what controls make of an instance does not depend on how many of them are looked at together.
func TestObeyedOneByOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		all := newSteered(t)
		m := all.machine()
		for i := range 3 {
			m.Complete(must[*engine.Step](t)(m.Do(m.Root(), fmt.Sprint(i), protocol.DefaultStep())), nil, noon)
			all.take(m)
		}
		if r.IntN(3) == 0 {
			all.add(protocol.Entry{Kind: protocol.EntryCompleted})
		}
		for range 2 + r.IntN(5) {
			all.control(randomControl(r))
		}
		some := &steered{log: new(*all.log), controls: all.controls}
		some.stored = slices.Clone(all.stored)
		all.obey(all.controls[len(all.controls)-1])
		for i, c := range some.controls {
			if i == len(some.controls)-1 || r.IntN(2) == 0 {
				some.obey(c)
			}
		}
		if a, b := outcome(all.history()), outcome(some.history()); a != b {
			t.Errorf("seed %d: together:\n%s\none by one:\n%s\ncontrols: %+v", seed, a, b, all.controls)
		}
	}
}

func randomControl(r *rand.Rand) protocol.Control {
	c := protocol.Control{Input: fmt.Sprint(r.IntN(12))}
	switch r.IntN(12) {
	case 0, 1, 2:
		c.Action = protocol.ActionPause
	case 3, 4, 5:
		c.Action = protocol.ActionResume
	case 6:
		c.Action, c.Rollback = protocol.ActionTerminate, r.IntN(2) == 0
	case 7:
		c.Action = protocol.ActionRestart
	case 8, 9, 10:
		c.Action = protocol.ActionRestart
		c.From = new(do(fmt.Sprint(r.IntN(4))))
	case 11:
		c.Action = protocol.ActionDelete
	}
	return c
}

func outcome(h *engine.History) string {
	return fmt.Sprintf("%v %q epoch %d, steps %v, rolling: %t, events from %d, obeyed %v",
		h.Phase, h.End, h.Epoch, h.Order, h.Rolling != nil, h.EventsFrom, slices.Sorted(maps.Keys(h.Obeyed)))
}

// TestResumeIsNotTooLate: a resume counts although the pause before it is obeyed after it was sent.
func TestResumeIsNotTooLate(t *testing.T) {
	t.Parallel()
	s := newSteered(t)
	pause, resume := s.action(protocol.ActionPause), s.action(protocol.ActionResume)
	s.obey(pause)
	if s.history().Phase != engine.Paused || !s.obey(resume) || s.history().Phase != engine.Running {
		t.Errorf("the instance is %v", s.history().Phase)
	}
}

// TestHeldAfterTheResume: who resumes did not mean what the code held later.
func TestHeldAfterTheResume(t *testing.T) {
	t.Parallel()
	s := newSteered(t)
	early := s.action(protocol.ActionResume)
	s.add(protocol.Entry{Kind: protocol.EntryHeld, Divergence: &protocol.Divergence{}})
	if s.obey(early) {
		t.Error("an older resume lets go on what the code holds")
	}
	if !s.obey(s.action(protocol.ActionResume)) || s.history().State() != protocol.StateRunning {
		t.Error("a newer resume does not")
	}
}

// TestEventsAfterARestart: what is sent after the control is for the new run, though that begins later.
func TestEventsAfterARestart(t *testing.T) {
	t.Parallel()
	s := newSteered(t)
	before := s.input("a", "x")
	restart := s.action(protocol.ActionRestart)
	after := s.input("b", "x")
	s.obey(restart)
	m := s.machine()
	step := waitFor(t, m, "wait", "x", nil)
	m.Deliver([]engine.Input{before, after})
	if !step.Done || took(step) != after.Sequence {
		t.Errorf("the wait took event %d, want %d", took(step), after.Sequence)
	}
}

// TestEventsTakenAfterARestart: who asks for a restart and then sends an event means the new run, although the old one
// does not know yet and takes it.
func TestEventsTakenAfterARestart(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]*protocol.Key{"of everything": nil, "from a step": {Op: protocol.OpEvent, Name: "first", Count: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSteered(t)
			var sent []engine.Input
			waits := func(names ...string) (taken []uint64) {
				m := s.machine()
				for _, n := range names {
					step := waitFor(t, m, n, "x", nil)
					m.Deliver(sent)
					taken = append(taken, took(step))
				}
				if m.Buffered() {
					s.take(m)
				}
				return taken
			}
			before := s.input("a", "x")
			sent = append(sent, before)
			waits("first")
			restart := s.control(protocol.Control{Action: protocol.ActionRestart, From: from})
			after := s.input("b", "x")
			sent = append(sent, after)
			if taken := waits("first", "second"); !slices.Equal(taken, []uint64{before.Sequence, after.Sequence}) {
				t.Fatalf("the old run took %v", taken)
			}
			s.obey(restart)
			if taken := waits("first"); !slices.Equal(taken, []uint64{after.Sequence}) {
				t.Errorf("the new run took %v, want %d", taken, after.Sequence)
			}
			if taken := waits("first", "second"); taken[1] != 0 {
				t.Errorf("event %d was taken twice", taken[1])
			}
		})
	}
}

// TestRepeatedControls: an id counts once, also if what came first under it was in vain.
func TestRepeatedControls(t *testing.T) {
	t.Parallel()
	s := newSteered(t)
	vain := s.control(protocol.Control{Input: "a", Action: protocol.ActionResume})
	if s.obey(vain) {
		t.Error("a resume of what runs changes something")
	}
	s.obey(s.action(protocol.ActionPause))
	if s.obey(s.control(protocol.Control{Input: "a", Action: protocol.ActionResume})) {
		t.Error("the repetition of a resume in vain resumes")
	}
	if !s.obey(s.action(protocol.ActionResume)) {
		t.Error("another resume does not")
	}
}

// TestCompact: a compact asks for one snapshot. What comes later and changes nothing asks for none.
func TestCompact(t *testing.T) {
	t.Parallel()
	s := newSteered(t)
	if _, _, asked := s.history().Obey(wake(8), []engine.Control{s.action(protocol.ActionCompact)}, noon); asked {
		t.Error("a compact of nothing asks for a snapshot: who begins then would look like a lost run")
	}
	s.add(protocol.Entry{Kind: protocol.EntryReleased})
	compact, vain := s.action(protocol.ActionCompact), s.action(protocol.ActionResume)
	for _, tt := range []struct {
		c    engine.Control
		want bool
	}{{compact, true}, {vain, false}, {s.action(protocol.ActionCompact), true}} {
		entries, _, asked := s.history().Obey(wake(tt.c.Sequence), s.controls, noon)
		if len(entries) > 0 || asked != tt.want {
			t.Errorf("%s at %d asks for a snapshot: %t", tt.c.Action, tt.c.Sequence, asked)
		}
	}
}

// TestExpiredStaysAsItIs: a control comes too late if the instance had expired when it was stored, whatever the time is
// when it is looked at. It can still be deleted; who deletes only what has expired, deletes nothing else.
func TestExpiredStaysAsItIs(t *testing.T) {
	t.Parallel()
	restart := protocol.Control{Action: protocol.ActionRestart}
	remove := protocol.Control{Action: protocol.ActionDelete}
	removeExpired := protocol.Control{Action: protocol.ActionDelete, Expired: true}
	end := protocol.Entry{Kind: protocol.EntryCompleted, Expires: at(time.Hour)}
	for _, tt := range []struct {
		name    string
		last    protocol.Entry
		after   time.Duration
		control protocol.Control
		want    bool
	}{
		{"restart in time", end, time.Hour - 1, restart, true},
		{"restart too late", end, time.Hour, restart, false},
		{"delete in time", end, time.Hour - 1, remove, true},
		{"delete what has expired", end, time.Hour, remove, true},
		{"delete too early what shall have expired", end, time.Hour - 1, removeExpired, false},
		{"delete only what has expired", end, time.Hour, removeExpired, true},
		{"delete only what has expired, of what never does", protocol.Entry{Kind: protocol.EntryCompleted}, time.Hour, removeExpired, false},
		{"delete only what has expired, of what began again", protocol.Entry{Kind: protocol.EntryRestarted}, time.Hour, removeExpired, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSteered(t)
			s.add(end, tt.last)
			c := s.control(tt.control)
			s.controls[0].Stored = noon.Add(tt.after)
			if s.obey(c) != tt.want {
				t.Errorf("it is obeyed: %t", !tt.want)
			}
		})
	}
}

// TestGoOnOverSnapshots: who was executing goes on over snapshots of exactly what it knows, with the events that the
// stream may not hold any more.
func TestGoOnOverSnapshots(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	in := l.input("a", "x")
	m := l.machine()
	m.Complete(must[*engine.Step](t)(m.Do(m.Root(), "s", protocol.DefaultStep())), nil, noon)
	expected := l.take(m)
	mine := l.history()

	snapshot := func(h *engine.History, inputs []engine.Input) uint64 {
		return l.add(must[protocol.Entry](t)(h.Snapshot(inputs, l.last)))
	}
	snapshot(l.history(), []engine.Input{in})
	h := l.history()
	second := snapshot(h, h.Carried)
	tail := func() *protocol.Append {
		var a protocol.Append
		if err := json.Unmarshal(l.stored[len(l.stored)-1].body, &a); err != nil {
			t.Fatal(err)
		}
		return &a
	}
	m = engine.NewMachine(mine)
	m.Deliver([]engine.Input{{Sequence: 1000, ID: "b", Type: "x"}})
	if ok, err := mine.GoOn(expected, second, tail()); !ok || err != nil {
		t.Fatalf("does not go on over two snapshots: %v", err)
	}
	if len(mine.Carried) != 1 || mine.Carried[0].ID != "a" || mine.CarriedTo == 0 {
		t.Errorf("carried are %v up to %d", mine.Carried, mine.CarriedTo)
	}
	third := snapshot(l.history(), mine.Carried)
	if ok, err := mine.GoOn(second, third, tail()); !ok || err != nil {
		t.Errorf("does not go on over one more: %v", err)
	}
	if !m.WouldTake(third, []protocol.Wait{{Key: event("wait"), Type: "x"}}, nil) {
		t.Error("a park would not see what is carried")
	}
	if step := waitFor(t, m, "wait", "x", nil); took(step) != in.Sequence {
		t.Errorf("the wait took %d, want what is carried", took(step))
	}
	if ok, _ := l.history().GoOn(expected-1, third, tail()); ok {
		t.Error("goes on over a snapshot of more than it knows")
	}
	claimed := l.add(protocol.Entry{Kind: protocol.EntryClaimed, Wake: new(wake(7))})
	if ok, _ := mine.GoOn(third, claimed, tail()); ok {
		t.Error("goes on over a claim")
	}
}

// TestSnapshotOfAPurgedLog: a snapshot stands for what was cleaned away, though some of what it stands for is left.
func TestSnapshotOfAPurgedLog(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	for i := range 3 {
		m.Complete(must[*engine.Step](t)(m.Do(m.Root(), fmt.Sprint(i), protocol.DefaultStep())), nil, noon)
		l.take(m)
	}
	l.add(must[protocol.Entry](t)(l.history().Snapshot(nil, l.last)))
	l.add(protocol.Entry{Kind: protocol.EntryClaimed, Wake: new(wake(7)), Lost: true})
	whole := outcome(l.history())
	for cut := 1; cut < 4; cut++ {
		l := *l
		l.stored = l.stored[cut:]
		if got := outcome(l.history()); got != whole {
			t.Errorf("without the first %d messages: %s, want %s", cut, got, whole)
		}
	}
}

// TestDoneIsAboutOneIncarnation: what a delete leaves to be purged ends with the entry that says so, although the log
// goes on with another instance of the same id.
func TestDoneIsAboutOneIncarnation(t *testing.T) {
	t.Parallel()
	s := newSteered(t)
	s.obey(s.action(protocol.ActionDelete))
	deleted := s.last
	s.put(protocol.Append{V: protocol.Version, Incarnation: deleted + 1, Entries: []protocol.Entry{{Kind: protocol.EntryReleased}}})
	if d, ok := s.history().Done(); !ok || d.Log != deleted {
		t.Errorf("the end is at %d, want %d", d.Log, deleted)
	}
}
