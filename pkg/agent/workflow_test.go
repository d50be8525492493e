package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

const quickPause = 200 * time.Millisecond

var email = workflow.Bind[string, int]("EMAIL")

func withEmail(_ *HostService, c *project.Config) {
	c.Workflows = []project.Workflow{{Name: "EMAIL", ClassName: "Onboarding", ScriptName: "email-workflows"}}
}

// emailProject registers the project that the binding leads to, without a runner.
func (r *rig) emailProject(t *testing.T) {
	t.Helper()
	r.workflows(t, "email-workflows")
	err := streams.RegisterWorkflows(t.Context(), r.js, "email-workflows", 1, map[string]string{"EMAIL": "Onboarding"})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) createOf(t *testing.T, id string) *protocol.Create {
	t.Helper()
	i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: id}
	m, err := r.store.Last(t.Context(), i.Stream(), i.CreateSubject())
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var c protocol.Create
	if err := json.Unmarshal(m.Data, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestWorkflowStartsWithTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			id := r.URL.Query().Get("id")
			instance, err := email.Create(r.Context(), "params", workflow.ID(id))
			if err != nil {
				return err
			}
			status, err := instance.Status(r.Context())
			if err != nil || status.State != workflow.Queued {
				t.Errorf("status in the turn: %+v, %v; want queued", status, err)
			}
			if _, err := email.Create(r.Context(), "again", workflow.ID(id)); !errors.Is(err, workflow.ErrExists) {
				t.Errorf("second create in the turn: %v, want ErrExists", err)
			}
			if r.Method == http.MethodPut {
				return errors.New("dropped")
			}
			_, err = io.WriteString(w, instance.ID())
			return err
		}
	}, Uses(email)), withEmail)
	if status, _ := h.call(t, http.MethodPut, "/agents/desk/jo?id=dropped", ""); status != 500 {
		t.Errorf("PUT = %d, want 500", status)
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?id=u7", ""); status != 200 || body != "u7" {
		t.Errorf("POST = %d %s", status, body)
	}
	natstest.Eventually(t, soon, "the create is published", func() bool { return r.createOf(t, "u7") != nil })
	create := r.createOf(t, "u7")
	want := protocol.Source{Kind: "agent", Project: testProject, Class: "Desk", Name: "jo"}
	if create.Source != want || string(create.Params) != `"params"` {
		t.Errorf("create %+v", create)
	}
	if r.createOf(t, "dropped") != nil {
		t.Error("a dropped turn has started an instance")
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?id=u7", ""); status != 500 || !strings.Contains(body, "instance exists") {
		t.Errorf("POST of an id that is taken = %d %s, want the error", status, body)
	}
}

// TestBatchesWithTheTurn: a batch is part of the commit, all of it or nothing, and what is known of ids is told at once.
func TestBatchesWithTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodDelete {
				gone, err := email.DeleteBatch(r.Context(), []string{"b0", "nobody", "b1", "b0"})
				if err != nil || gone[0].Err != nil || !errors.Is(gone[1].Err, workflow.ErrNotFound) || gone[2].Err != nil || gone[3].Err != nil {
					t.Errorf("deleted in the turn: %+v, %v", gone, err)
				}
				return nil
			}
			name := r.URL.Query().Get("name")
			items := []workflow.BatchItem[string]{workflow.Item("again", workflow.ID("b1"))}
			for n := range 20 {
				items = append(items, workflow.Item("params", workflow.ID(fmt.Sprint(name, n))))
			}
			batch, err := email.CreateBatch(r.Context(), items)
			if err != nil {
				return err
			}
			if batch.Err() != nil || len(batch) != 21 {
				t.Errorf("%d outcomes, %v", len(batch), batch.Err())
			}
			if r.Method == http.MethodPut {
				return errors.New("dropped")
			}
			_, err = fmt.Fprint(w, len(batch.Instances()))
			return err
		}
	}, Uses(email)), withEmail)
	if status, _ := h.call(t, http.MethodPut, "/agents/desk/jo?name=dropped", ""); status != 500 {
		t.Errorf("PUT = %d, want 500", status)
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?name=b", ""); status != 200 || body != "20" { // b1 comes twice
		t.Errorf("POST = %d %s", status, body)
	}
	natstest.Eventually(t, soon, "the creates are published", func() bool { return r.createOf(t, "b19") != nil })
	for n := range 20 {
		if c := r.createOf(t, fmt.Sprint("b", n)); c == nil || (string(c.Params) == `"again"`) != (n == 1) {
			t.Errorf("create %d is %+v", n, c)
		}
		if r.createOf(t, fmt.Sprint("dropped", n)) != nil {
			t.Error("a dropped turn has started an instance")
		}
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?name=c", ""); status != 200 || body != "20" { // b1 is taken
		t.Errorf("POST = %d %s", status, body)
	}
	if status, body := h.call(t, http.MethodDelete, "/agents/desk/jo", ""); status != 200 {
		t.Errorf("DELETE = %d %s", status, body)
	}
	for _, id := range []string{"b0", "b1"} {
		i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: id}
		natstest.Eventually(t, soon, id+" is told to go", func() bool {
			_, err := r.store.Last(t.Context(), i.Stream(), i.ControlSubject())
			return err == nil
		})
	}
}

func TestStartThatLosesARaceIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	var mu sync.Mutex
	var failures []error
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				return count(d, w, q)
			}
			if _, err := email.Create(q.Context(), "params", workflow.ID("raced")); err != nil {
				return err
			}
			// Between the check in the turn and the start, somebody else takes the id.
			i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: "raced"}
			body := []byte(`{"v":1,"input":"theirs","workflow":"EMAIL","id":"raced"}`)
			if _, err := r.store.Append(q.Context(), i.Stream(), i.CreateSubject(), 0, body); err != nil {
				return err
			}
			if _, err := email.Create(q.Context(), "params", workflow.ID("after")); err != nil {
				return err
			}
			return d.SetState(q.Context(), deskState{Count: 5})
		}
		d.failed = func(_ context.Context, _ *desk, err error) error {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, err)
			return nil
		}
	}, Uses(email)), withEmail)
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("POST = %d %s", status, body)
	}
	h.expect(t, "/agents/desk/jo", 200, "5")
	mu.Lock()
	defer mu.Unlock()
	var refused *RefusedError
	if len(failures) != 1 || !errors.As(failures[0], &refused) || !errors.Is(failures[0], workflow.ErrExists) {
		t.Errorf("OnError got %v, want one RefusedError that is ErrExists", failures)
	}
	if r.createOf(t, "after") == nil || r.createOf(t, "raced").Input != "theirs" {
		t.Error("the refused entry held up the one behind it, or replaced what was there")
	}
}

func TestWhatCannotBeCarriedOutHoldsNothingUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	target := protocol.OutgoingTarget{Project: "email-workflows", Workflow: "EMAIL", ID: "u7"}
	r.own(t, "jo", "dead",
		protocol.Outgoing{ID: "1.1.1", Kind: protocol.OutgoingCreate, Instance: &target,
			Create: &protocol.Create{V: protocol.Version, Input: "in1", Workflow: "EMAIL", ID: "u7"}},
		protocol.Outgoing{ID: "1.1.2", Kind: protocol.OutgoingSchedule, Schedule: &protocol.Schedule{ID: "s1"}})
	h := r.host(t, desks(nil, IdleAfter(1)), timings(func(t *timing) {
		t.carryOut, t.retryFirst, t.retryMost = quickPause, quickPause, quickPause
	}))
	h.expect(t, "/agents/desk/jo", 200, "5") // the stream of the other project does not exist
	natstest.Eventually(t, soon, "the schedule does not wait for the workflow", func() bool {
		return r.row(t, protocol.SchedulesBucket(testProject), protocol.ScheduleKey("Desk", "jo", "s1")) != nil
	})
	record := r.awaitRecord(t, "jo", "has had a new turn and carried out one entry", func(p protocol.Record) bool {
		if p.Turn > 1 && len(p.Outbox) == 1 {
			return true
		}
		h.call(t, http.MethodPost, "/agents/desk/jo", "") // a busy machine tries more than once, and turns pass by then
		return false
	})
	if record.Outbox[0].ID != "1.1.1" {
		t.Errorf("record %+v, want what is still to be done", record)
	}
	r.emailProject(t)
	natstest.Eventually(t, soon, "the instance is started", func() bool { return r.createOf(t, "u7") != nil })
	r.awaitRecord(t, "jo", "is let go with an empty outbox", func(p protocol.Record) bool { return p.Owner == "" && len(p.Outbox) == 0 })
}
