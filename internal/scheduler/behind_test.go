package scheduler

import (
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// early is a message of a row that the stream's leader does not have yet.
type early struct {
	jetstream.Msg // nil: nothing else is asked of it
	subject       string
	data          []byte
	sequence      uint64
	delivered     uint64
}

func (m early) Subject() string      { return m.subject }
func (m early) Data() []byte         { return m.data }
func (m early) Headers() nats.Header { return nil }
func (m early) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: m.sequence}, NumDelivered: m.delivered}, nil
}

// againWhileBehind handles a message again for as long as the leader does not have it: each time a second is waited for that, and a
// test may be slower.
func againWhileBehind(handle func() error) error {
	for {
		if err := handle(); !errors.Is(err, journal.ErrBehind) {
			return err
		}
	}
}

// TestRowBeforeTheLeaderHasIt handles a row that another replica has delivered and the leader has not stored: it is armed, and not
// taken for one that is gone.
func TestRowBeforeTheLeaderHasIt(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureSchedules(t.Context(), natstest.JetStream(t, nc), "p", streams.Options{}); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.store = store
	k := key{agent: protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}, id: "wake"}
	asked := make(chan *nats.Msg, 1000)
	if _, err := nc.ChanSubscribe("$JS.API.STREAM.INFO."+k.rowStream(), asked); err != nil {
		t.Fatal(err)
	}
	handled := make(chan error, 1)
	go func() {
		handled <- againWhileBehind(func() error { return s.handleRow(t.Context(), "p", early{subject: k.rowSubject(), sequence: 1}) })
	}()
	for range 2 { // then the leader has said once that it does not have it
		select {
		case err := <-handled:
			t.Fatalf("the row is handled before it is there: %v", err)
		case <-asked:
		}
	}
	row, err := json.Marshal(protocol.Schedule{
		V: protocol.Version, ID: "wake", Class: "Desk", Name: "jo", Kind: protocol.ScheduleDate, At: new(time.Now().Add(time.Hour)),
		Callback: "Wake", Created: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Publish(t.Context(), k.rowSubject(), nil, row); err != nil {
		t.Fatal(err)
	}
	if err := <-handled; err != nil {
		t.Fatal(err)
	}
	if armed, _, err := s.tick(t.Context(), k.clockSubject()); err != nil || armed == nil {
		t.Errorf("armed is %v, error %v", armed, err)
	}
}

// TestFiringBeforeTheLeaderHasItsRow: a firing whose row the leader does not have is not dropped while the leader is behind the
// row that it was computed from; if it stays so, the bucket is another one, and the schedule gone.
func TestFiringBeforeTheLeaderHasItsRow(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureSchedules(t.Context(), natstest.JetStream(t, nc), "p", streams.Options{}); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.store = store
	k := key{agent: protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}, id: "wake"}
	tick := &protocol.Tick{V: protocol.Version, Revision: 7, Definition: "some", Planned: time.Now()}
	if err := s.fire(t.Context(), k, tick, early{subject: k.dueSubject(), delivered: 1}); !errors.Is(err, journal.ErrBehind) {
		t.Errorf("at first the error is %v, want ErrBehind", err)
	}
	if err := s.fire(t.Context(), k, tick, early{subject: k.dueSubject(), delivered: staleTries}); err != nil {
		t.Errorf("in the end the error is %v", err)
	}
}

// withAgents is a scheduler of a project that has agents, by hand: nothing runs.
func withAgents(t *testing.T) (*Scheduler, *nats.Conn) {
	t.Helper()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		streams.EnsureSchedules(t.Context(), js, "p", streams.Options{}), streams.EnsureAgents(t.Context(), js, "p", streams.Options{}),
	); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.store = store
	return s, nc
}

// TestFiringBeforeTheLeaderHasIt: a moment that a new leader fires again takes what is armed away. While the leader has not done so, the
// firing is not held for one that was handled; then the next moment is armed again.
func TestFiringBeforeTheLeaderHasIt(t *testing.T) {
	t.Parallel()
	s, nc := withAgents(t)
	js, store := natstest.JetStream(t, nc), s.store
	k := key{agent: protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}, id: "plan"}
	body, err := json.Marshal(protocol.Schedule{
		V: protocol.Version, ID: k.id, Class: "Desk", Name: "jo", Kind: protocol.ScheduleCron, Cron: "0 * * * *", Callback: "Wake",
		Created: time.Now().Add(-3 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Publish(t.Context(), k.rowSubject(), nil, body); err != nil {
		t.Fatal(err)
	}
	r, err := s.row(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.arm(t.Context(), k, r, step{moment: r.plan.After(time.Now())}, 0); err != nil {
		t.Fatal(err)
	}
	passed := r.tick(step{moment: r.first()})
	firing := early{subject: k.dueSubject(), sequence: 2, delivered: 1}
	if firing.data, err = json.Marshal(passed); err != nil {
		t.Fatal(err)
	}
	asked := make(chan *nats.Msg, 1000)
	if _, err := nc.ChanSubscribe("$JS.API.STREAM.INFO."+protocol.StreamClock, asked); err != nil {
		t.Fatal(err)
	}
	handled := make(chan error, 1)
	go func() { handled <- againWhileBehind(func() error { return s.handleDue(t.Context(), firing) }) }()
	for range 2 { // then the leader has said once that it does not have it
		select {
		case err := <-handled:
			t.Fatalf("the firing is handled before it is there: %v", err)
		case <-asked:
		}
	}
	clock, err := js.Stream(t.Context(), protocol.StreamClock)
	if err != nil {
		t.Fatal(err)
	}
	if err := clock.Purge(t.Context(), jetstream.WithPurgeSubject(k.clockSubject())); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Publish(t.Context(), k.dueSubject(), nil, firing.data); err != nil {
		t.Fatal(err)
	}
	if err := <-handled; err != nil {
		t.Fatal(err)
	}
	if armed, _, err := s.tick(t.Context(), k.clockSubject()); err != nil || armed == nil || !armed.Planned.After(passed.Planned) {
		t.Errorf("armed is %+v, error %v", armed, err)
	}
}
