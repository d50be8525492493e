package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// add appends to the log of the state.
func (d *desk) add(ctx context.Context, text string) error {
	return d.Update(ctx, func(s *deskState) error { s.Log = append(s.Log, text); return nil })
}

func TestSaveCommitsEarly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				_, err := fmt.Fprint(w, strings.Join(d.State().Log, " "))
				return err
			}
			for _, text := range []string{"one", "two"} {
				if err := d.add(q.Context(), text); err != nil {
					return err
				}
				if err := Save(q.Context()); err != nil {
					return err
				}
				record, _ := r.record(t, "jo")
				if want := strings.Join(d.State().Log, `","`); !strings.Contains(string(record.State), want) {
					t.Errorf("after Save the record holds %s, want %s", record.State, want)
				}
				if info, err := Info(q.Context()); err != nil || info.Turn != record.Turn+1 {
					t.Errorf("after Save the turn is %d, %v; want %d", info.Turn, err, record.Turn+1)
				}
			}
			if err := d.add(q.Context(), "three"); err != nil {
				return err
			}
			return errors.New("dropped")
		}
	}))
	if status, _ := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 500 {
		t.Errorf("POST = %d, want 500", status)
	}
	h.expect(t, "/agents/desk/jo", 200, "one two")
	if record, _ := r.record(t, "jo"); record.Turn != 2 || record.Revision != 2 {
		t.Errorf("turn %d, revision %d; want 2: one per Save", record.Turn, record.Revision)
	}
}

// TestSaveCarriesOut: what was saved does not wait for the end of the turn.
func TestSaveCarriesOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			task, err := Schedule(q.Context(), After(time.Hour), d.Ring, "x")
			if err != nil {
				return err
			}
			if err := Save(q.Context()); err != nil {
				return err
			}
			if r.row(t, protocol.SchedulesBucket(testProject), protocol.ScheduleKey("Desk", "jo", task.ID)) == nil {
				t.Error("the schedule of a saved draft is not there")
			}
			another, err := Schedule(q.Context(), After(time.Hour), d.Ring, "y")
			if another.ID == task.ID {
				t.Errorf("two schedules have the id %q", task.ID)
			}
			return err
		}
	}))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	natstest.Eventually(t, soon, "there are two schedules", func() bool { // the answer leaves before the second one is carried out
		return len(r.rows(t, protocol.SchedulesBucket(testProject))) == 2
	})
}

// TestOutsideLetsOthersIn: others have their turns while one is outside, and it goes on with what they have left.
func TestOutsideLetsOthersIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				_, err := fmt.Fprint(w, strings.Join(d.State().Log, " "))
				return err
			}
			if q.Method == http.MethodPut {
				return d.add(q.Context(), "other")
			}
			if err := d.add(q.Context(), "before"); err != nil {
				return err
			}
			err := Outside(q.Context(), func(ctx context.Context) error {
				if err := d.add(q.Context(), "forbidden"); !errors.Is(err, ErrNoTurn) {
					t.Errorf("SetState with the context of the turn, outside: %v, want ErrNoTurn", err)
				}
				if err := d.add(ctx, "forbidden"); !errors.Is(err, ErrNoTurn) {
					t.Errorf("SetState outside: %v, want ErrNoTurn", err)
				}
				close(outside)
				<-goOn
				return errors.New("from outside")
			})
			if err == nil || err.Error() != "from outside" {
				t.Errorf("Outside = %v, want the error of its function", err)
			}
			if got := strings.Join(d.State().Log, " "); got != "before other other" {
				t.Errorf("state after Outside: %q", got)
			}
			return d.add(q.Context(), "after")
		}
	}, IdleAfter(time.Millisecond)))
	var post sync.WaitGroup
	post.Go(func() {
		if status, body, err := h.tryCall(t.Context(), http.MethodPost, "/agents/desk/jo", ""); err != nil || status != 200 {
			t.Errorf("POST = %d %s, %v", status, body, err)
		}
	})
	<-outside
	h.expect(t, "/agents/desk/jo", 200, "before")
	h.call(t, http.MethodPut, "/agents/desk/jo", "")
	h.call(t, http.MethodPut, "/agents/desk/jo", "")
	close(goOn)
	post.Wait()
	h.expect(t, "/agents/desk/jo", 200, "before other other after")
}

// TestPanicOutside: the turn takes the agent back before it fails.
func TestPanicOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			return Outside(q.Context(), func(context.Context) error { panic("outside") })
		}
	}))
	for range 2 {
		if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 500 || !strings.Contains(body, "PanicError") {
			t.Errorf("POST = %d %s, want 500 PanicError", status, body)
		}
		h.expect(t, "/agents/desk/jo", 200, "0")
	}
}

// TestTurnsForMail: they are stored once; outside, their lane waits, and other lanes do not.
func TestTurnsForMail(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(outside); <-goOn })
	h := r.host(t, desks(func(d *desk) {
		d.ring = func(ctx context.Context, d *desk, text string) error {
			if err := Save(ctx); !errors.Is(err, ErrInboxTurn) {
				t.Errorf("Save in a turn for mail: %v, want ErrInboxTurn", err)
			}
			if err := Outside(ctx, func(context.Context) error { first(); return nil }); err != nil {
				return err
			}
			if err := d.add(ctx, text); err != nil {
				return err
			}
			if err := Outside(ctx, func(context.Context) error { t.Error("went outside"); return nil }); !errors.Is(err, ErrDraftOpen) {
				t.Errorf("Outside with an open draft: %v, want ErrDraftOpen", err)
			}
			return nil
		}
	}))
	h.expect(t, "/agents/desk/jo", 200, "0")
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 1, Callback: "Ring", Payload: []byte(`"a1"`)})
	<-outside
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 2, Callback: "Ring", Payload: []byte(`"a2"`)})
	r.mail(t, "jo", testProject, protocol.Mail{Source: "b", Number: 1, Callback: "Note", Payload: []byte(`"b1"`)})
	r.awaitRecord(t, "jo", "has the other lane's mail", func(p protocol.Record) bool { return strings.Contains(string(p.State), "b1") })
	close(goOn)
	r.inboxEmpty(t)
	record, _ := r.record(t, "jo")
	if string(record.State) != `{"Count":0,"Log":["b1","a1","a2"]}` || record.Seen["a"] != 2 || record.Turn != 3 {
		t.Errorf("state %s, marks %v after %d turns", record.State, record.Seen, record.Turn)
	}
}

// TestResultOutside: waiting for a workflow blocks a turn, and nothing outside of it.
func TestResultOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	waited := make(chan error, 1)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			instance, err := email.Create(q.Context(), "x", workflow.ID("u7"))
			if err != nil {
				return err
			}
			if _, err := instance.Result(q.Context()); !errors.Is(err, workflow.ErrWouldBlock) {
				t.Errorf("Result in a turn: %v, want ErrWouldBlock", err)
			}
			return Outside(q.Context(), func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				_, err := instance.Result(ctx)
				waited <- err
				return nil
			})
		}
	}, Uses(email)), withEmail)
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("POST = %d %s", status, body)
	}
	if err := <-waited; err == nil || errors.Is(err, workflow.ErrWouldBlock) || errors.Is(err, workflow.ErrNotFound) {
		t.Errorf("Result outside: %v, want that it has waited for an instance that exists", err)
	}
}

// TestSlowAndStuckTurns: a slow turn is told once; one that does not return is left behind, and the agent goes on.
func TestSlowAndStuckTurns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	defer close(release)
	stuck := func(ctx context.Context, d *desk) error {
		if err := d.SetState(ctx, deskState{Count: 99}); err != nil {
			return err
		}
		<-release
		return nil
	}
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodPut {
				return stuck(q.Context(), d)
			}
			return count(d, w, q)
		}
		d.ring = func(ctx context.Context, d *desk, _ string) error { return stuck(ctx, d) }
	}, TurnLimit(3*time.Second)), timings(func(t *timing) { t.slowTurn, t.stuckAfter = 2*time.Second, 20*time.Millisecond }))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	if status, body := h.call(t, http.MethodPut, "/agents/desk/jo", ""); status != 500 || !strings.Contains(body, "took too long") {
		t.Errorf("PUT = %d %s, want 500 and why", status, body)
	}
	h.expect(t, "/agents/desk/jo", 200, "1")
	if n := h.log.count("turn is slow"); n != 1 {
		t.Errorf("the slow turn was told %d times, want once", n)
	}
	for _, text := range []string{"turn is slow", "does not return"} {
		if line := h.log.line(text); !strings.Contains(line, "agent=jo") || !strings.Contains(line, "turn=2") {
			t.Errorf("%q says %q, want agent and turn in it", text, line)
		}
	}
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 1, Callback: "Ring", Payload: []byte(`"x"`), Retry: &protocol.Retry{MaxAttempts: 1}})
	r.awaitRecord(t, "jo", "has given the mail up", func(p protocol.Record) bool { return p.Seen["a"] == 1 })
	h.expect(t, "/agents/desk/jo", 200, "1")
	if dead := r.rows(t, protocol.DeadBucket(testProject)); len(dead) != 1 {
		t.Errorf("%d dead letters, want the mail whose turn does not return", len(dead))
	}
}

// TestOnStartThatIsStuck: whoever woke the agent is told, and the host goes on.
func TestOnStartThatIsStuck(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	defer close(release)
	h := r.host(t, append(desks(nil), Define("Stuck", func() *starter {
		return &starter{fail: func() error { <-release; return nil }}
	}, TurnLimit(30*time.Millisecond))), timings(func(t *timing) { t.stuckAfter = 10 * time.Millisecond }))
	if status, body := h.call(t, http.MethodGet, "/agents/stuck/jo", ""); status != 500 || !strings.Contains(body, "does not return") {
		t.Errorf("GET of an agent whose OnStart is stuck = %d %s, want 500 and why", status, body)
	}
	h.expect(t, "/agents/desk/jo", 200, "0")
}

// TestHostEndsWithATurnOutside: the turn is waited for, within the grace period.
func TestHostEndsWithATurnOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	first := r.host(t, desks(func(d *desk) {
		d.ring = func(ctx context.Context, d *desk, text string) error {
			if err := Outside(ctx, func(context.Context) error { close(outside); <-goOn; return nil }); err != nil {
				return err
			}
			return d.add(ctx, text)
		}
	}))
	r.mail(t, "jo", testProject, protocol.Mail{Source: "a", Number: 1, Callback: "Ring", Payload: []byte(`"x"`)})
	<-outside
	stopped := make(chan error, 1)
	go func() { stopped <- first.stop() }()
	time.AfterFunc(50*time.Millisecond, func() { close(goOn) })
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	record, _ := r.record(t, "jo")
	if string(record.State) != `{"Count":0,"Log":["x"]}` || record.Owner != "" {
		t.Errorf("record %+v, want the turn's state and no owner", record)
	}
}

// TestAgentLostWhileATurnIsOutside: the turn cannot go on, and what it asked for is not stored over the new owner's.
func TestAgentLostWhileATurnIsOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return d.add(q.Context(), "get")
			}
			err := Outside(q.Context(), func(context.Context) error { close(outside); <-goOn; return nil })
			if !errors.Is(err, ErrLostOwnership) {
				t.Errorf("Outside = %v, want ErrLostOwnership", err)
			}
			if err := d.add(q.Context(), "too late"); !errors.Is(err, ErrNoTurn) {
				t.Errorf("SetState after the agent was lost: %v, want ErrNoTurn", err)
			}
			return nil
		}
	}), timings(func(t *timing) { t.findWithin, t.leaseMisses = time.Second, silentForGood }))
	var post sync.WaitGroup
	post.Go(func() {
		status, body, err := h.tryCall(t.Context(), http.MethodPost, "/agents/desk/jo", "")
		if err != nil || status != 503 || !strings.Contains(body, "OwnershipLost") {
			t.Errorf("POST = %d %s, %v; want 503", status, body, err)
		}
	})
	<-outside
	r.fakeHost(t, "other")
	r.own(t, "jo", "other")
	h.call(t, http.MethodGet, "/agents/desk/jo", "") // its commit is refused
	close(goOn)
	post.Wait()
	if record, _ := r.record(t, "jo"); string(record.State) != `{"Count":5}` {
		t.Errorf("state %s, want that of the other host", record.State)
	}
}
