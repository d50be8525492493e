package runner

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestSlotOfADeadRunner: a runner that dies right after an instance has parked, was held or has ended leaves its slot
// there. Whoever gets the wake gives it back.
func TestSlotOfADeadRunner(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	for _, row := range []struct {
		name string
		last protocol.Entry
	}{
		{"parked", protocol.Entry{Kind: protocol.EntryParked, Until: &later, Waits: []protocol.Wait{
			{Key: protocol.Key{Op: protocol.OpSleep, Name: "nap", Count: 1}, Until: &later},
		}}},
		{"held", protocol.Entry{Kind: protocol.EntryHeld, Divergence: &protocol.Divergence{}}},
		{"failed", protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "Error", Message: "no"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			runner := r.runner(func(c *Config) { c.Concurrency = map[string]int{"w": 1} })
			i := protocol.Instance{Project: "p", Workflow: "w", ID: "a"}
			created, err := r.store.Append(t.Context(), i.Stream(), i.CreateSubject(), 0, []byte(`{"v":1,"input":"1"}`))
			if err != nil {
				t.Fatal(err)
			}
			limit := runner.limited("w")
			if ok, err := limit.Take(t.Context(), i, created, 0); !ok || err != nil {
				t.Fatalf("take a slot: %v, %v", ok, err)
			}
			h := &held{Wake: engine.Wake{Wake: protocol.Wake{Stream: i.Stream(), Sequence: created}}, instance: i, again: true}
			body, err := json.Marshal(protocol.Append{
				V: 1, ID: "x", Incarnation: created, Holder: h.Wake.Wake, Runner: "dead", Time: time.Now(), Entries: []protocol.Entry{row.last},
			})
			if err == nil {
				_, err = r.store.Append(t.Context(), i.Stream(), i.LogSubject(), 0, body)
			}
			if err != nil {
				t.Fatal(err)
			}
			runner.decideFromLeader(t.Context(), h)
			runner.work.Wait()
			next := protocol.Instance{Project: "p", Workflow: "w", ID: "b"}
			if ok, err := limit.Take(t.Context(), next, created+100, 0); !ok || err != nil {
				t.Errorf("the next instance gets no slot: %v, %v", ok, err)
			}
			if !h.end {
				t.Error("the wake was not acked")
			}
		})
	}
}

// TestSlotOfOneThatIsAboutToClaim: a runner that begins leaves the slot alone that another has taken for an instance whose
// park is over, and takes the one that a dead runner left with a park.
func TestSlotOfOneThatIsAboutToClaim(t *testing.T) {
	t.Parallel()
	r := setup(t)
	runner := r.runner(func(c *Config) { c.Concurrency = map[string]int{"waits": 2} })
	limit := runner.limited("waits")
	park := func(id string, slotAt func(tail uint64) uint64) {
		i := protocol.Instance{Project: "p", Workflow: "waits", ID: id}
		created, err := r.store.Append(t.Context(), i.Stream(), i.CreateSubject(), 0, []byte(`{"v":1,"input":"1"}`))
		if err != nil {
			t.Fatal(err)
		}
		wake := protocol.Wake{Stream: i.Stream(), Sequence: created}
		body, err := json.Marshal(protocol.Append{
			V: 1, ID: "x", Incarnation: created, Holder: wake, Runner: "other", Time: time.Now(), Entries: []protocol.Entry{
				{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpEvent, Name: "e", Count: 1}, Type: "e"}}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		tail, err := r.store.Append(t.Context(), i.Stream(), i.LogSubject(), 0, body)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := limit.Take(t.Context(), i, created, slotAt(tail)); !ok || err != nil {
			t.Fatalf("take a slot: %v, %v", ok, err)
		}
	}
	park("about-to-claim", func(tail uint64) uint64 { return tail })
	park("left-behind", func(uint64) uint64 { return 0 })
	if err := runner.checkSlots(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, free := range []bool{true, false} {
		next := protocol.Instance{Project: "p", Workflow: "waits", ID: "next-" + string(rune('a'+n))}
		if ok, err := limit.Take(t.Context(), next, uint64(100+n), 0); ok != free || err != nil {
			t.Errorf("%s gets a slot: %v, %v, want %v", next.ID, ok, err, free)
		}
	}
}
