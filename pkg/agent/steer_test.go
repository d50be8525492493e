package agent

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// stored reads the newest message of a subject of the e-mail project; its sequence is 0 if there is none.
func (r *rig) stored(t *testing.T, subject string, into any) uint64 {
	t.Helper()
	m, err := r.store.Last(t.Context(), protocol.WorkflowsStream("email-workflows", 0), subject)
	if isNotFound(err) {
		return 0
	}
	if err == nil {
		err = json.Unmarshal(m.Data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Sequence
}

// TestControlsAreStoredWithTheTurn: none of a turn that fails, all of one that is stored, in their order.
func TestControlsAreStoredWithTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			ctx := r.Context()
			instance, err := email.Create(ctx, "params", workflow.ID("u7"))
			if err != nil {
				return err
			}
			if err := errors.Join(instance.SendEvent(ctx, "paid", 1, workflow.EventID("p1")), instance.Pause(ctx)); err != nil {
				return err
			}
			if err := instance.Restart(ctx, workflow.FromStep(workflow.StepDo, "pay", 1)); !errors.Is(err, workflow.ErrUnknownStep) {
				t.Errorf("restart from a step of what has not begun: %v", err)
			}
			if found, err := email.Get(ctx, "u7"); err != nil || found.Terminate(ctx) != nil {
				t.Errorf("get in the same turn: %v", err)
			}
			if _, err := email.Get(ctx, "nobody"); !errors.Is(err, workflow.ErrNotFound) {
				t.Errorf("get of nothing: %v", err)
			}
			again, err := email.Create(ctx, "again", workflow.ID("u7"), workflow.OnExisting(workflow.RestartExisting))
			if err != nil || again.Origin() != workflow.Restarted {
				t.Errorf("create of what the turn creates: %v", err)
			}
			if r.Method == http.MethodPut {
				return errors.New("dropped")
			}
			return nil
		}
	}, Uses(email)), withEmail)
	i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: "u7"}
	var control protocol.Control
	if status, _ := h.call(t, http.MethodPut, "/agents/desk/jo", ""); status != 500 {
		t.Errorf("PUT = %d, want 500", status)
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("POST = %d %s", status, body)
	}
	r.awaitRecord(t, "jo", "has carried out all", func(p protocol.Record) bool { return p.Turn == 1 })
	natstest.Eventually(t, soon, "the last control is stored", func() bool {
		return r.stored(t, i.ControlSubject(), &control) > 0 && control.Action == protocol.ActionRestart
	})
	// nothing before, between or after
	if got, want := r.sentTo(t, i), []string{"create", "event p1", "pause", "terminate", "restart"}; !slices.Equal(got, want) {
		t.Errorf("stored are %q, want %q", got, want)
	}
	want := protocol.Source{Kind: "agent", Project: testProject, Class: "Desk", Name: "jo"}
	if control.Source != want || control.From != nil || control.Input == "" {
		t.Errorf("control %+v", control)
	}
}

// sentTo is all that was ever sent to an instance, in order. What is stored twice under one id, as its sender did not hear
// that it was, counts once.
func (r *rig) sentTo(t *testing.T, i protocol.Instance) (sent []string) {
	t.Helper()
	messages, more, err := r.store.Page(t.Context(), i.Stream(), ">", 1, 100)
	if err != nil || more {
		t.Fatal(err, more)
	}
	known := map[string]bool{}
	for _, m := range messages {
		var what struct{ Input, Action string }
		if err := json.Unmarshal(m.Data, &what); err != nil || what.Input == "" {
			t.Fatalf("%s holds %s: %v", m.Subject, m.Data, err)
		}
		if known[what.Input] {
			continue
		}
		known[what.Input] = true
		switch m.Subject {
		case i.CreateSubject():
			sent = append(sent, "create")
		case i.EventSubject():
			sent = append(sent, "event "+what.Input)
		case i.ControlSubject():
			sent = append(sent, what.Action)
		default:
			t.Errorf("%s holds %s", m.Subject, m.Data)
		}
	}
	return sent
}

// TestExistingInstanceInATurn: what is done is what is known when the outbox is carried out.
func TestExistingInstanceInATurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	theirs := func(id string) uint64 {
		i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: id}
		body := []byte(`{"v":1,"input":"theirs","workflow":"EMAIL","id":"` + id + `"}`)
		sequence, err := r.store.Append(t.Context(), i.Stream(), i.CreateSubject(), 0, body)
		if err != nil {
			t.Error(err)
		}
		return sequence
	}
	there := theirs("there")
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			ctx := r.Context()
			found, err := email.Create(ctx, "params", workflow.ID("there"), workflow.OnExisting(workflow.ReturnExisting))
			if err != nil || found.Origin() != workflow.Found {
				t.Errorf("return existing: %v", err)
			}
			restarted, err := email.Create(ctx, "params", workflow.ID("there"), workflow.OnExisting(workflow.RestartExisting))
			if err != nil || restarted.Origin() != workflow.Restarted {
				t.Errorf("restart existing: %v", err)
			}
			if _, err := email.Create(ctx, "params", workflow.ID("there")); !errors.Is(err, workflow.ErrExists) {
				t.Errorf("fail: %v", err)
			}
			created, err := email.Create(ctx, "params", workflow.ID("raced"), workflow.OnExisting(workflow.RestartExisting))
			if err != nil || created.Origin() != workflow.Created {
				t.Errorf("create: %v", err)
			}
			theirs("raced")
			return nil
		}
	}, Uses(email)), withEmail)
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("POST = %d %s", status, body)
	}
	for _, id := range []string{"there", "raced"} {
		i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: id}
		var control protocol.Control
		natstest.Eventually(t, soon, id+" is told to begin again", func() bool { return r.stored(t, i.ControlSubject(), &control) > 0 })
		if control.Action != protocol.ActionRestart || control.Incarnation < there {
			t.Errorf("control of %s: %+v", id, control)
		}
		if c := r.createOf(t, id); c == nil || c.Input != "theirs" {
			t.Errorf("create of %s: %+v", id, c)
		}
	}
}

// TestDeleteAndCreateInOneTurn: the new instance waits until the old one is gone.
func TestDeleteAndCreateInOneTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				return count(d, w, r)
			}
			ctx := r.Context()
			if r.Method == http.MethodPut {
				_, err := email.Create(ctx, "old", workflow.ID("u7"))
				return err
			}
			instance, err := email.Get(ctx, "u7")
			if err != nil {
				return err
			}
			if err := instance.Delete(ctx); err != nil {
				return err
			}
			_, err = email.Create(ctx, "new", workflow.ID("u7"))
			return err
		}
	}, Uses(email)), withEmail, timings(func(t *timing) { t.carryOut, t.retryFirst, t.retryMost = quickPause, quickPause, quickPause }))
	h.call(t, http.MethodPut, "/agents/desk/jo", "")
	natstest.Eventually(t, soon, "the instance is there", func() bool { return r.createOf(t, "u7") != nil })
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 {
		t.Fatalf("POST = %d %s", status, body)
	}
	i := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: "u7"}
	var control protocol.Control
	natstest.Eventually(t, soon, "it is told to go", func() bool {
		return r.stored(t, i.ControlSubject(), &control) > 0 && control.Action == protocol.ActionDelete
	})
	for _, subject := range []string{i.InputsSubject(), i.ControlSubject()} { // as its runner does
		if err := r.store.Purge(t.Context(), i.Stream(), subject, 1000); err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, soon, "the new instance is there", func() bool {
		c := r.createOf(t, "u7")
		return c != nil && string(c.Params) == `"new"`
	})
}

// TestSourceOfACallback: it is the schedule that asks.
func TestSourceOfACallback(t *testing.T) {
	t.Parallel()
	d := &draft{agent: protocol.Agent{Project: "p", Class: "Desk", Name: "jo"}, firing: &Moment{}}
	if got := d.Source(); got != (protocol.Source{Kind: "schedule", Project: "p", Class: "Desk", Name: "jo"}) {
		t.Errorf("source is %+v", got)
	}
}
