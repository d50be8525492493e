package agent

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	r.sendTo(t, "a", "go")
	r.tells(t, "jo", "a complete 4")
	r.sendTo(t, "b", "go")
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
			w, err := GetWorkflow(ctx, email, "a")
			if err != nil || w.State != workflow.Queued {
				t.Errorf("tracked in the turn: %+v, %v", w, err)
			}
			if same, err := w.Instance(ctx); err != nil || same.Approve(ctx, 1) != nil {
				t.Errorf("handle in the turn: %v", err)
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
			_, err := r.store.Append(q.Context(), i.Stream(), i.CreateSubject(), 0, body)
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

// TestReportsReachTheAgent: each once and in order, however often the code runs, and not while the agent has others to hear.
func TestReportsReachTheAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	r.emailRunner(t)
	h := r.host(t, clerks(nil, IdleAfter(1)), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=call+progress+event+wait+progress+wait+event+progress")
	r.tells(t, "jo", "called", "a progress 1", "a seat 2")
	if w, _ := r.tracked(t, "jo", "a"); w.State != workflow.Running {
		t.Errorf("tracked is %+v", w)
	}
	r.sendTo(t, "a", "go") // it parks and runs again from the top
	r.tells(t, "jo", "called", "a progress 1", "a seat 2", "a progress 4")
	body := []byte(`{"v":1,"input":"second","type":"go","payload":1}`)
	if _, err := r.store.Publish(t.Context(), emailInstance("a").EventSubject(), nil, body); err != nil {
		t.Fatal(err)
	}
	all := []string{"called", "a progress 1", "a seat 2", "a progress 4", "a seat 6", "a progress 7", "a complete 53"}
	r.tells(t, "jo", all...)
	r.inboxEmpty(t)
	r.tells(t, "jo", all...)
	if record, _ := r.record(t, "jo"); record.Turn != 8 {
		t.Errorf("%d turns, want 8: the start, and one for each thing told", record.Turn)
	}
}

// TestNoticesAreAppliedOnce: copies, late ones and those that are not for this agent are dropped.
func TestNoticesAreAppliedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	h := r.host(t, clerks(nil), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=wait")
	h.post(t, "/agents/desk/jo?id=b&do=wait")
	record, _ := r.record(t, "jo")
	inputs := map[string]string{"a": record.Workflows[0].Input, "b": record.Workflows[1].Input}
	tell := func(from string, life uint64, id, input string, sequence uint64, index int, text string) {
		t.Helper()
		r.mail(t, "jo", from, protocol.NoticeMail(protocol.Tracker{Life: life}, protocol.WorkflowNotice{
			Project: "email-workflows", Workflow: "EMAIL", ID: id, Input: input, Notice: protocol.Notice{
				Cursor: protocol.Cursor{Sequence: sequence, Index: index}, Kind: protocol.NoticeProgress, Value: []byte(`"` + text + `"`),
			},
		}, time.Now()))
	}
	const theirs = "email-workflows"
	for range 2 {
		tell(theirs, record.Life, "a", inputs["a"], 10, 9, "one")
	}
	tell(theirs, record.Life, "a", inputs["a"], 10, 17, "two") // of the same message of the log
	tell(theirs, record.Life, "b", inputs["b"], 4, 9, "of another")
	tell(theirs, record.Life, "a", inputs["a"], 10, 9, "late copy")
	tell(theirs, record.Life, "a", inputs["a"], 9, 9, "late")
	tell(theirs, record.Life+1, "a", inputs["a"], 11, 9, "of another life")
	tell(theirs, 0, "a", inputs["a"], 11, 9, "without a life")
	tell(theirs, record.Life, "a", "in-0", 11, 9, "of an earlier instance")
	tell("stranger", record.Life, "a", inputs["a"], 11, 9, "of a stranger")
	tell(theirs, record.Life, "c", inputs["a"], 11, 9, "not tracked")
	tell(theirs, record.Life, "a", inputs["a"], 12, 9, "three")
	r.inboxEmpty(t)
	r.tells(t, "jo", "a one", "a two", "b of another", "a three")
}

// TestAgentWithoutHandlers: what becomes of a workflow is noted, an error goes to OnError, or into the log.
func TestAgentWithoutHandlers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.emailRunner(t)
	failures := make(chan error, 10)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, _ http.ResponseWriter, q *http.Request) error {
			_, err := RunWorkflow(q.Context(), email, q.URL.Query().Get("do"), workflow.ID(q.URL.Query().Get("id")))
			return err
		}
		d.failed = func(_ context.Context, _ *desk, err error) error { failures <- err; return nil }
	}, Uses(email)), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=progress+event+event")
	h.post(t, "/agents/desk/jo?id=b&do=fail")
	natstest.Eventually(t, soon, "both ends are noted", func() bool {
		a, _ := r.tracked(t, "jo", "a")
		b, _ := r.tracked(t, "jo", "b")
		return a.State == workflow.Complete && b.State == workflow.Errored
	})
	r.inboxEmpty(t)
	ended, ok := errors.AsType[*workflow.InstanceError](<-failures)
	if !ok || ended.ID != "b" || !strings.Contains(ended.Message, "no luck") || len(failures) != 0 {
		t.Errorf("OnError got %v, and %d more", ended, len(failures))
	}
	if n := h.log.count("has no OnWorkflowEvent"); n != 1 {
		t.Errorf("that events are dropped is logged %d times, want once", n)
	}
}

// TestFailingCallbackIsGivenUp: tried again, then a dead letter, which can be redriven; the workflow is noted as ended.
func TestFailingCallbackIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.emailRunner(t)
	var broken atomic.Bool
	broken.Store(true)
	h := r.host(t, clerks(func(c *clerk) {
		c.heard = func(_ context.Context, _ *clerk, text string) error {
			if broken.Load() && text == "a complete 8" {
				return errors.New("not now")
			}
			return nil
		}
	}, Retry{MaxAttempts: 2, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=progress")
	letters := DeadLettersOf(r.program(t, project.Config{Name: testProject}))
	var dead DeadLetter
	natstest.Eventually(t, soon, "there is a dead letter", func() bool {
		for l, err := range letters.List(t.Context(), DeadFilter{}) {
			if err != nil {
				t.Fatal(err)
			}
			dead = l
		}
		return dead.ID != ""
	})
	if dead.Callback != "OnWorkflowComplete" || string(dead.Payload) != "8" || dead.Attempts != 2 || dead.From != "email-workflows" {
		t.Errorf("dead letter %+v", dead)
	}
	if w, _ := r.tracked(t, "jo", "a"); w.State != workflow.Complete {
		t.Errorf("tracked is %+v", w)
	}
	broken.Store(false)
	if err := letters.Redrive(t.Context(), dead.ID); err != nil {
		t.Fatal(err)
	}
	r.tells(t, "jo", "a progress 0", "a complete 8")
	r.inboxEmpty(t)
	if rows := r.rows(t, protocol.DeadBucket(testProject)); len(rows) != 0 {
		t.Errorf("dead letters are left: %v", rows)
	}
}

// TestCallbackGoesOutside: what a workflow tells is applied once also if its callback lets other turns in, and Save is not for it.
func TestCallbackGoesOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.emailRunner(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, clerks(func(c *clerk) {
		c.first = func(ctx context.Context, _ Value) error {
			if err := Save(ctx); !errors.Is(err, ErrInboxTurn) {
				t.Errorf("Save: %v", err)
			}
			return Outside(ctx, func(context.Context) error { close(outside); <-goOn; return nil })
		}
	}), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=progress")
	<-outside
	h.post(t, "/agents/desk/jo?id=b&do=progress+wait")
	r.tells(t, "jo", "a progress 0", "b progress 0")
	close(goOn)
	r.tells(t, "jo", "a progress 0", "b progress 0", "a complete 8")
	r.inboxEmpty(t)
	if w, _ := r.tracked(t, "jo", "a"); w.State != workflow.Complete {
		t.Errorf("tracked is %+v", w)
	}
}

// TestLargeResult: one that no message holds is read from where the workflow has put it.
func TestLargeResult(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	large := strings.Repeat("x", 2*protocol.InlinePayload)
	r.emailRunnerOf(t, workflow.Define("Onboarding", func(context.Context, workflow.Event[string]) (string, error) { return large, nil }))
	got := make(chan string, 1)
	h := r.host(t, clerks(func(c *clerk) {
		c.first = func(ctx context.Context, result Value) error {
			text, err := Decode[string](ctx, result)
			got <- text
			return errors.Join(err, &Error{Message: "seen"})
		}
	}, Retry{MaxAttempts: 1}), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=")
	if text := <-got; text != large {
		t.Errorf("got %d bytes, want %d", len(text), len(large))
	}
}
