package engine_test

import (
	"encoding/json"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestFold: the newest snapshot is all that is fetched, and what came before it is not needed.
func TestFold(t *testing.T) {
	t.Parallel()
	const incarnation = 7
	create := protocol.Create{Workflow: "w", ID: "a"}
	step := func(name string) protocol.Append {
		return protocol.Append{V: 1, Incarnation: incarnation, Entries: []protocol.Entry{
			{Kind: protocol.EntryStepCompleted, Step: &protocol.Key{Op: protocol.OpDo, Name: name, Count: 1}},
		}}
	}
	stored := map[string]json.RawMessage{}
	snapshot := func(object string, of ...protocol.Append) protocol.Append {
		h := engine.NewHistory("S", incarnation, create)
		for n, a := range of {
			if err := h.Apply(uint64(incarnation+1+n), &a); err != nil {
				t.Fatal(err)
			}
		}
		e, err := h.Snapshot(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if object != "" {
			stored[object] = e.Snapshot.History
			if err := h.PutOut(e.Snapshot, &protocol.Object{Name: object}); err != nil {
				t.Fatal(err)
			}
		}
		return protocol.Append{V: 1, Incarnation: incarnation, Entries: []protocol.Entry{e}}
	}
	a, b, c := step("a"), step("b"), step("c")
	foreign := snapshot("foreign", a)
	foreign.Incarnation++
	for _, row := range []struct {
		name    string
		log     []protocol.Append
		fetched string
		steps   int
	}{
		{"none", []protocol.Append{a, b}, "", 2},
		{"in the message", []protocol.Append{snapshot("", a), b}, "", 2},
		{"in an object", []protocol.Append{snapshot("of two", a, b), c}, "of two", 3},
		{"after what it stands for", []protocol.Append{a, b, snapshot("of two", a, b)}, "of two", 2},
		{"superseded by an object", []protocol.Append{snapshot("gone", a), b, snapshot("of two", a, b), c}, "of two", 3},
		{"superseded by a message", []protocol.Append{snapshot("gone", a), b, snapshot("", a, b), c}, "", 3},
		{"superseded twice", []protocol.Append{snapshot("gone", a), snapshot("gone", a), snapshot("one", a)}, "one", 1},
		{"of another incarnation", []protocol.Append{a, foreign, b}, "", 2},
		{"of another incarnation, behind its own", []protocol.Append{snapshot("one", a), foreign, b}, "one", 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := engine.NewHistory("S", incarnation, create)
			f := engine.Fold{History: h}
			for n, a := range row.log {
				if err := f.Add(uint64(20+n), &a); err != nil {
					t.Fatal(err)
				}
			}
			fetched := ""
			err := f.End(func(s *protocol.Snapshot) error {
				fetched += s.Object.Name
				engine.PutIn(s, stored[s.Object.Name])
				return nil
			})
			if err != nil || fetched != row.fetched || len(h.Steps) != row.steps || h.Tail != uint64(19+len(row.log)) {
				t.Errorf("%v: fetched %q, %d steps, tail %d; want %q, %d", err, fetched, len(h.Steps), h.Tail, row.fetched, row.steps)
			}
		})
	}
}
