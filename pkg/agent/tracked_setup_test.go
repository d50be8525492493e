package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// clerk is an agent that starts workflows, and notes in its state all that it is told of them.
type clerk struct {
	Base[deskState]
	request func(*clerk, http.ResponseWriter, *http.Request) error
	heard   func(ctx context.Context, c *clerk, text string) error
	first   func(ctx context.Context, result Value) error // before it notes that a workflow is complete
}

func (c *clerk) OnRequest(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodGet {
		_, err := fmt.Fprint(w, strings.Join(c.State().Log, "\n"))
		return err
	}
	if c.request != nil {
		return c.request(c, w, r)
	}
	query := r.URL.Query()
	if query.Has("destroy") {
		if query.Has("all") {
			return c.Destroy(r.Context(), TerminateWorkflows())
		}
		return c.Destroy(r.Context())
	}
	if query.Has("op") {
		return c.steer(r.Context(), query.Get("id"), query.Get("op"))
	}
	_, err := RunWorkflow(r.Context(), email, query.Get("do"), workflow.ID(query.Get("id")),
		workflow.Metadata(map[string]string{"by": r.URL.Path}))
	return err
}

// steer does with a workflow that it tracks what a word says.
func (c *clerk) steer(ctx context.Context, id, word string) error {
	w, err := GetWorkflow(ctx, email, id)
	if err != nil {
		return err
	}
	if word == "untrack" {
		return w.Untrack(ctx)
	}
	i, err := w.Instance(ctx)
	if err != nil {
		return err
	}
	switch word {
	case "approve":
		return i.Approve(ctx, 7, workflow.Reason("fine"))
	case "reject":
		return i.Reject(ctx, "too dear")
	case "event":
		return i.SendEvent(ctx, "go", 1)
	case "pause":
		return i.Pause(ctx)
	case "resume":
		return i.Resume(ctx)
	case "terminate":
		return i.Terminate(ctx)
	case "restart":
		return i.Restart(ctx)
	case "delete":
		return i.Delete(ctx)
	}
	return fmt.Errorf("unknown word %q", word)
}

// Start starts a workflow, whose id and params it is given.
func (c *clerk) Start(ctx context.Context, order string) (string, error) {
	id, do, _ := strings.Cut(order, ": ")
	i, err := RunWorkflow(ctx, email, do, workflow.ID(id))
	if err != nil {
		return "", err
	}
	return i.ID(), nil
}

func (c *clerk) OnWorkflowProgress(ctx context.Context, w Tracked, progress Value) error {
	text, err := Decode[string](ctx, progress)
	if err != nil {
		return err
	}
	return c.hears(ctx, w.ID+" "+text)
}

func (c *clerk) OnWorkflowEvent(ctx context.Context, w Tracked, event WorkflowEvent) error {
	text, err := Decode[string](ctx, event.Payload)
	if err != nil {
		return err
	}
	return c.hears(ctx, w.ID+" "+event.Type+" "+text)
}

// Note notes what a workflow calls it with.
func (c *clerk) Note(ctx context.Context, text string) (int, error) {
	err := c.hears(ctx, text)
	return len(c.State().Log), err
}

func (c *clerk) OnWorkflowComplete(ctx context.Context, w Tracked, result Value) error {
	if c.first != nil {
		if err := c.first(ctx, result); err != nil {
			return err
		}
	}
	n, err := Decode[int](ctx, result)
	if err != nil {
		return err
	}
	return c.hears(ctx, fmt.Sprintf("%s %s %d", w.ID, w.State, n))
}

func (c *clerk) OnWorkflowError(ctx context.Context, w Tracked, err error) error {
	if errors.Is(err, workflow.ErrExists) {
		return c.hears(ctx, w.ID+" exists")
	}
	if errors.Is(err, workflow.ErrRejected) {
		return c.hears(ctx, w.ID+" rejected")
	}
	return c.hears(ctx, fmt.Sprintf("%s %s", w.ID, w.State))
}

func (c *clerk) hears(ctx context.Context, text string) error {
	if err := c.Update(ctx, func(s *deskState) error { s.Log = append(s.Log, text); return nil }); err != nil {
		return err
	}
	if c.heard != nil {
		return c.heard(ctx, c, text)
	}
	return nil
}

func clerks(prepare func(*clerk), options ...ClassOption) []Class {
	return []Class{Define("Desk", func() *clerk {
		c := &clerk{}
		if prepare != nil {
			prepare(c)
		}
		return c
	}, append([]ClassOption{Uses(email), Callable((*clerk).Note)}, options...)...)}
}

// errand is the workflow of the tests: it does what its params say.
func errandWorkflow(ctx context.Context, e workflow.Event[string]) (int, error) {
	for i, word := range strings.Fields(e.Payload) {
		switch word {
		case "fail":
			return 0, errors.New("no luck")
		case "wait":
			if _, err := workflow.WaitForEvent[int](ctx, "wait", "go"); err != nil {
				return 0, err
			}
		case "progress":
			if err := workflow.ReportProgress(ctx, fmt.Sprintf("progress %d", i)); err != nil {
				return 0, err
			}
		case "event":
			if err := workflow.ReportEvent(ctx, "seat", fmt.Sprint(i)); err != nil {
				return 0, err
			}
		case "ask":
			answer, err := workflow.WaitForApproval[int](ctx, "ask")
			if err != nil {
				return 0, err
			}
			return answer.Metadata, nil
		case "step":
			if err := workflow.Exec(ctx, "step", func(context.Context) error { return nil }); err != nil {
				return 0, err
			}
		case "call":
			by, err := StartedBy[*clerk](ctx)
			if err != nil {
				return 0, err
			}
			if _, err := Call(ctx, by, (*clerk).Note, "called"); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("unknown word %q", word)
		}
	}
	return len(e.Payload), nil
}

// emailRunner runs the workflows of the e-mail project until the test ends, or stop is called. All waits park.
func (r *rig) emailRunner(t *testing.T) (stop func()) {
	t.Helper()
	return r.emailRunnerOf(t, workflow.Define("Onboarding", errandWorkflow))
}

func (r *rig) emailRunnerOf(t *testing.T, definition workflow.Definition) (stop func()) {
	t.Helper()
	config := project.Config{Name: "email-workflows", Workflows: []project.Workflow{{Name: "EMAIL", ClassName: "Onboarding"}}}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := project.Open(t.Context(), config, project.Conn(r.connect(t)), project.Logger(log))
	if err != nil {
		t.Fatal(err)
	}
	settings := execution.Settings{ShortWait: time.Nanosecond}
	ctx, cancel := context.WithCancel(execution.ContextWith(context.Background(), settings))
	ended := make(chan error, 1)
	go func() { ended <- project.Run(ctx, p, workflow.Runner(definition)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("runner ended: %v", err)
		}
		p.Close()
	})
	t.Cleanup(stop)
	return stop
}

// narrow makes the dedupe windows of the streams so short that they hide nothing.
func (r *rig) narrow(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		protocol.InboxStream(testProject), protocol.KVStream(protocol.AgentsBucket(testProject)), protocol.WorkflowsStream("email-workflows", 0),
	} {
		natstest.Ask(t, "narrow the window of "+name, func(ctx context.Context) error {
			s, err := r.js.Stream(ctx, name)
			if err != nil {
				return err
			}
			c := s.CachedInfo().Config
			c.Duplicates = 100 * time.Millisecond
			_, err = r.js.UpdateStream(ctx, c)
			return err
		})
	}
}

// emailInstance is an instance of the e-mail workflow.
func emailInstance(id string) protocol.Instance {
	return protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: id}
}

// tells reports whether the agent has noted exactly this, in this order.
func (r *rig) tells(t *testing.T, name string, want ...string) {
	t.Helper()
	var got []string
	natstest.Eventually(t, soon, fmt.Sprintf("agent %q has heard %q", name, want), func() bool {
		record, _ := r.record(t, name)
		var s deskState
		if record.State != nil {
			if err := json.Unmarshal(record.State, &s); err != nil {
				t.Fatal(err)
			}
		}
		got = s.Log
		return len(got) >= len(want)
	})
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("agent %q has heard %q, want %q", name, got, want)
	}
}

// tracked is what the record has of a workflow.
func (r *rig) tracked(t *testing.T, name, id string) (protocol.Tracked, bool) {
	t.Helper()
	record, _ := r.record(t, name)
	for _, w := range record.Workflows {
		if w.ID == id {
			return w, true
		}
	}
	return protocol.Tracked{}, false
}

// post sends a POST and wants 200.
func (h *testHost) post(t *testing.T, path string) string {
	t.Helper()
	status, body := h.call(t, http.MethodPost, path, "")
	if status != http.StatusOK {
		t.Fatalf("POST %s = %d %s", path, status, body)
	}
	return body
}
