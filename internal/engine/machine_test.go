package engine_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestReplayAnswersFromTheLog(t *testing.T) {
	t.Parallel()
	key := func(op protocol.Op) *protocol.Key { return &protocol.Key{Op: op, Name: "x", Count: 1} }
	boom := &protocol.Failure{Name: "Boom", Message: "no"}
	sent := noon.Add(time.Second)
	tests := []struct {
		name  string
		entry protocol.Entry
		want  engine.Step
	}{
		{"a result", protocol.Entry{Kind: protocol.EntryStepCompleted, Step: key(protocol.OpDo), Attempt: 1, Result: json.RawMessage(`{"n":1}`)},
			engine.Step{Result: json.RawMessage(`{"n":1}`)}},
		{"no result", protocol.Entry{Kind: protocol.EntryStepCompleted, Step: key(protocol.OpDo), Attempt: 1}, engine.Step{}},
		{"null", protocol.Entry{Kind: protocol.EntryStepCompleted, Step: key(protocol.OpDo), Attempt: 1, Result: json.RawMessage(`null`)},
			engine.Step{Result: json.RawMessage(`null`)}},
		{"a failure", protocol.Entry{Kind: protocol.EntryStepFailed, Step: key(protocol.OpDo), Attempt: 1, Error: boom}, engine.Step{Error: boom}},
		{"a sleep", protocol.Entry{Kind: protocol.EntrySlept, Step: key(protocol.OpSleep)}, engine.Step{}},
		{"an event", protocol.Entry{Kind: protocol.EntryReceived, Step: key(protocol.OpEvent), Type: "t", Input: 9, InputID: "i", Sent: &sent, Result: json.RawMessage(`2`)},
			engine.Step{Result: json.RawMessage(`2`), Received: &engine.Received{Input: 9, Type: "t", Sent: sent, Payload: json.RawMessage(`2`)}}},
		{"a timeout", protocol.Entry{Kind: protocol.EntryTimedOut, Step: key(protocol.OpEvent), Type: "t", Error: boom}, engine.Step{Error: boom}},
		{"a value", protocol.Entry{Kind: protocol.EntryRecorded, Step: key(protocol.OpValue), Result: json.RawMessage(`3`)}, engine.Step{Result: json.RawMessage(`3`)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t)
			l.add(tt.entry)
			m := l.machine()
			s := askFor(t, m, m.Root(), *tt.entry.Step)
			if !s.Done || string(s.Result) != string(tt.want.Result) {
				t.Fatalf("done %v, result %s, want %s", s.Done, s.Result, tt.want.Result)
			}
			if (s.Error == nil) != (tt.want.Error == nil) || s.Error != nil && s.Error.Name != tt.want.Error.Name {
				t.Fatalf("error %v, want %v", s.Error, tt.want.Error)
			}
			if r, want := s.Received, tt.want.Received; (r == nil) != (want == nil) || r != nil && (r.Input != want.Input || r.Type != want.Type || !r.Sent.Equal(want.Sent) || string(r.Payload) != string(want.Payload)) {
				t.Fatalf("received %+v, want %+v", r, want)
			}
			if m.Buffered() {
				entries, _ := m.Take()
				t.Fatalf("replay has something to record: %v", kinds(entries))
			}
		})
	}
}

// askFor makes the call that a key belongs to.
func askFor(t *testing.T, m *engine.Machine, b *engine.Branch, k protocol.Key) *engine.Step {
	t.Helper()
	switch k.Op {
	case protocol.OpDo:
		return must[*engine.Step](t)(m.Do(b, k.Name, protocol.StepConfig{}))
	case protocol.OpSleep:
		return must[*engine.Step](t)(m.Sleep(b, k.Name, noon.Add(time.Hour)))
	case protocol.OpEvent:
		return must[*engine.Step](t)(m.WaitForEvent(b, k.Name, "t", nil))
	}
	v := must[json.RawMessage](t)(m.Value(b, k.Name, func() json.RawMessage {
		t.Fatal("a recorded value is asked for again")
		return nil
	}))
	return &engine.Step{Done: true, Result: v}
}

func TestCallsOfOneNameAreCounted(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	root := m.Root()
	for i, result := range []string{`"first"`, `"second"`} {
		s := must[*engine.Step](t)(m.Do(root, "x", protocol.StepConfig{}))
		if want := (protocol.Key{Op: protocol.OpDo, Name: "x", Count: i + 1}); s.Key != want {
			t.Fatalf("step is %v, want %v", s.Key, want)
		}
		m.Begin(s, noon)
		m.Complete(s, json.RawMessage(result), noon)
	}
	if s := must[*engine.Step](t)(m.Sleep(root, "x", noon)); s.Count != 1 {
		t.Errorf("a sleep of the same name has count %d: names are counted per op", s.Count)
	}
	l.take(m)
	again := l.machine()
	root = again.Root()
	for _, want := range []string{`"first"`, `"second"`} {
		if s := must[*engine.Step](t)(again.Do(root, "x", protocol.StepConfig{})); string(s.Result) != want {
			t.Errorf("result %s, want %s", s.Result, want)
		}
	}
	if s := must[*engine.Step](t)(again.Do(root, "x", protocol.StepConfig{})); s.Done || s.Count != 3 {
		t.Errorf("the third call is %v, done %v: it never ran", s.Key, s.Done)
	}
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	m := newLog(t).machine()
	root := m.Root()
	s := must[*engine.Step](t)(m.Do(root, "x", protocol.StepConfig{}))
	_, err := m.Do(root, "x", protocol.StepConfig{})
	wantError(t, err, engine.ErrInFlight)
	must[*engine.Step](t)(m.Sleep(root, "x", noon)) // another op
	must[*engine.Step](t)(m.Do(root, "y", protocol.StepConfig{}))
	m.Begin(s, noon)
	_, err = m.Do(root, "x", protocol.StepConfig{})
	wantError(t, err, engine.ErrInFlight)
	m.Complete(s, nil, noon)
	if s := must[*engine.Step](t)(m.Do(root, "x", protocol.StepConfig{})); s.Count != 2 {
		t.Errorf("count is %d after two refused calls, want 2", s.Count)
	}
	_, err = m.Sleep(root, "x", noon)
	wantError(t, err, engine.ErrInFlight)
	m.Abandon(protocol.Key{Op: protocol.OpSleep, Name: "x", Count: 1})
	must[*engine.Step](t)(m.Sleep(root, "x", noon))
}

func TestSleep(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	s := must[*engine.Step](t)(m.Sleep(m.Root(), "nap", noon.Add(time.Hour)))
	if s.Done {
		t.Fatal("done before its end")
	}
	if ended := m.Due(noon.Add(time.Hour - 1)); ended != nil {
		t.Fatalf("%v ended too early", ended)
	}
	m.Park()
	l.take(m)

	m = l.machine() // the code computes another end now: the recorded one counts
	s = must[*engine.Step](t)(m.Sleep(m.Root(), "nap", noon.Add(9*time.Hour)))
	if next, ok := m.NextDue(); !ok || !next.Equal(noon.Add(time.Hour)) || !s.Until.Equal(next) {
		t.Fatalf("ends at %v, %v, want what was recorded", next, ok)
	}
	if m.Buffered() {
		t.Fatal("the beginning of the sleep is recorded twice")
	}
	if ended := m.Due(noon.Add(time.Hour)); !slices.Equal(ended, []protocol.Key{s.Key}) || !s.Done {
		t.Fatalf("ended %v, done %v", ended, s.Done)
	}
	l.take(m)
	m = l.machine()
	if s := must[*engine.Step](t)(m.Sleep(m.Root(), "nap", noon.Add(9*time.Hour))); !s.Done {
		t.Fatal("sleeps again after its end was recorded")
	}
}

func TestParkTellsWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	root := m.Root()
	failing := must[*engine.Step](t)(m.Do(root, "send", protocol.StepConfig{Retries: 3, Delay: protocol.Duration(3 * time.Hour)}))
	m.Begin(failing, noon)
	failAttempt(m, failing, &protocol.Failure{Name: "Boom"}, noon)
	must[*engine.Step](t)(m.WaitForEvent(root, "reply", "mail", nil))
	must[*engine.Step](t)(m.WaitForEvent(root, "stop", "stop", at(2*time.Hour)))
	must[*engine.Step](t)(m.Sleep(root, "nap", noon.Add(time.Hour)))
	if n, forEvent := m.Waiting(); n != 4 || !forEvent {
		t.Errorf("waiting %d, for an event %v", n, forEvent)
	}
	park := m.Park()
	want := []protocol.Wait{
		{Key: do("send"), Until: at(3 * time.Hour)},
		{Key: protocol.Key{Op: protocol.OpEvent, Name: "reply", Count: 1}, Type: "mail"},
		{Key: protocol.Key{Op: protocol.OpEvent, Name: "stop", Count: 1}, Type: "stop", Until: at(2 * time.Hour)},
		{Key: protocol.Key{Op: protocol.OpSleep, Name: "nap", Count: 1}, Until: at(time.Hour)},
	}
	if got, want := jsonOf(t, park.Waits), jsonOf(t, want); got != want {
		t.Errorf("waits are %s\nwant %s", got, want)
	}
	if park.Until == nil || !park.Until.Equal(noon.Add(time.Hour)) {
		t.Errorf("until %v, want the earliest end", park.Until)
	}
	sequence := l.take(m)
	h := l.history()
	if h.Phase != engine.Parked || h.Park != sequence || !h.Until.Equal(*park.Until) || jsonOf(t, h.Waits) != jsonOf(t, want) {
		t.Errorf("the log tells of another park: %+v", h.Situation)
	}
}

func TestParkWithoutEnd(t *testing.T) {
	t.Parallel()
	m := newLog(t).machine()
	must[*engine.Step](t)(m.WaitForEvent(m.Root(), "reply", "mail", nil))
	if park := m.Park(); park.Until != nil {
		t.Errorf("until %v, want never", park.Until)
	}
	if next, ok := m.NextDue(); ok {
		t.Errorf("next end is %v, want none", next)
	}
	if n, _ := newLog(t).machine().Waiting(); n != 0 {
		t.Errorf("a new machine waits for %d things", n)
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	return string(must[[]byte](t)(json.Marshal(v)))
}

func TestValuesBelongToBranches(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	values := func(m *engine.Machine, salt string, childFirst bool) (v [4]string) {
		value := func(b *engine.Branch) string {
			return string(must[json.RawMessage](t)(m.Value(b, "now", func() json.RawMessage { return json.RawMessage(`"` + salt + `"`) })))
		}
		root := m.Root()
		v[0] = value(root)
		g := m.Group(root)
		one, two := m.Fork(root, g), m.Fork(root, g)
		if childFirst {
			salt += "x"
			v[2] = value(two)
			salt += "y"
			v[1] = value(one)
		} else {
			salt += "u"
			v[1] = value(one)
			salt += "v"
			v[2] = value(two)
		}
		m.Join(one)
		m.Join(two)
		v[3] = value(root)
		return v
	}
	m := l.machine()
	first := values(m, "a", true)
	if want := [4]string{`"a"`, `"axy"`, `"ax"`, `"axy"`}; first != want {
		t.Fatalf("values are %v, want %v", first, want)
	}
	if m.Hard() != 4 {
		t.Errorf("hard up to %d: values must be durable before the next effect", m.Hard())
	}
	l.take(m)
	m = l.machine()
	if again := values(m, "b", false); again != first {
		t.Errorf("replayed in another order the values are %v, want %v", again, first)
	}
	if m.Buffered() {
		t.Error("recorded values are recorded again")
	}
}

func TestReplaying(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	if m.Replaying() {
		t.Error("replaying, with an empty log")
	}
	for _, name := range []string{"a", "b"} {
		s := must[*engine.Step](t)(m.Do(m.Root(), name, protocol.StepConfig{}))
		m.Begin(s, noon)
		m.Complete(s, nil, noon)
	}
	must[*engine.Step](t)(m.Sleep(m.Root(), "nap", noon.Add(time.Hour)))
	l.take(m)

	m = l.machine()
	if !m.Replaying() {
		t.Error("not replaying, with all to come")
	}
	must[*engine.Step](t)(m.Do(m.Root(), "a", protocol.StepConfig{}))
	if !m.Replaying() {
		t.Error("not replaying, with more to come")
	}
	must[*engine.Step](t)(m.Do(m.Root(), "b", protocol.StepConfig{}))
	if !m.Replaying() {
		t.Error("not replaying, with a wait to come that has no outcome yet")
	}
	must[*engine.Step](t)(m.Sleep(m.Root(), "nap", noon.Add(time.Hour)))
	if m.Replaying() {
		t.Error("replaying after all that is recorded")
	}

	m = l.machine()
	must[*engine.Step](t)(m.Do(m.Root(), "new", protocol.StepConfig{}))
	if m.Replaying() {
		t.Error("replaying after a call that is not recorded")
	}
}

func TestFinish(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	m := l.machine()
	m.Finish(json.RawMessage(`5`), nil)
	l.take(m)
	if h := l.history(); h.Phase != engine.Finished || string(h.Output) != `5` || h.Failure != nil {
		t.Errorf("%+v, output %s, failure %v", h.Situation, h.Output, h.Failure)
	}
	l = newLog(t)
	m = l.machine()
	m.Finish(json.RawMessage(`5`), &protocol.Failure{Name: "Boom"})
	l.take(m)
	if h := l.history(); h.Phase != engine.Finished || h.Output != nil || h.Failure.Name != "Boom" {
		t.Errorf("%+v, output %s, failure %v", h.Situation, h.Output, h.Failure)
	}
}

func TestStartsAndWaitsThatSayNothingNewAreElided(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		cut  bool // an append between beginning and end
		run  func(m *engine.Machine, cut func())
		want []protocol.EntryKind
	}{
		{"completed at once", false, completeOne, []protocol.EntryKind{protocol.EntryStepCompleted}},
		{"completed later", true, completeOne, []protocol.EntryKind{protocol.EntryStarted, protocol.EntryStepCompleted}},
		{"failed at once", false, failOne, []protocol.EntryKind{protocol.EntryAttemptFailed}},
		{"failed later", true, failOne, []protocol.EntryKind{protocol.EntryStarted, protocol.EntryAttemptFailed}},
		{"slept at once", false, sleepOne, []protocol.EntryKind{protocol.EntrySlept}},
		{"slept later", true, sleepOne, []protocol.EntryKind{protocol.EntryWaiting, protocol.EntrySlept}},
		{"received at once", false, receiveOne, []protocol.EntryKind{protocol.EntryReceived}},
		{"received later", true, receiveOne, []protocol.EntryKind{protocol.EntryWaiting, protocol.EntryReceived}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newLog(t).machine()
			var entries []protocol.Entry
			take := func() {
				e, _ := m.Take()
				entries = append(entries, e...)
			}
			tt.run(m, func() {
				if tt.cut {
					take()
				}
			})
			take()
			wantKinds(t, entries, tt.want...)
			if started := entries[len(entries)-1].Started; entries[0].Step.Op == protocol.OpDo && (started == nil || !started.Equal(noon)) {
				t.Errorf("the outcome says it started at %v, want %v", started, noon)
			}
		})
	}
}

func completeOne(m *engine.Machine, cut func()) {
	s, _ := m.Do(m.Root(), "x", protocol.StepConfig{})
	m.Begin(s, noon)
	cut()
	m.Complete(s, nil, noon.Add(time.Second))
}

func failOne(m *engine.Machine, cut func()) {
	s, _ := m.Do(m.Root(), "x", protocol.StepConfig{Retries: 1})
	m.Begin(s, noon)
	cut()
	failAttempt(m, s, &protocol.Failure{}, noon.Add(time.Second))
}

func sleepOne(m *engine.Machine, cut func()) {
	_, _ = m.Sleep(m.Root(), "x", noon)
	cut()
	m.Due(noon)
}

func receiveOne(m *engine.Machine, cut func()) {
	_, _ = m.WaitForEvent(m.Root(), "x", "t", nil)
	cut()
	m.Deliver([]engine.Input{{Sequence: 9, ID: "i", Type: "t"}})
}
