package engine_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestClone: whatever becomes of one history, its clone stays as it was, and what is folded over it comes to the same.
func TestClone(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 10))
		x := &life{t: t, r: r, log: newLog(t), now: noon, program: randomChores(r, 2, ""), recorded: map[protocol.Key]string{}}
		x.live()
		x.m.Finish(nil, nil)
		x.cut()
		s := &steered{log: x.log}
		whole := s.stored
		s.stored = whole[:r.IntN(len(whole))]
		first := s.history()
		clone, again := first.Clone(), s.history()
		if d := difference("", reflect.ValueOf(*first), reflect.ValueOf(*clone)); d != "" {
			t.Fatalf("seed %d: a clone is another: %s", seed, d)
		}
		changes(first, r)
		if d := difference("", reflect.ValueOf(*again), reflect.ValueOf(*clone)); d != "" {
			t.Fatalf("seed %d: a run has changed the clone: %s", seed, d)
		}
		for _, m := range whole[len(s.stored):] {
			var a protocol.Append
			if err := errors.Join(json.Unmarshal(m.body, &a), clone.Apply(m.sequence, &a)); err != nil {
				t.Fatal(err)
			}
		}
		s.stored = whole
		if d := difference("", reflect.ValueOf(*s.history()), reflect.ValueOf(*clone)); d != "" {
			t.Fatalf("seed %d: folded over a clone it is another: %s", seed, d)
		}
	}
}

// changes does to a history what a run does: it calls what is recorded and more, ends what is open, takes events.
func changes(h *engine.History, r *rand.Rand) {
	for _, run := range h.Runs[:r.IntN(len(h.Runs)+1)] {
		_ = h.Apply(1<<40, &protocol.Append{V: 1, Incarnation: h.Incarnation, Holder: run.Wake, Entries: []protocol.Entry{h.ClaimEntry(run.Wake)}})
	}
	m := engine.NewMachine(h)
	root := m.Root()
	for _, k := range append(slices.Clone(h.Order), protocol.Key{Op: protocol.OpDo, Name: "new", Count: 1}) {
		switch k.Op {
		case protocol.OpDo:
			s, err := m.Do(root, k.Name, protocol.DefaultStep())
			if err != nil || s.Done {
				continue
			}
			m.Begin(s, noon)
			if r.IntN(2) == 0 {
				m.FailAttempt(s, &protocol.Failure{Name: "Boom"}, noon, time.Minute)
			} else {
				m.Complete(s, json.RawMessage(`"changed"`), noon)
			}
		case protocol.OpEvent:
			_, _ = m.WaitForEvent(root, k.Name, "a", nil)
		case protocol.OpSleep:
			_, _ = m.Sleep(root, k.Name, noon)
		}
	}
	_, _ = m.WaitForEvent(root, "new", "new", nil)
	m.Deliver([]engine.Input{{Sequence: 1 << 40, ID: "new", Type: "new", Payload: json.RawMessage(`1`)}})
	m.Due(noon.Add(time.Hour))
	m.RollBack(&protocol.Failure{Name: "Boom"})
	if _, undo, _ := m.Undo(); undo != nil && !undo.Done {
		m.Begin(undo, noon)
	}
	_ = h.Apply(1<<41, &protocol.Append{V: 1, Incarnation: h.Incarnation, Entries: []protocol.Entry{{Kind: protocol.EntryRestarted}}})
	_ = m.Park()
}

// TestCloneOfAGroup: a group that fails after the clone was made gives up there, too, what it had begun before.
func TestCloneOfAGroup(t *testing.T) {
	t.Parallel()
	nap := protocol.Key{Op: protocol.OpSleep, Name: "nap", Count: 1}
	h := engine.NewHistory("S", 1, protocol.Create{})
	apply := func(h *engine.History, sequence uint64, e protocol.Entry) {
		t.Helper()
		if err := h.Apply(sequence, &protocol.Append{V: 1, Incarnation: 1, Entries: []protocol.Entry{e}}); err != nil {
			t.Fatal(err)
		}
	}
	apply(h, 2, protocol.Entry{Kind: protocol.EntryWaiting, Step: &nap, Until: new(noon), Branch: "1.2/"})
	clone := h.Clone()
	apply(clone, 3, protocol.Entry{
		Kind: protocol.EntryGroupFailed, Step: &protocol.Key{Op: protocol.OpGroup, Name: "1.", Count: 1}, Winner: new(0),
		Error: &protocol.Failure{Name: "Error", Message: "sold out"},
	})
	if !clone.Steps[nap].Lost || h.Steps[nap].Lost {
		t.Errorf("given up in the clone: %v, want true; in what it was made of: %v", clone.Steps[nap].Lost, h.Steps[nap].Lost)
	}
}
