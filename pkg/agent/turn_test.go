package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestStateSurvivesRestartOfHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.host(t, desks(nil))
	for i := range 3 {
		if status, body := first.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 || body != fmt.Sprint(i+1) {
			t.Fatalf("POST %d = %d %q", i, status, body)
		}
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	record, ok := r.record(t, "jo")
	if !ok || record.Owner != "" || record.Turn != 3 || string(record.State) != `{"Count":3,"Log":null}` {
		t.Errorf("record after the stop: %+v, want one without owner, after 3 turns", record)
	}
	if rows := r.rows(t, protocol.HostsBucket(testProject)); len(rows) != 0 {
		t.Errorf("leases after the stop: %v, want none", rows)
	}
	second := r.host(t, desks(nil))
	second.expect(t, "/agents/desk/jo", 200, "3")
	again, _ := r.record(t, "jo")
	if again.Life != record.Life || again.Epoch <= record.Epoch {
		t.Errorf("after a restart: life %d and epoch %d, before %d and %d; want the same life and a higher epoch",
			again.Life, again.Epoch, record.Life, record.Epoch)
	}
}

func TestFailedTurnLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		end    func() error
		status int
		body   string
	}{
		{"error", func() error { return errors.New("no seats") }, 500, `{"error":{"name":"Error","message":"no seats"}}`},
		{"error with status", func() error { return fmt.Errorf("book: %w", &Error{Status: 409, Name: "Full", Message: "no seats"}) },
			409, `{"error":{"name":"Full","message":"no seats"}}`},
		{"panic", func() error { panic("secret") }, 500, `{"error":{"name":"PanicError","message":"the agent panicked"}}`},
		{"schedule refused", func() error { return &ScheduleError{Field: "when", Value: "zero", Reason: "bad"} }, 500,
			`{"error":{"name":"ScheduleError","message":"schedule: when zero: bad"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.host(t, desks(func(d *desk) {
				d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
					if r.Method == http.MethodGet {
						return count(d, w, r)
					}
					w.Header().Set("X-Draft", "yes")
					w.WriteHeader(http.StatusAccepted)
					if err := d.SetState(r.Context(), deskState{Count: 7}); err != nil {
						return err
					}
					if _, err := Schedule(r.Context(), After(time.Hour), d.Ring, "x"); err != nil {
						return err
					}
					if d.State().Count != 7 {
						t.Error("the turn does not see its own draft")
					}
					return test.end()
				}
			}))
			if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != test.status || body != test.body {
				t.Errorf("POST = %d %s, want %d %s", status, body, test.status, test.body)
			}
			h.expect(t, "/agents/desk/jo", 200, "0")
			record, _ := r.record(t, "jo")
			if record.Turn != 0 || record.State != nil || len(record.Outbox)+len(record.Seen) != 0 {
				t.Errorf("record %+v, want an untouched one", record)
			}
			if rows := r.rows(t, protocol.SchedulesBucket(testProject)); len(rows) != 0 {
				t.Errorf("schedules %v, want none", rows)
			}
		})
	}
}

func TestTurnThatChangesNothingWritesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	before, _ := r.record(t, "jo")
	for range 3 {
		h.expect(t, "/agents/desk/jo", 200, "1")
	}
	if after, _ := r.record(t, "jo"); after.Commit != before.Commit {
		t.Errorf("commit %s after turns that only read, want %s still", after.Commit, before.Commit)
	}
}

func TestAgentThatStoredNothingLeavesNoRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil, IdleAfter(10*time.Millisecond)))
	h.expect(t, "/agents/desk/passer-by", 200, "0")
	natstest.Eventually(t, soon, "the record is gone", func() bool { _, ok := r.record(t, "passer-by"); return !ok })
	h.expect(t, "/agents/desk/passer-by", 200, "0")
}

func TestIdleAgentIsLetGoAndComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil, IdleAfter(10*time.Millisecond)))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	idle := r.awaitRecord(t, "jo", "has no owner", func(p protocol.Record) bool { return p.Turn == 1 && p.Owner == "" })
	if len(idle.Outbox) != 0 {
		t.Errorf("outbox of an idle agent: %v, want it empty", idle.Outbox)
	}
	h.expect(t, "/agents/desk/jo", 200, "1")
}

func TestStateOfLostTurnIsRestoredInMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			s := d.State()
			s.Log = append(s.Log, "mutated in place")
			s.Count = 99
			if r.Method == http.MethodPut {
				if err := d.SetState(r.Context(), s); err != nil {
					return err
				}
				return errors.New("dropped")
			}
			return count(d, w, r)
		}
	}))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	h.call(t, http.MethodPut, "/agents/desk/jo", "")
	h.expect(t, "/agents/desk/jo", 200, "1")
}

func TestCallsNeedATurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var leaked context.Context
	other := &desk{}
	h := r.host(t, desks(func(d *desk) {
		d.request = func(_ *desk, _ http.ResponseWriter, r *http.Request) error {
			leaked = r.Context()
			if err := other.SetState(r.Context(), deskState{}); !errors.Is(err, ErrNoTurn) {
				t.Errorf("SetState of another agent: %v, want ErrNoTurn", err)
			}
			info, err := Info(r.Context())
			if err != nil || info.Name != "jo" || info.Class != "Desk" || info.Turn != 1 || info.Life == 0 {
				t.Errorf("Info = %+v, %v", info, err)
			}
			return nil
		}
	}))
	h.call(t, http.MethodGet, "/agents/desk/jo", "")
	for name, ctx := range map[string]context.Context{"no turn": t.Context(), "a turn that is over": leaked} {
		if err := other.SetState(ctx, deskState{}); !errors.Is(err, ErrNoTurn) {
			t.Errorf("SetState in %s: %v, want ErrNoTurn", name, err)
		}
		if _, err := Schedule(ctx, After(0), other.Ring, ""); !errors.Is(err, ErrNoTurn) {
			t.Errorf("Schedule in %s: %v, want ErrNoTurn", name, err)
		}
		if _, err := CancelSchedule(ctx, "x"); !errors.Is(err, ErrNoTurn) {
			t.Errorf("CancelSchedule in %s: %v, want ErrNoTurn", name, err)
		}
		if _, err := Info(ctx); !errors.Is(err, ErrNoTurn) {
			t.Errorf("Info in %s: %v, want ErrNoTurn", name, err)
		}
	}
}

func TestTurnOverItsLimitIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				return count(d, w, r)
			}
			if err := d.SetState(r.Context(), deskState{Count: 7}); err != nil {
				return err
			}
			<-r.Context().Done()
			if !errors.Is(context.Cause(r.Context()), ErrTurnTooLong) {
				t.Errorf("cause %v, want ErrTurnTooLong", context.Cause(r.Context()))
			}
			return nil
		}
	}, TurnLimit(20*time.Millisecond)))
	if status, _ := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 500 {
		t.Errorf("POST over the limit = %d, want 500", status)
	}
	natstest.Eventually(t, soon, "a turn is within its limit", func() bool { // on a busy machine, any may be over it
		status, body := h.call(t, http.MethodGet, "/agents/desk/jo", "")
		if status == 200 && body != "0" {
			t.Errorf("GET = %s, want what was before the turn that was dropped", body)
		}
		return status == 200
	})
}
