package scheduler

import (
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestRowAgainBehindItsFiring: a row that is put again when its last firing has deleted it, and is not acked yet, must not stay with
// nothing armed: whoever has left it to the firing looks again.
func TestRowAgainBehindItsFiring(t *testing.T) {
	t.Parallel()
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
	k := key{agent: protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}, id: "wake"}
	body, err := json.Marshal(protocol.Schedule{
		V: protocol.Version, ID: k.id, Class: "Desk", Name: "jo", Kind: protocol.ScheduleDate, At: new(time.Now()), Callback: "Wake", Created: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	put := func(delivered uint64) early {
		sequence, err := store.Publish(t.Context(), k.rowSubject(), nil, body)
		if err != nil {
			t.Fatal(err)
		}
		return early{subject: k.rowSubject(), data: body, sequence: sequence, delivered: delivered}
	}
	if err := s.handleRow(t.Context(), "p", put(1)); err != nil {
		t.Fatal(err)
	}
	var fired *journal.Message
	natstest.Eventually(t, natstest.Patience, "it has fired", func() bool {
		fired, err = store.Last(t.Context(), protocol.StreamClock, k.dueSubject())
		return err == nil
	})
	if err := s.handleDue(t.Context(), early{subject: k.dueSubject(), data: fired.Data, sequence: fired.Sequence, delivered: 1}); err != nil {
		t.Fatal(err)
	}
	again := put(1)
	err = s.handleRow(t.Context(), "p", again)
	if _, waits := errors.AsType[*notYet](err); !waits {
		t.Errorf("the row is left to a firing that has deleted the one before it: %v", err)
	}
	if err := store.Delete(t.Context(), protocol.StreamClock, fired.Sequence); err != nil { // it is acked
		t.Fatal(err)
	}
	if err := s.handleRow(t.Context(), "p", again); err != nil {
		t.Fatal(err)
	}
	v, _, err := s.look(t.Context(), k, true)
	if err != nil || v.armed == nil && v.fired == nil {
		t.Errorf("the row stands there, and nothing is armed: %v", err)
	}
}
