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

const stream = "WORKFLOWS_mail"

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// log is the log of one instance in its stream. What is appended goes through JSON, as it does in real life.
type log struct {
	t      *testing.T
	create uint64
	last   uint64 // sequence of the newest message of the stream
	holder protocol.Wake
	stored []stored
}

type stored struct {
	sequence uint64
	body     []byte
}

// newLog begins an instance that was not the first message of its stream.
func newLog(t *testing.T) *log {
	t.Helper()
	return &log{t: t, create: 7, last: 7, holder: wake(7)}
}

func wake(sequence uint64) protocol.Wake { return protocol.Wake{Stream: stream, Sequence: sequence} }

// add appends entries in one message.
func (l *log) add(entries ...protocol.Entry) uint64 {
	l.t.Helper()
	for _, e := range entries {
		if e.Kind == protocol.EntryClaimed {
			l.holder = *e.Wake
		}
	}
	return l.put(protocol.Append{V: protocol.Version, Incarnation: l.create, Holder: l.holder, Runner: "r1", Time: noon, Entries: entries})
}

func (l *log) put(a protocol.Append) uint64 {
	l.t.Helper()
	body, err := json.Marshal(a)
	if err != nil {
		l.t.Fatal(err)
	}
	l.last++
	l.stored = append(l.stored, stored{l.last, body})
	return l.last
}

// take appends what the machine has to append.
func (l *log) take(m *engine.Machine) uint64 {
	l.t.Helper()
	entries, _ := m.Take()
	return l.add(entries...)
}

// input stores an event.
func (l *log) input(id, eventType string) engine.Input {
	l.last++
	return engine.Input{
		Sequence: l.last, ID: id, Type: eventType, Sent: noon.Add(time.Minute),
		Payload: json.RawMessage(`{"id":"` + id + `"}`),
	}
}

// lost claims the instance under the wake that holds it, as after the death of its runner.
func (l *log) lost() *engine.Machine {
	l.t.Helper()
	l.add(l.history().ClaimEntry(l.holder))
	return engine.NewMachine(l.history())
}

func (l *log) fold() (*engine.History, error) {
	h := engine.NewHistory(stream, l.create, protocol.Create{Workflow: "mail", ID: "a", Created: noon})
	for _, s := range l.stored {
		var a protocol.Append
		if err := json.Unmarshal(s.body, &a); err != nil {
			l.t.Fatal(err)
		}
		if err := h.Apply(s.sequence, &a); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (l *log) history() *engine.History {
	l.t.Helper()
	h, err := l.fold()
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

func (l *log) machine() *engine.Machine {
	l.t.Helper()
	return engine.NewMachine(l.history())
}

// kinds lists the kinds of entries.
func kinds(entries []protocol.Entry) []protocol.EntryKind {
	var k []protocol.EntryKind
	for _, e := range entries {
		k = append(k, e.Kind)
	}
	return k
}

func wantKinds(t *testing.T, entries []protocol.Entry, want ...protocol.EntryKind) {
	t.Helper()
	if got := kinds(entries); !slices.Equal(got, want) {
		t.Fatalf("entries are %v, want %v", got, want)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// must is for calls that a test does not expect to fail.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func do(name string) protocol.Key { return protocol.Key{Op: protocol.OpDo, Name: name, Count: 1} }

func at(d time.Duration) *time.Time {
	moment := noon.Add(d)
	return &moment
}

// failAttempt ends an attempt with a failure, as an execution does.
func failAttempt(m *engine.Machine, s *engine.Step, f *protocol.Failure, now time.Time) (until time.Time, again bool) {
	if !s.MayRetry(f) {
		m.Fail(s, f)
		return time.Time{}, false
	}
	return m.FailAttempt(s, f, now, engine.Delay(*s.Config, s.Failed+1, 0.5)), true
}
