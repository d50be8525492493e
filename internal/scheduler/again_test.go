package scheduler

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestRowAgainBehindItsFiring: a row that is put again when its last firing has deleted it, and is not acked yet, must not stay with
// nothing armed: whoever has left it to the firing looks again, and soon, however often that was in vain. Then its moment fires once more,
// the agent drops that, and the row goes.
func TestRowAgainBehindItsFiring(t *testing.T) {
	t.Parallel()
	s, _ := withAgents(t)
	store := s.store
	k := key{agent: protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}, id: "wake"}
	body, err := json.Marshal(protocol.Schedule{
		V: protocol.Version, ID: k.id, Class: "Desk", Name: "jo", Kind: protocol.ScheduleDate, At: new(time.Now()),
		Callback: "Wake", Life: 7, Created: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	put := func() early {
		sequence, err := store.Publish(t.Context(), k.rowSubject(), nil, body)
		if err != nil {
			t.Fatal(err)
		}
		return early{subject: k.rowSubject(), data: body, sequence: sequence, delivered: 1}
	}
	fires := func() early {
		var fired *journal.Message
		natstest.Eventually(t, natstest.Patience, "it has fired", func() bool {
			fired, err = store.Last(t.Context(), protocol.StreamClock, k.dueSubject())
			return err == nil
		})
		return early{subject: k.dueSubject(), data: fired.Data, sequence: fired.Sequence, delivered: 1}
	}
	acked := func(firing early) {
		if err := store.Delete(t.Context(), protocol.StreamClock, firing.sequence); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.handleRow(t.Context(), "p", put()); err != nil {
		t.Fatal(err)
	}
	first := fires()
	if err := s.handleDue(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	again := put()
	for again.delivered = 1; again.delivered < 20; again.delivered++ {
		err := s.handleRow(t.Context(), "p", again)
		if e, waits := errors.AsType[*notYet](err); !waits || e.wait < firstReturn || e.wait > longBehind {
			t.Fatalf("the row that comes for the %d. time behind a firing that has deleted the one before it: %v", again.delivered, err)
		}
	}
	acked(first)
	if err := s.handleRow(t.Context(), "p", again); err != nil {
		t.Fatal(err)
	}
	second := fires()
	if err := s.handleDue(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	acked(second)
	if v, _, err := s.look(t.Context(), k, true); err != nil || v.row != nil || v.armed != nil || v.fired != nil {
		t.Errorf("after its last moment the row is %+v, armed %+v, fires %+v, error %v; want nothing", v.row, v.armed, v.fired, err)
	}
	mailIsOfOneFiring(t, store, k)
}

// mailIsOfOneFiring holds that a row that was put again has fired the same once more: the agent drops the second.
func mailIsOfOneFiring(t *testing.T, store *journal.Store, k key) {
	t.Helper()
	page, _, err := store.Page(t.Context(), protocol.InboxStream(k.agent.Project), k.agent.InboxSubject(k.agent.Project), 1, 10)
	if err != nil || len(page) != 2 {
		t.Fatalf("%d mails, want 2; error %v", len(page), err)
	}
	var mails [2]protocol.Mail
	for i, m := range page {
		if err := json.Unmarshal(m.Data, &mails[i]); err != nil {
			t.Fatal(err)
		}
	}
	one, other := mails[0], mails[1]
	if one.Source != protocol.ScheduleSource(k.id) || one.Source != other.Source || one.Number != other.Number || one.Life != other.Life {
		t.Errorf("mail %+v and %+v, want the same source, number and life", one, other)
	}
}
