package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestAgentApproves: an agent starts what waits for a person, and hands the person's answer on.
func TestAgentApproves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.emailRunner(t)
	h := r.host(t, clerks(nil, IdleAfter(1)), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=progress+ask")
	h.post(t, "/agents/desk/jo?id=b&do=ask")
	r.tells(t, "jo", "a progress 0")
	h.post(t, "/agents/desk/jo?id=a&op=approve")
	r.tells(t, "jo", "a progress 0", "a complete 7")
	h.post(t, "/agents/desk/jo?id=b&op=reject")
	r.tells(t, "jo", "a progress 0", "a complete 7", "b rejected")
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?id=b&op=approve", ""); status != 500 || !strings.Contains(body, "has ended") {
		t.Errorf("approve what has ended: %d %s", status, body)
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?id=c&op=approve", ""); status != 500 || !strings.Contains(body, "does not track") {
		t.Errorf("approve what is not tracked: %d %s", status, body)
	}
}

// TestAgentSteersItsWorkflows: controls leave with the turn, and what comes of them is told.
func TestAgentSteersItsWorkflows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	r.emailRunner(t)
	h := r.host(t, clerks(nil), withEmail)
	becomes := func(id string, state workflow.State) {
		t.Helper()
		natstest.Eventually(t, soon, fmt.Sprintf("%s is %s", id, state), func() bool {
			w, _ := r.tracked(t, "jo", id)
			return w.State == state
		})
	}
	h.post(t, "/agents/desk/jo?id=a&do=progress+wait")
	r.tells(t, "jo", "a progress 0")
	h.post(t, "/agents/desk/jo?id=a&op=pause")
	becomes("a", workflow.Paused)
	h.post(t, "/agents/desk/jo?id=a&op=event")
	h.post(t, "/agents/desk/jo?id=a&op=resume")
	r.tells(t, "jo", "a progress 0", "a complete 13")
	h.post(t, "/agents/desk/jo?id=a&op=restart") // also after its end, and then everything is told again
	r.tells(t, "jo", "a progress 0", "a complete 13", "a progress 0")
	becomes("a", workflow.Running)
	h.post(t, "/agents/desk/jo?id=a&op=terminate")
	all := []string{"a progress 0", "a complete 13", "a progress 0", "a terminated"}
	r.tells(t, "jo", all...)
	h.post(t, "/agents/desk/jo?id=a&op=delete")
	if w, ok := r.tracked(t, "jo", "a"); ok {
		t.Errorf("what is deleted is tracked: %+v", w)
	}
	natstest.Eventually(t, soon, "the instance is gone", func() bool { return r.createOf(t, "a") == nil })
	h.post(t, "/agents/desk/jo?id=a&do=wait") // the id is free
	h.post(t, "/agents/desk/jo?id=a&op=delete")
	natstest.Eventually(t, soon, "the instance is gone again", func() bool { return r.createOf(t, "a") == nil })
	r.inboxEmpty(t)
	r.tells(t, "jo", all...)
}

// lister is one list of an agent's workflows.
type lister struct {
	filter WorkflowFilter
	page   WorkflowPage
	err    error
}

func (l *lister) ids() string {
	var ids []string
	for _, w := range l.page.Workflows {
		ids = append(ids, w.ID)
	}
	return strings.Join(ids, " ")
}

func TestListWorkflows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	started := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	var tracked []protocol.Tracked
	for n, state := range []workflow.State{workflow.Queued, workflow.Running, workflow.Complete, workflow.Errored, workflow.Running} {
		at := started.Add(time.Duration(n) * time.Hour)
		w := protocol.Tracked{
			OutgoingTarget: protocol.OutgoingTarget{Project: "email-workflows", Workflow: "EMAIL", ID: fmt.Sprint("w", n)},
			Input:          fmt.Sprint("in-", n), State: state, Created: at, Updated: at, Metadata: map[string]string{"n": fmt.Sprint(n % 2), "all": "yes"},
		}
		if state.Finished() {
			w.Expires = new(time.Now().Add(time.Hour))
		}
		tracked = append(tracked, w)
	}
	tracked[4].Workflow = "OTHER"
	gone := tracked[2]
	gone.ID, gone.Input, gone.Expires = "gone", "in-gone", new(started)
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "jo"), protocol.Record{
		V: protocol.Version, Class: "Desk", Name: "jo", Commit: "c", Workflows: append(slices.Clone(tracked), gone),
	})
	var asked lister
	h := r.host(t, clerks(func(c *clerk) {
		c.request = func(c *clerk, _ http.ResponseWriter, q *http.Request) error {
			asked.page, asked.err = ListWorkflows(q.Context(), asked.filter)
			return nil
		}
	}), withEmail)
	list := func(f WorkflowFilter) *lister {
		t.Helper()
		asked = lister{filter: f}
		h.post(t, "/agents/desk/jo")
		return &asked
	}
	for _, c := range []struct {
		name   string
		filter WorkflowFilter
		want   string
	}{
		{"all", WorkflowFilter{}, "w4 w3 w2 w1 w0"},
		{"oldest first", WorkflowFilter{OldestFirst: true}, "w0 w1 w2 w3 w4"},
		{"of a binding", WorkflowFilter{Binding: email}, "w3 w2 w1 w0"},
		{"states", WorkflowFilter{States: []workflow.State{workflow.Running, workflow.Errored}}, "w4 w3 w1"},
		{"metadata", WorkflowFilter{Metadata: map[string]string{"n": "0", "all": "yes"}}, "w4 w2 w0"},
		{"other metadata", WorkflowFilter{Metadata: map[string]string{"m": ""}}, ""},
		{"created", WorkflowFilter{From: started.Add(time.Hour), To: started.Add(3 * time.Hour)}, "w2 w1"},
		{"all of it", WorkflowFilter{Binding: email, States: []workflow.State{workflow.Queued}, Metadata: map[string]string{"n": "0"}, Limit: 1}, "w0"},
	} {
		l := list(c.filter)
		if l.err != nil || l.ids() != c.want || l.page.Total != len(strings.Fields(c.want)) || l.page.Next != "" {
			t.Errorf("%s: %q of %d, next %q, %v; want %q", c.name, l.ids(), l.page.Total, l.page.Next, l.err, c.want)
		}
	}
	for _, oldest := range []bool{false, true} {
		var pages []string
		for f := (WorkflowFilter{Limit: 2, OldestFirst: oldest}); ; {
			l := list(f)
			if pages = append(pages, l.ids()); l.err != nil || l.page.Total != 5 {
				t.Fatalf("page of %d, %v", l.page.Total, l.err)
			}
			if f.After = l.page.Next; f.After == "" {
				break
			}
		}
		if want := map[bool]string{false: "[w4 w3 w2 w1 w0]", true: "[w0 w1 w2 w3 w4]"}[oldest]; len(pages) != 3 || fmt.Sprint(pages) != want {
			t.Errorf("pages %q, want %s", pages, want)
		}
	}
	for field, f := range map[string]WorkflowFilter{
		"States": {States: []workflow.State{"asleep"}},
		"Limit":  {Limit: 101},
		"To":     {From: started, To: started},
		"After":  {After: "yesterday"},
	} {
		l := list(f)
		if refused, ok := errors.AsType[*WorkflowFilterError](l.err); !ok || refused.Field != field {
			t.Errorf("bad %s: %v", field, l.err)
		}
	}
	if l := list(WorkflowFilter{Binding: workflow.Bind[int, int]("NOBODY")}); l.err == nil {
		t.Error("a binding that is none is not refused")
	}
	if _, err := ListWorkflows(context.Background(), WorkflowFilter{}); !errors.Is(err, ErrNoTurn) {
		t.Errorf("outside of a turn: %v", err)
	}
}

// TestTrackingHasLimits: of those that run, a typed error; of those that have ended, the oldest go.
func TestTrackingHasLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	began := time.Now().UTC()
	of := func(prefix string, n int, state workflow.State) protocol.Tracked {
		id := fmt.Sprint(prefix, n)
		at := began.Add(time.Duration(n) * time.Second)
		return protocol.Tracked{
			OutgoingTarget: protocol.OutgoingTarget{Project: "email-workflows", Workflow: "EMAIL", ID: id}, Input: id,
			State: state, Created: at, Updated: at,
		}
	}
	var all []protocol.Tracked
	for n := range protocol.MaxTracked - 1 {
		all = append(all, of("run", n, workflow.Running))
	}
	for n := range protocol.MaxTrackedEnded + 3 {
		all = append(all, of("end", n, workflow.Complete))
	}
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "jo"), protocol.Record{V: protocol.Version, Class: "Desk", Name: "jo", Commit: "c", Workflows: all})
	h := r.host(t, clerks(nil), withEmail)
	h.post(t, "/agents/desk/jo?id=last&do=wait")
	record := r.awaitRecord(t, "jo", "has a turn", func(p protocol.Record) bool { return p.Turn == 1 })
	if n := len(record.Workflows); n != protocol.MaxTracked+protocol.MaxTrackedEnded {
		t.Errorf("the record has %d workflows", n)
	}
	for n := range 4 {
		if _, ok := r.tracked(t, "jo", fmt.Sprint("end", n)); ok != (n == 3) {
			t.Errorf("end%d is remembered: %v", n, ok)
		}
	}
	status, body := h.call(t, http.MethodPost, "/agents/desk/jo?id=toomany&do=wait", "")
	if status != 500 || !strings.Contains(body, "TooManyWorkflowsError") {
		t.Errorf("one too many: %d %s", status, body)
	}
	if r.createOf(t, "toomany") != nil {
		t.Error("it was started all the same")
	}
}

// TestDestroyAndWorkflows: they go on and nobody is told, or they are terminated with the agent; what others have started, also
// under an id that was tracked, is left alone.
func TestDestroyAndWorkflows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.narrow(t)
	r.emailRunner(t)
	h := r.host(t, clerks(nil), withEmail)
	p := r.program(t, deskConfig())
	state := func(id string) workflow.State {
		i, err := email.In(p).Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		status, err := i.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.State
	}
	h.post(t, "/agents/desk/jo?id=a&do=wait")
	h.post(t, "/agents/desk/jo?destroy")
	natstest.Eventually(t, soon, "the agent is gone", func() bool { _, exists := r.record(t, "jo"); return !exists })
	h.post(t, "/agents/desk/jo?id=b&do=wait") // of the next life
	r.sendTo(t, "a", "go")
	natstest.Eventually(t, soon, "the workflow of the life before ends", func() bool { return state("a") == workflow.Complete })
	r.inboxEmpty(t)
	r.tells(t, "jo")
	if err := Destroy(t.Context(), clerkClass.In(p).Agent("jo"), TerminateWorkflows(), Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "its workflow is terminated", func() bool { return state("b") == workflow.Terminated })
	if _, err := email.In(p).Create(t.Context(), "wait", workflow.ID("c")); err != nil { // an id that mo has tracked before
		t.Fatal(err)
	}
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "mo"), protocol.Record{
		V: protocol.Version, Class: "Desk", Name: "mo", Commit: "c", Workflows: []protocol.Tracked{{
			OutgoingTarget: protocol.OutgoingTarget{Project: "email-workflows", Workflow: "EMAIL", ID: "c"}, Input: "theirs", State: workflow.Running,
		}},
	})
	if err := Destroy(t.Context(), clerkClass.In(p).Agent("mo"), TerminateWorkflows(), Timeout(soon)); err != nil {
		t.Fatal(err)
	}
	var control protocol.Control
	if r.stored(t, emailInstance("c").ControlSubject(), &control) != 0 {
		t.Errorf("what somebody else has started is sent %+v", control)
	}
	r.inboxEmpty(t)
	if _, exists := r.record(t, "jo"); exists {
		t.Error("what was told of the workflows has made a new agent")
	}
	h.post(t, "/agents/desk/jo?id=d&do=wait")
	h.post(t, "/agents/desk/jo?destroy&all")
	r.started(t, "d")
	natstest.Eventually(t, soon, "its workflow is terminated", func() bool { return state("d") == workflow.Terminated })
}

// TestUntrack: the workflow goes on, and nothing more is told of it.
func TestUntrack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emailProject(t)
	r.emailRunner(t)
	h := r.host(t, clerks(nil), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=progress+wait+progress")
	r.tells(t, "jo", "a progress 0")
	h.post(t, "/agents/desk/jo?id=a&op=untrack")
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo?id=a&op=untrack", ""); status != 500 || !strings.Contains(body, "NotTrackedError") {
		t.Errorf("untracked twice: %d %s", status, body)
	}
	r.sendTo(t, "a", "go")
	i, err := email.In(r.program(t, deskConfig())).Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := i.Result(t.Context()); n != 22 || err != nil {
		t.Errorf("result %d, %v", n, err)
	}
	r.inboxEmpty(t)
	r.tells(t, "jo", "a progress 0")
}
