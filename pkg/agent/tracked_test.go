package agent

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestTrackedWorkflowTellsItsEnd: success and failure are told by themselves, once, also if the agent sleeps.
func TestTrackedWorkflowTellsItsEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	r.emailRunner(t)
	h := r.host(t, clerks(nil, IdleAfter(1)), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=wait")
	h.post(t, "/agents/desk/jo?id=b&do=wait+fail")
	w, ok := r.tracked(t, "jo", "a")
	if !ok || w.State != workflow.Queued || w.Metadata["by"] != "/agents/desk/jo" {
		t.Errorf("tracked is %+v", w)
	}
	r.awaitRecord(t, "jo", "sleeps", func(p protocol.Record) bool { return p.Owner == "" && p.Turn == 2 })
	p := r.program(t, project.Config{Name: testProject, Workflows: []project.Workflow{{Name: "EMAIL", ClassName: "Onboarding", ScriptName: "email-workflows"}}})
	send := func(id string) {
		t.Helper()
		i, err := email.In(p).Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.SendEvent(t.Context(), "go", 1); err != nil {
			t.Fatal(err)
		}
	}
	send("a")
	r.tells(t, "jo", "a complete 4")
	send("b")
	r.tells(t, "jo", "a complete 4", "b errored")
	r.inboxEmpty(t)
	if w, _ := r.tracked(t, "jo", "b"); w.State != workflow.Errored || w.Error == nil || !strings.Contains(w.Error.Message, "no luck") || w.Expires == nil {
		t.Errorf("tracked is %+v", w)
	}
}

// TestRunWorkflowIsPartOfTheTurn: what fails with the turn, or is refused, is neither started nor tracked.
func TestRunWorkflowIsPartOfTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	unknown := workflow.Bind[string, int]("NOBODY")
	h := r.host(t, clerks(func(c *clerk) {
		c.request = func(c *clerk, _ http.ResponseWriter, q *http.Request) error {
			ctx := q.Context()
			i, err := RunWorkflow(ctx, email, "wait", workflow.ID("a"))
			if err != nil {
				return err
			}
			if status, err := i.Status(ctx); err != nil || status.State != workflow.Queued {
				t.Errorf("status in the turn: %+v, %v", status, err)
			}
			if _, err := RunWorkflow(ctx, email, "wait", workflow.ID("a")); !errors.Is(err, workflow.ErrExists) {
				t.Errorf("twice in a turn: %v", err)
			}
			for what, options := range map[string][]workflow.CreateOption{
				"OnExisting":           {workflow.OnExisting(workflow.ReturnExisting)},
				"Metadata":             {workflow.Metadata(map[string]string{"k": strings.Repeat("x", protocol.MaxMetadata)})},
				"Metadata key":         {workflow.Metadata(map[string]string{"": "x"})},
				`Metadata "not utf-8"`: {workflow.Metadata(map[string]string{"not utf-8": "\xff"})},
			} {
				_, err := RunWorkflow(ctx, email, "wait", options...)
				if refused, ok := errors.AsType[*workflow.OptionError](err); !ok || refused.Option != what {
					t.Errorf("%s: %v", what, err)
				}
			}
			if _, err := RunWorkflow(ctx, email, "wait", workflow.ID("a b")); !errors.Is(err, protocol.ErrName) {
				t.Errorf("bad id: %v", err)
			}
			if _, err := RunWorkflow(ctx, unknown, "wait"); err == nil || !strings.Contains(err.Error(), "NOBODY") {
				t.Errorf("unknown binding: %v", err)
			}
			if _, err := email.Create(ctx, "wait", workflow.Metadata(map[string]string{"k": "v"})); !errors.Is(err, workflow.ErrOption) {
				t.Errorf("metadata of what is not tracked: %v", err)
			}
			return errors.New("dropped")
		}
	}), withEmail)
	if status, _ := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 500 {
		t.Errorf("POST = %d, want 500", status)
	}
	if r.createOf(t, "a") != nil {
		t.Error("a dropped turn has started an instance")
	}
	if _, ok := r.tracked(t, "jo", "a"); ok {
		t.Error("a dropped turn has tracked an instance")
	}
	if _, err := RunWorkflow(t.Context(), email, "wait"); !errors.Is(err, ErrNoTurn) {
		t.Errorf("outside of a turn: %v, want ErrNoTurn", err)
	}
}

// TestTrackedStartThatLosesARace: that the id was taken when the turn was stored is told to OnWorkflowError, once.
func TestTrackedStartThatLosesARace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	h := r.host(t, clerks(func(c *clerk) {
		c.request = func(c *clerk, _ http.ResponseWriter, q *http.Request) error {
			if _, err := RunWorkflow(q.Context(), email, "wait", workflow.ID("raced")); err != nil {
				return err
			}
			body := []byte(`{"v":1,"input":"theirs","workflow":"EMAIL","id":"raced"}`)
			i := emailInstance("raced")
			_, err := r.store.Append(q.Context(), protocol.WorkflowsStream(i.Project), i.CreateSubject(), 0, body)
			return err
		}
	}), withEmail)
	h.post(t, "/agents/desk/jo")
	r.tells(t, "jo", "raced exists")
	r.inboxEmpty(t)
	if w, ok := r.tracked(t, "jo", "raced"); !ok || w.State != workflow.Errored {
		t.Errorf("tracked is %+v", w)
	}
	natstest.Eventually(t, soon, "the outbox is empty", func() bool {
		record, _ := r.record(t, "jo")
		return len(record.Outbox) == 0 || record.Turn == 2
	})
}
