package engine_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestNewerLogsAreLeftAlone(t *testing.T) {
	t.Parallel()
	key := do("x")
	tests := []struct {
		name   string
		append protocol.Append
	}{
		{"version", protocol.Append{V: protocol.Version + 1, Incarnation: 7}},
		{"version, of another incarnation", protocol.Append{V: protocol.Version + 1, Incarnation: 3}},
		{"kind", protocol.Append{V: protocol.Version, Incarnation: 7, Entries: []protocol.Entry{{Kind: "of the future"}}}},
		{"kind that is about a step", protocol.Append{V: protocol.Version, Incarnation: 7, Entries: []protocol.Entry{{Kind: "skipped", Step: &key}}}},
		{"kind behind known ones", protocol.Append{V: protocol.Version, Incarnation: 7, Entries: []protocol.Entry{{Kind: protocol.EntryReleased}, {Kind: "of the future"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			l.put(tt.append)
			_, err := l.fold()
			wantError(t, err, engine.ErrNewer)
		})
	}
}

func TestAnotherIncarnationIsVoid(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	key := do("x")
	at := l.put(protocol.Append{V: protocol.Version, Incarnation: 3, Holder: wake(3), Entries: []protocol.Entry{
		{Kind: protocol.EntryStepCompleted, Step: &key, Attempt: 1}, {Kind: protocol.EntryCompleted},
	}})
	h := l.history()
	if h.Phase != engine.Running || h.Holder != wake(7) || len(h.Steps) != 0 || len(h.Runs) != 0 || h.Ended != (time.Time{}) {
		t.Errorf("another incarnation counts: %+v", h)
	}
	if h.Tail != at {
		t.Errorf("tail is %d, want %d: what is appended next stands behind it", h.Tail, at)
	}
}

// TestHistoryAndTailAgree: what the tail alone says of an instance is what its whole log says.
func TestHistoryAndTailAgree(t *testing.T) {
	t.Parallel()
	key := do("x")
	w := wake(12)
	moment := noon.Add(time.Hour)
	parked := protocol.Entry{Kind: protocol.EntryParked, Waits: []protocol.Wait{{Key: event("e"), Type: "a"}}, Until: &moment}
	claimed := protocol.Entry{Kind: protocol.EntryClaimed, Wake: &w}
	tests := []struct {
		name    string
		entries [][]protocol.Entry
		phase   engine.Phase
		holder  protocol.Wake
		state   protocol.State
	}{
		{"empty", nil, engine.Running, wake(7), protocol.StateQueued},
		{"started", [][]protocol.Entry{{{Kind: protocol.EntryStarted, Step: &key, Attempt: 1}}}, engine.Running, wake(7), protocol.StateRunning},
		{"parked", [][]protocol.Entry{{parked}}, engine.Parked, wake(7), protocol.StateWaiting},
		{"parked with results", [][]protocol.Entry{{{Kind: protocol.EntryStepCompleted, Step: &key, Attempt: 1}, parked}}, engine.Parked, wake(7), protocol.StateWaiting},
		{"claimed", [][]protocol.Entry{{parked}, {claimed}}, engine.Running, w, protocol.StateRunning},
		{"parked again", [][]protocol.Entry{{parked}, {claimed}, {parked}}, engine.Parked, w, protocol.StateWaiting},
		{"given back unbegun", [][]protocol.Entry{{{Kind: protocol.EntryReleased}}}, engine.Running, wake(7), protocol.StateQueued},
		{"released", [][]protocol.Entry{{{Kind: protocol.EntryStarted, Step: &key, Attempt: 1}}, {{Kind: protocol.EntryReleased}}}, engine.Running, wake(7), protocol.StateRunning},
		{"completed", [][]protocol.Entry{{parked}, {claimed}, {{Kind: protocol.EntryCompleted}}}, engine.Finished, w, protocol.StateComplete},
		{"failed", [][]protocol.Entry{{{Kind: protocol.EntryFailed, Error: &protocol.Failure{Name: "Boom"}}}}, engine.Finished, wake(7), protocol.StateErrored},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			var tail *protocol.Append
			var tailAt uint64
			for _, e := range tt.entries {
				tailAt = l.add(e...)
				tail = &protocol.Append{}
				if err := json.Unmarshal(l.stored[len(l.stored)-1].body, tail); err != nil {
					t.Fatal(err)
				}
			}
			h := l.history()
			s := engine.Situate(stream, l.create, tailAt, tail)
			if jsonOf(t, s) != jsonOf(t, h.Situation) {
				t.Errorf("the tail says %s\nthe log says %s", jsonOf(t, s), jsonOf(t, h.Situation))
			}
			if s.Phase != tt.phase || s.Holder != tt.holder || !s.Exists || s.Incarnation != l.create {
				t.Errorf("situation is %+v", s)
			}
			if tt.phase == engine.Parked && (s.Park != tailAt || len(s.Waits) != 1 || !s.Until.Equal(moment)) {
				t.Errorf("parked at %d, waits %v, until %v", s.Park, s.Waits, s.Until)
			}
			if h.State() != tt.state {
				t.Errorf("state is %q, want %q", h.State(), tt.state)
			}
		})
	}
}

// TestRunsThatLeftNoTrace: a run that wrote nothing before it was lost was somebody's, but nobody knows whose.
func TestRunsThatLeftNoTrace(t *testing.T) {
	t.Parallel()
	w := wake(7)
	for _, tt := range []struct {
		name    string
		entries []protocol.Entry
		want    []engine.Run
	}{
		{"lost", []protocol.Entry{{Kind: protocol.EntryClaimed, Wake: &w, Lost: true}}, []engine.Run{{Wake: w, Lost: true}, {Runner: "r", Wake: w}}},
		{"given back unbegun", []protocol.Entry{{Kind: protocol.EntryReleased}, {Kind: protocol.EntryClaimed, Wake: &w}}, []engine.Run{{Runner: "r", Wake: w}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := engine.NewHistory(stream, 7, protocol.Create{})
			for i := range tt.entries {
				a := &protocol.Append{V: protocol.Version, Incarnation: 7, Holder: w, Runner: "r", Entries: tt.entries[i : i+1]}
				if err := h.Apply(uint64(8+i), a); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(h.Runs, tt.want) {
				t.Errorf("runs are %+v, want %+v", h.Runs, tt.want)
			}
			if e := h.ClaimEntry(w); !e.Lost {
				t.Error("the run that has claimed is lost if another one claims under its wake")
			}
		})
	}
}

func TestSituationWithoutInstance(t *testing.T) {
	t.Parallel()
	if s := engine.Situate(stream, 0, 5, &protocol.Append{Incarnation: 3}); s.Exists {
		t.Errorf("an instance without a create exists: %+v", s)
	}
}

// TestStatus follows an instance through its life, as its users see it.
func TestStatus(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	if s := l.history().Status(); s.Workflow != "mail" || s.ID != "a" || s.State != protocol.StateQueued || !s.Created.Equal(noon) || s.Steps != nil || s.Runs != nil {
		t.Errorf("queued: %s", jsonOf(t, s))
	}
	m := l.machine()
	root := m.Root()
	must[json.RawMessage](t)(m.Value(root, "now", func() json.RawMessage { return json.RawMessage(`1`) }))
	load := must[*engine.Step](t)(m.Do(root, "load", protocol.StepConfig{}))
	m.Begin(load, noon)
	l.take(m)
	m.Complete(load, json.RawMessage(`"text"`), noon)
	send := must[*engine.Step](t)(m.Do(root, "send", protocol.StepConfig{Retries: 1, Delay: protocol.Duration(time.Hour)}))
	m.Begin(send, noon)
	l.take(m)
	wantSteps(t, l, "load completed", "send running")

	failAttempt(m, send, &protocol.Failure{Name: "Boom"}, noon)
	must[*engine.Step](t)(m.WaitForEvent(root, "reply", "mail", at(2*time.Hour)))
	m.Park()
	l.take(m)
	wantSteps(t, l, "load completed", "send retrying", "reply waiting")
	s := l.history().Status()
	if s.State != protocol.StateWaiting || !s.Steps[1].Until.Equal(noon.Add(time.Hour)) || !s.Steps[2].Until.Equal(noon.Add(2*time.Hour)) {
		t.Errorf("parked: %s", jsonOf(t, s))
	}

	due := protocol.Wake{Stream: "TIMERS_mail", Sequence: 3}
	l.add(l.history().ClaimEntry(due))
	m = l.machine()
	root = m.Root()
	send = must[*engine.Step](t)(m.Do(root, "send", protocol.StepConfig{}))
	must[*engine.Step](t)(m.WaitForEvent(root, "reply", "mail", nil))
	m.Due(noon.Add(time.Hour))
	m.Begin(send, noon.Add(time.Hour))
	l.take(m)
	wantSteps(t, l, "load completed", "send running", "reply waiting")

	l.add(l.history().ClaimEntry(due)) // the runner died
	m = l.machine()
	root = m.Root()
	send = must[*engine.Step](t)(m.Do(root, "send", protocol.StepConfig{LostRuns: 5}))
	m.Begin(send, noon.Add(time.Hour))
	failAttempt(m, send, &protocol.Failure{Name: "Boom", Message: "again"}, noon.Add(time.Hour))
	m.Finish(nil, &protocol.Failure{Name: "Boom"})
	l.take(m)
	wantSteps(t, l, "load completed", "send failed", "reply waiting")
	wantEnd(t, l.history())
}

// wantSteps compares the steps that users see: name and state.
func wantSteps(t *testing.T, l *log, want ...string) {
	t.Helper()
	var got []string
	for _, s := range l.history().Status().Steps {
		got = append(got, s.Name+" "+s.State)
	}
	if jsonOf(t, got) != jsonOf(t, want) {
		t.Errorf("steps are %q, want %q", got, want)
	}
}

func wantEnd(t *testing.T, h *engine.History) {
	t.Helper()
	s := h.Status()
	if s.State != protocol.StateErrored || s.Finished == nil || s.Error.Name != "Boom" || s.Output != nil {
		t.Errorf("the end is %s", jsonOf(t, s))
	}
	type attempt struct {
		Number int
		Ended  bool
		Error  string
	}
	var attempts []attempt
	for _, a := range s.Steps[1].Attempts {
		x := attempt{a.Attempt, a.Finished != nil, ""}
		if a.Error != nil {
			x.Error = a.Error.Name
		}
		attempts = append(attempts, x)
	}
	if got, want := jsonOf(t, attempts), jsonOf(t, []attempt{{1, true, "Boom"}, {2, false, ""}, {3, true, "Boom"}}); got != want {
		t.Errorf("attempts are %s, want %s", got, want)
	}
	if send := s.Steps[1]; send.LostRuns != 1 || send.Error.Message != "again" || string(s.Steps[0].Output) != `"text"` {
		t.Errorf("steps are %s", jsonOf(t, s.Steps))
	}
	var runs []string
	for _, r := range s.Runs {
		runs = append(runs, r.Wake)
	}
	if jsonOf(t, runs) != `["WORKFLOWS_mail#7","TIMERS_mail#3","TIMERS_mail#3"]` || s.Runs[0].Lost || !s.Runs[1].Lost || s.Runs[2].Lost {
		t.Errorf("runs are %s", jsonOf(t, s.Runs))
	}
	done, ok := h.Done()
	if !ok || done.State != s.State || done.Log != h.Tail || done.Incarnation != 7 || done.Workflow != "mail" || done.ID != "a" || !done.Finished.Equal(*s.Finished) {
		t.Errorf("announced is %v, %s", ok, jsonOf(t, done))
	}
}

func TestNothingIsAnnouncedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add(protocol.Entry{Kind: protocol.EntryParked})
	if done, ok := l.history().Done(); ok {
		t.Errorf("announced: %+v", done)
	}
}

// TestReadable: what this version does not know must stop it at the tail, whatever the table would say.
func TestReadable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		a    protocol.Append
		ok   bool
	}{
		{"known", protocol.Append{V: 1, Entries: []protocol.Entry{{Kind: protocol.EntryClaimed}, {Kind: protocol.EntryParked}}}, true},
		{"of a newer version", protocol.Append{V: protocol.Version + 1, Entries: []protocol.Entry{{Kind: protocol.EntryParked}}}, false},
		{"a new kind", protocol.Append{V: 1, Entries: []protocol.Entry{{Kind: protocol.EntryParked}, {Kind: "of the future"}}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := engine.Readable(&tt.a); (err == nil) != tt.ok || err != nil && !errors.Is(err, engine.ErrNewer) {
				t.Errorf("Readable: %v", err)
			}
		})
	}
}
