package engine_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestParkOfManyWaits: whatever an instance waits for, the entry that says so fits into a message, and every event that
// it waits for wakes it.
func TestParkOfManyWaits(t *testing.T) {
	t.Parallel()
	m := newLog(t).machine()
	root := m.Root()
	group := m.Group(root)
	var types []string
	for n := range 10_000 {
		b := m.Fork(root, group)
		eventType := "answer"
		if n%4 == 0 {
			eventType = fmt.Sprint("answer-", n)
		}
		types = append(types, eventType)
		var err error
		if n%3 == 0 {
			_, err = m.Sleep(b, fmt.Sprint("a sleep with a name of its own ", n), noon.Add(time.Duration(20_000-n)*time.Hour))
			types = types[:len(types)-1]
		} else {
			_, err = m.WaitForEvent(b, fmt.Sprint("a wait with a name of its own ", n), eventType, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	e := m.Park()
	body, err := json.Marshal(e)
	if err != nil || len(body) > 400<<10 {
		t.Fatalf("the entry has %d bytes, %v", len(body), err)
	}
	s := engine.Situate(stream, 7, 8, &protocol.Append{Incarnation: 7, Holder: wake(7), Entries: []protocol.Entry{e}})
	for _, eventType := range types {
		if !engine.Matches(s.Waits, eventType) {
			t.Fatalf("an event of type %q ends no wait", eventType)
		}
	}
	if engine.Matches(s.Waits, "other") || engine.Matches(s.Waits, "") || !s.WaitsForEvents() || s.WaitsForSlot() {
		t.Error("it waits for what it does not")
	}
	if want := noon.Add(10_001 * time.Hour); s.Until == nil || !s.Until.Equal(want) {
		t.Errorf("the first wait ends at %v, want %v", s.Until, want)
	}
	if w := e.Waits[99]; w.Name == "" || w.Count != 1 {
		t.Errorf("the hundredth wait is %+v", w)
	}
}
