package engine_test

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Positions in the stream of the instances below: create, an older event, the park, a newer event.
const (
	createAt = 7
	olderAt  = 9
	parkedAt = 12
	newerAt  = 14
)

func timer(sequence, park uint64) engine.Wake {
	return engine.Wake{
		Wake: protocol.Wake{Stream: "TIMERS_mail", Sequence: sequence}, Kind: engine.WakeDue,
		Park: park, Incarnation: createAt, Due: noon,
	}
}

func input(sequence uint64, eventType string) engine.Wake {
	return engine.Wake{Wake: wake(sequence), Kind: engine.WakeEvent, EventType: eventType}
}

func nudged(sequence uint64) engine.Wake {
	return engine.Wake{Wake: wake(sequence), Kind: engine.WakeNudge}
}

func control(sequence uint64) engine.Wake {
	return engine.Wake{Wake: wake(sequence), Kind: engine.WakeControl}
}

// vain is a control that changes nothing.
func vain(sequence uint64) engine.Wake {
	w := control(sequence)
	w.Vain = true
	return w
}

func creation(sequence uint64) engine.Wake {
	return engine.Wake{Wake: wake(sequence), Kind: engine.WakeCreate}
}

// tail is the situation after one append.
func tail(holder protocol.Wake, last protocol.Entry) engine.Situation {
	return engine.Situate(stream, createAt, parkedAt, &protocol.Append{V: protocol.Version, Incarnation: createAt, Holder: holder, Entries: []protocol.Entry{last}})
}

func TestDecide(t *testing.T) {
	t.Parallel()
	forEvent := protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: event("e"), Type: "a"}}, Until: &noon}
	forTime := protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpSleep, Name: "a", Count: 1}}}, Until: &noon}
	running := protocol.Entry{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "x", Count: 1}}
	completed := protocol.Entry{Kind: protocol.EntryCompleted}
	fired := timer(5, parkedAt)
	old := timer(4, olderAt)
	stranger := fired
	stranger.Incarnation = 3
	newer := fired
	newer.Incarnation = newerAt
	forCall := protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: protocol.Key{Op: protocol.OpCall, Name: "c", Count: 1}, Type: "a"}}}
	empty := engine.Situate(stream, createAt, 0, nil)
	foreign := engine.Situate(stream, createAt, parkedAt, &protocol.Append{Incarnation: 3, Entries: []protocol.Entry{completed}})
	tests := []struct {
		name  string
		s     engine.Situation
		w     engine.Wake
		older engine.Older
		want  engine.Action
	}{
		{"no instance", engine.Situation{}, input(olderAt, "a"), 0, engine.Ack},
		{"no instance, its timer", engine.Situation{}, fired, 0, engine.Ack},
		{"older than the create", empty, input(createAt-1, "a"), 0, engine.Ack},
		{"create of an older instance", empty, creation(createAt - 1), 0, engine.Ack},
		{"timer of an older instance", tail(wake(createAt), forTime), stranger, 0, engine.Ack},
		{"timer of a newer instance", tail(wake(createAt), forTime), newer, 0, engine.Ack},
		{"timer of an older instance that runs", tail(stranger.Wake, running), stranger, 0, engine.Ack},

		{"empty log, create", empty, creation(createAt), 0, engine.Start},
		{"empty log, event", empty, input(olderAt, "a"), 0, engine.Poke},
		{"nothing in the log, create", engine.Situate(stream, createAt, parkedAt, &protocol.Append{Incarnation: createAt}), creation(createAt), 0, engine.Start},
		{"only another incarnation in the log, create", foreign, creation(createAt), 0, engine.Start},

		{"running, holder", tail(wake(createAt), running), creation(createAt), 0, engine.Claim},
		{"running, event that holds", tail(wake(olderAt), running), input(olderAt, "a"), 0, engine.Claim},
		{"running, timer that holds", tail(old.Wake, running), old, 0, engine.Claim},
		{"running, another event", tail(wake(createAt), running), input(olderAt, "a"), 0, engine.Poke},
		{"running, create no longer holds", tail(wake(olderAt), running), creation(createAt), 0, engine.Poke},
		{"running, timer", tail(wake(createAt), running), fired, 0, engine.Poke},
		{"running, holder of that sequence in another stream", tail(protocol.Wake{Stream: "TIMERS_mail", Sequence: olderAt}, running), input(olderAt, "a"), 0, engine.Poke},
		{"released, holder", tail(wake(createAt), protocol.Entry{Kind: protocol.EntryReleased}), creation(createAt), 0, engine.Claim},

		{"finished, holder", tail(wake(createAt), completed), creation(createAt), 0, engine.Project},
		{"finished, event", tail(wake(createAt), completed), input(newerAt, "a"), 0, engine.Ack},
		{"finished, timer", tail(wake(createAt), completed), fired, 0, engine.Ack},
		{"failed, holder", tail(wake(createAt), protocol.Entry{Kind: protocol.EntryFailed}), creation(createAt), 0, engine.Project},

		{"parked, holder, inputs not looked at", tail(wake(createAt), forEvent), creation(createAt), engine.OlderUnknown, engine.LookOlder},
		{"parked, holder, an older input", tail(wake(createAt), forEvent), creation(createAt), engine.OlderSome, engine.Claim},
		{"parked, holder, no older input", tail(wake(createAt), forEvent), creation(createAt), engine.OlderNone, engine.Arm},
		{"parked, event that holds", tail(wake(olderAt), forEvent), input(olderAt, "a"), engine.OlderNone, engine.Arm},
		{"parked, timer of the park before that holds", tail(old.Wake, forEvent), old, engine.OlderSome, engine.Claim},
		{"parked for a time, holder", tail(wake(createAt), forTime), creation(createAt), engine.OlderUnknown, engine.Arm},
		{"parked, newer event", tail(wake(createAt), forEvent), input(newerAt, "a"), 0, engine.Claim},
		{"parked, newer event of another type", tail(wake(createAt), forEvent), input(newerAt, "b"), 0, engine.Ack},
		{"parked for a time, newer event of its name", tail(wake(createAt), forTime), input(newerAt, "a"), 0, engine.Ack},
		{"parked for a time, newer event without a type", tail(wake(createAt), forTime), input(newerAt, ""), 0, engine.Ack},
		{"parked for a call, newer event of its type", tail(wake(createAt), forCall), input(newerAt, "a"), 0, engine.Claim},
		{"parked for a call, holder", tail(wake(createAt), forCall), creation(createAt), engine.OlderUnknown, engine.LookOlder},
		{"parked, older event", tail(wake(createAt), forEvent), input(olderAt, "a"), engine.OlderSome, engine.Ack},
		{"parked, create no longer holds", tail(wake(olderAt), forEvent), creation(createAt), engine.OlderSome, engine.Ack},
		{"parked, newer nudge", tail(wake(createAt), forTime), nudged(newerAt), 0, engine.Claim},
		{"parked, older nudge", tail(wake(createAt), forTime), nudged(olderAt), engine.OlderSome, engine.Ack},
		{"parked, older nudge that holds", tail(wake(olderAt), forEvent), nudged(olderAt), engine.OlderNone, engine.Arm},
		{"running, nudge", tail(wake(createAt), running), nudged(newerAt), 0, engine.Poke},
		{"running, nudge that holds", tail(wake(olderAt), running), nudged(olderAt), 0, engine.Claim},
		{"finished, nudge", tail(wake(createAt), completed), nudged(newerAt), 0, engine.Ack},
		{"nudge older than the create", empty, nudged(createAt - 1), 0, engine.Ack},
		{"parked, its timer", tail(wake(createAt), forTime), fired, 0, engine.Claim},
		{"parked, timer of a newer park", tail(wake(createAt), forTime), timer(6, newerAt), 0, engine.Ack},
		{"parked, timer of the park before", tail(wake(createAt), forTime), old, 0, engine.Ack},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := engine.Decide(tt.s, tt.w, tt.older, noon); got != tt.want {
				t.Errorf("decided %v, want %v", got, tt.want)
			}
		})
	}
}

// TestDecideAboutControls: one that is newer than the mark is obeyed, whatever the instance does, and one in vain is like any
// other wake, but on a finished instance.
func TestDecideAboutControls(t *testing.T) {
	t.Parallel()
	const mark = olderAt
	situated := func(kind protocol.EntryKind, holder protocol.Wake) engine.Situation {
		return engine.Situate(stream, createAt, parkedAt, &protocol.Append{
			V: protocol.Version, Incarnation: createAt, Holder: holder, Mark: mark,
			Entries: []protocol.Entry{{Kind: kind, Until: &noon, Waits: []protocol.Wait{{Key: event("e"), Type: "a"}}}},
		})
	}
	kinds := []protocol.EntryKind{protocol.EntryStarted, protocol.EntryParked, protocol.EntryPaused, protocol.EntryHeld, protocol.EntryTerminated, protocol.EntryDeleted}
	for _, tt := range []struct {
		name string
		w    engine.Wake
		want []engine.Action // in the order of kinds
	}{
		{"newer than the mark", control(mark + 1), []engine.Action{engine.Obey, engine.Obey, engine.Obey, engine.Obey, engine.Obey, engine.Obey}},
		{"the newest that counts", control(mark), []engine.Action{engine.Poke, engine.Ack, engine.Ack, engine.Ack, engine.Ack, engine.Ack}},
		{"in vain", vain(newerAt), []engine.Action{engine.Poke, engine.Ack, engine.Ack, engine.Ack, engine.Project, engine.Project}},
		{"in vain, of one that is gone", vain(createAt - 1), []engine.Action{engine.Ack, engine.Ack, engine.Ack, engine.Ack, engine.Ack, engine.Ack}},
		{"an event", input(newerAt, "a"), []engine.Action{engine.Poke, engine.Claim, engine.Ack, engine.Ack, engine.Ack, engine.Ack}},
		{"the holder", input(createAt+1, "b"), []engine.Action{engine.Claim, engine.LookOlder, engine.Ack, engine.Ack, engine.Project, engine.Project}},
		{"its timer", timer(5, parkedAt), []engine.Action{engine.Poke, engine.Claim, engine.Ack, engine.Ack, engine.Ack, engine.Ack}},
		{"a create that was carried", engine.Wake{Wake: wake(newerAt), Kind: engine.WakeCarried}, []engine.Action{engine.Ack, engine.Ack, engine.Ack, engine.Ack, engine.Ack, engine.Ack}},
	} {
		for i, kind := range kinds {
			if got := engine.Decide(situated(kind, wake(createAt+1)), tt.w, engine.OlderUnknown, noon); got != tt.want[i] {
				t.Errorf("%s, %s: decided %v, want %v", kind, tt.name, got, tt.want[i])
			}
		}
	}
	if got := engine.Decide(situated(protocol.EntryParked, wake(mark)), vain(mark), engine.OlderNone, noon); got != engine.Arm {
		t.Errorf("a control that holds a parked instance: decided %v", got)
	}
}

func TestTimerThatFiresEarlyIsKept(t *testing.T) {
	t.Parallel()
	s := tail(wake(createAt), protocol.Entry{Kind: protocol.EntryParked, Until: &noon})
	tests := []struct {
		name string
		now  time.Time
		want engine.Action
	}{
		{"early", noon.Add(-1), engine.Keep},
		{"on time", noon, engine.Claim},
		{"late", noon.Add(time.Hour), engine.Claim},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, w := range []engine.Wake{timer(5, parkedAt), timer(6, parkedAt)} {
				if got := engine.Decide(s, w, engine.OlderUnknown, tt.now); got != tt.want {
					t.Errorf("decided %v, want %v", got, tt.want)
				}
			}
		})
	}
}

func TestActionsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for a := engine.Ack; a <= engine.LookOlder; a++ {
		if s := a.String(); s == "" || seen[s] {
			t.Errorf("action %d is called %q", a, s)
		}
		seen[a.String()] = true
	}
}

func TestWaitsForSlot(t *testing.T) {
	t.Parallel()
	park := func(k protocol.Key) engine.Situation {
		return tail(wake(createAt), protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: k}}})
	}
	if !park(protocol.Key{Op: protocol.OpSlot}).WaitsForSlot() {
		t.Error("a park for a slot does not wait for one")
	}
	if park(event("e")).WaitsForSlot() {
		t.Error("a park for an event waits for a slot")
	}
}
