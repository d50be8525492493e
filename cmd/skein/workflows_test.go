package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

const shopConfig = `{ "name": "shop", "nats_url": "URL", "workflows": [
	{ "name": "ship", "binding": "SHIP", "class_name": "Ship" },
	{ "name": "pay", "class_name": "Pay", "script_name": "bank" },
] }`

// guarded is the order that needs a secret.
const guarded = 99

// ship packs, waits for a word of the customer, and fails if that is "no".
func ship(ctx context.Context, event workflow.Event[int]) (int, error) {
	if event.Payload == guarded {
		if _, err := workflow.Do(ctx, "unlock", func(ctx context.Context) (string, error) {
			return "hunter2", workflow.Heartbeat(ctx, "hunter2, soon")
		}, workflow.Sensitive()); err != nil {
			return 0, err
		}
	}
	n, err := workflow.Do(ctx, "pack", func(context.Context) (int, error) { return event.Payload + 7, nil })
	if err != nil {
		return 0, err
	}
	answer, err := workflow.WaitForEvent[string](ctx, "ask", "answer")
	if err == nil && answer.Payload == "no" {
		err = errors.New("the customer said no")
	}
	return n, err
}

// shop is a server with a project whose workflow has a runner.
type shop struct {
	t         *testing.T
	url, path string
	ship      workflow.Bound[int, int]
}

func newShop(t *testing.T) *shop {
	t.Helper()
	server := natstest.Start(t)
	s := &shop{t: t, url: server.URL(), path: filepath.Join(t.TempDir(), "skein.jsonc")}
	if err := os.WriteFile(s.path, []byte(strings.Replace(shopConfig, "URL", s.url, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := project.Load(s.path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(t.Context(), *config, project.Conn(server.Connect(t)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, workflow.Runner(workflow.Define("Ship", ship))) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.Close()
	})
	natstest.Eventually(t, natstest.Patience, "the runner is ready", p.IsReady)
	s.ship = workflow.Bind[int, int]("SHIP").In(p)
	return s
}

// run runs a sub-command, which must end with code and write want.
func (s *shop) run(want string, code int, args ...string) (out string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	root := newRoot()
	root.SetIn(strings.NewReader(`"from the input"`))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(append([]string{"workflows", "--config", s.path}, args...))
	got := process.Execute(s.t.Context(), root)
	if text := stdout.String() + stderr.String(); got != code || !strings.Contains(text, want) {
		s.t.Errorf("%q: exit code %d, want %d and %q in:\n%s", args, got, code, want, text)
	}
	return stdout.String()
}

// await waits until an instance is in a state.
func (s *shop) await(id string, state workflow.State) {
	s.t.Helper()
	natstest.Eventually(s.t, natstest.Patience, id+" is "+string(state), func() bool {
		i, err := s.ship.Get(s.t.Context(), id)
		if err != nil {
			return false
		}
		status, err := i.Status(s.t.Context())
		return err == nil && status.State == state
	})
}

// TestSensitiveIsNotShown: no command that looks at an instance shows the result of a sensitive step.
func TestSensitiveIsNotShown(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.run("", 0, "create", "ship", "--id", "a", "--params", fmt.Sprint(guarded))
	s.await("a", workflow.Waiting)
	s.run("", 0, "send-event", "ship", "a", "answer", "--payload", `"yes"`)
	s.await("a", workflow.Complete)
	for _, args := range [][]string{{"describe", "ship", "a"}, {"watch", "ship", "a"}, {"list", "ship"}} {
		for _, form := range []string{"text", "json"} {
			out := s.run("", 0, append(args, "--output", form)...)
			if strings.Contains(out, "hunter") || args[0] != "list" && !strings.Contains(out, "REDACTED") {
				t.Errorf("%q shows\n%s", args, out)
			}
		}
	}
}

func TestWorkflows(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.run("No instances.", 0, "list", "ship")
	s.run("a: created\n", 0, "create", "ship", "--id", "a", "--params", "1")
	s.run(`{"id":"b","state":"created"}`, 0, "create", "SHIP", "--id", "b", "--params", "2", "--output", "json")
	s.run(`"a"`, 1, "create", "ship", "--id", "a")
	s.await("a", workflow.Waiting)
	s.await("b", workflow.Waiting)
	table := s.run("", 0, "list", "ship")
	if lines := strings.Split(table, "\n"); len(lines) != 4 || strings.Join(strings.Fields(lines[0]), " ") != "ID STATE CREATED FINISHED SOURCE ERROR" ||
		!strings.HasPrefix(lines[1], "a   waiting  20") || !strings.Contains(lines[2], "  program shop  -") {
		t.Errorf("list is\n%s", table)
	}
	described := s.run("", 0, "describe", "ship", "a")
	for _, want := range []string{"Params    1\n", "State     waiting\n", "STEP  KIND   STATE      ATTEMPTS", "pack  do     completed  1 ", "  8\n", `an event of type "answer"`} {
		if !strings.Contains(described, want) {
			t.Errorf("describe shows no %q:\n%s", want, described)
		}
	}
	var status workflow.Status
	if err := json.Unmarshal([]byte(s.run("", 0, "describe", "ship", "a", "--output", "json")), &status); err != nil || len(status.Steps) != 2 {
		t.Errorf("describe as JSON: %+v, %v", status, err)
	}
	s.run("a: pause requested\nb: pause requested\n", 0, "pause", "ship", "a", "b")
	s.await("a", workflow.Paused)
	s.run(`{"id":"a","requested":"resume"}`, 0, "resume", "ship", "a", "--output", "json")
	s.run("b: resume requested", 1, "resume", "ship", "nobody", "b")
	s.run("a: restart requested\n", 0, "restart", "ship", "a", "--from", "pack")
	s.await("a", workflow.Waiting)
	s.run("a: sent\n", 0, "send-event", "ship", "a", "answer", "--payload", "-")
	watched := s.run("", 0, "watch", "ship", "a")
	for _, want := range []string{"step-completed ", `do "pack"`, "  restarted ", `  type "answer"`, `"from the input"`, "  completed          8\n"} {
		if !strings.Contains(watched, want) {
			t.Errorf("watch told no %q:\n%s", want, watched)
		}
	}
	if strings.Contains(watched, " \n") {
		t.Errorf("watch wrote spaces at ends of lines:\n%s", watched)
	}
	s.run("b: sent\n", 0, "send-event", "ship", "b", "answer", "--payload", `"no"`, "--event-id", "once")
	s.await("b", workflow.Errored)
	s.run("the customer said no", 0, "describe", "ship", "b")
	if list := s.run("the customer said no", 0, "list", "ship", "--state", "errored,terminated", "--output", "json"); strings.Count(list, "\n") != 1 {
		t.Errorf("list of those that failed is\n%s", list)
	}
	s.run("No instances.", 0, "list", "ship", "--created-before", "1h")
	if list := s.run("", 0, "list", "ship", "--limit", "1"); strings.Count(list, "\n") != 2 {
		t.Errorf("list of one is\n%s", list)
	}
	s.run("the customer said no", 0, "list", "ship", "--project", "shop", "--nats-url", s.url)
}

// TestDescribeTellsAllSteps: also of another project's instance, if they are more than a message can hold.
func TestDescribeTellsAllSteps(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	created, err := s.ship.Create(t.Context(), 1, workflow.ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	s.await("a", workflow.Waiting)
	status, err := created.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	result := json.RawMessage(`"` + strings.Repeat("x", 100<<10) + `"`)
	const more = 12
	for n := range more { // written as a runner would
		body, _ := json.Marshal(protocol.Append{
			V: 1, ID: fmt.Sprint(n), Incarnation: status.Incarnation, Runner: "r", Time: time.Now(),
			Holder: protocol.Wake{Stream: protocol.WorkflowsStream("shop", 0), Sequence: status.Incarnation},
			Entries: []protocol.Entry{
				{Kind: protocol.EntryStepCompleted, Step: &protocol.Key{Op: protocol.OpDo, Name: "more", Count: n + 1}, Attempt: 1, Result: result},
			},
		})
		subject := protocol.Instance{Project: "shop", Workflow: "ship", ID: "a"}.LogSubject()
		if _, err := nc.RequestWithContext(t.Context(), subject, body); err != nil {
			t.Fatal(err)
		}
	}
	s.path = filepath.Join(t.TempDir(), "skein.jsonc")
	config := fmt.Sprintf(`{ "name": "desk", "nats_url": %q, "workflows": [{ "name": "ship", "class_name": "Ship", "script_name": "shop" }] }`, s.url)
	if err := os.WriteFile(s.path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := streams.RegisterWorkflows(t.Context(), natstest.JetStream(t, nc), "desk", 1, nil); err != nil {
		t.Fatal(err)
	}
	var described workflow.Status
	if err := json.Unmarshal([]byte(s.run("", 0, "describe", "ship", "a", "--output", "json")), &described); err != nil {
		t.Fatal(err)
	}
	if n := len(described.Steps); n != 2+more || described.Steps[0].Name != "pack" || described.Omitted != 0 {
		t.Errorf("%d steps are shown, %d are left out", n, described.Omitted)
	}
}

func TestWorkflowsInBulk(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, id := range []string{"a", "b", "c"} {
		s.run(id+": created", 0, "create", "ship", "--id", id, "--params", "1")
		s.await(id, workflow.Waiting)
	}
	s.run("wanted are either ids or --all", 1, "terminate", "ship")
	s.run("wanted are either ids or --all", 1, "delete", "ship", "a", "--all")
	s.run("a: terminate requested\n", 0, "terminate", "ship", "a", "--rollback")
	s.await("a", workflow.Terminated)
	s.run("b: terminate requested\nc: terminate requested\n", 0, "terminate", "ship", "--all")
	s.await("b", workflow.Terminated)
	s.await("c", workflow.Terminated)
	s.run("a: delete requested\n", 0, "delete", "ship", "a")
	s.run("c: delete requested\n", 0, "delete", "ship", "--all", "--state", "terminated")
	natstest.Eventually(t, natstest.Patience, "all are gone", func() bool {
		return strings.Contains(s.run("", 0, "list", "ship"), "No instances.")
	})
}

func TestWorkflowsRefuse(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, row := range []struct {
		name string
		args []string
		want []string
	}{
		{"no id", []string{"describe", "ship"}, []string{"accepts 2 arg(s), received 1"}},
		{"no such instance", []string{"export", "ship", "b"}, []string{`instance "b" of workflow "ship"`, "next: see skein workflows list ship"}},
		{"a bad id", []string{"export", "ship", "b c"}, []string{`"b c"`}},
		{"no such workflow", []string{"list", "sail"}, []string{`project "shop" has no workflow "sail"`, "next: it has SHIP, pay"}},
		{"of another project", []string{"list", "pay"}, []string{`"bank"`, "--config or --project"}},
		{"no such file", []string{"list", "ship", "--config", "nowhere.jsonc"}, []string{"nowhere.jsonc", "next: create it"}},
		{"no such project", []string{"list", "ship", "--project", "ships", "--nats-url", s.url}, []string{`project "ships"`, "next: check the name"}},
		{"a state that is none", []string{"list", "ship", "--state", "happy"}, []string{"happy", "waiting"}},
		{"a moment that is none", []string{"list", "ship", "--created-from", "noon"}, []string{`--created-from: "noon": allowed is`}},
		{"a limit below 0", []string{"list", "ship", "--limit", "-1"}, []string{"--limit: -1"}},
		{"an output that is none", []string{"list", "ship", "--output", "xml"}, []string{"allowed is text or json"}},
		{"params that are no JSON", []string{"create", "ship", "--params", "{a}"}, []string{"--params: {a}: allowed is JSON"}},
		{"a payload that is no JSON", []string{"send-event", "ship", "a", "answer", "--payload", "yes"}, []string{"--payload: yes: allowed is JSON"}},
		{"a kind without a step", []string{"restart", "ship", "a", "--kind", "sleep"}, []string{"--kind: needs --from"}},
		{"a cursor that is none", []string{"watch", "ship", "a", "--after", "x"}, []string{`--after: "x"`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, want := range row.want {
				s.run(want, 1, row.args...)
			}
		})
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	instance, err := s.ship.Create(t.Context(), 1, workflow.ID("a"))
	if err == nil {
		err = instance.SendEvent(t.Context(), "answer", "yes")
	}
	if err == nil {
		_, err = instance.Result(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ship", "SHIP"} {
		var history workflow.History
		if err := json.Unmarshal([]byte(s.run("", 0, "export", name, "a")), &history); err != nil {
			t.Fatal(err)
		}
		if err := workflow.Replay(t.Context(), workflow.Define("Ship", ship), history); err != nil {
			t.Error(err)
		}
	}
}
