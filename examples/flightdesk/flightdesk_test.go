package flightdesk

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-run/skein/examples/contract"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// bench runs the agents, the project that their workflow belongs to, and a scheduler.
type bench struct {
	t      *testing.T
	server *natstest.Server
	log    *slog.Logger
	url    string
}

func setup(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, server: natstest.Start(t), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	b.serve("../emailworkflows/skein.jsonc", workflow.Runner(workflow.Define("OnboardingWorkflow", untilConfirmed)))
	host := agent.Host(Classes()...)
	b.serve("skein.jsonc", host)
	b.url = "http://" + host.Addr().String() + "/agents/flight-desk/"
	nc := b.server.Connect(t)
	js := natstest.JetStream(t, nc)
	b.background("scheduler", scheduler.New(scheduler.Options{NC: nc, JS: js, Log: b.log}).Run)
	return b
}

// untilConfirmed stands for the workflow of the other project.
func untilConfirmed(ctx context.Context, _ workflow.Event[contract.Trip]) (contract.Report, error) {
	answer, err := workflow.WaitForEvent[contract.Confirmation](ctx, "wait", "confirmed")
	return contract.Report{ConfirmedBy: answer.Payload.By}, err
}

// serve runs services of a project until the test ends.
func (b *bench) serve(config string, services ...project.Service) {
	b.t.Helper()
	c, err := project.Load(config)
	if err != nil {
		b.t.Fatal(err)
	}
	c.Settings.HTTPAddr = "127.0.0.1:0"
	p, err := project.Open(b.t.Context(), *c, project.Conn(b.server.Connect(b.t)), project.Logger(b.log))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(p.Close)
	b.background(c.Name, func(ctx context.Context) error { return project.Run(ctx, p, services...) })
	natstest.Eventually(b.t, natstest.Patience, c.Name+" is ready", p.IsReady)
}

func (b *bench) background(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("%s: %v", name, err)
		}
	})
}

// call sends a request and returns status and body of the answer.
func (b *bench) call(method, path, user string) (int, string) {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if user != "" {
		request.Header.Set("user-id", user)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// awaitDesk waits for a state of an agent.
func (b *bench) awaitDesk(name, what string, cond func(Desk) bool) Desk {
	b.t.Helper()
	var desk Desk
	natstest.Eventually(b.t, natstest.Patience, what, func() bool {
		desk = Desk{}
		status, body := b.call(http.MethodGet, name, "")
		return status == http.StatusOK && json.Unmarshal([]byte(body), &desk) == nil && cond(desk)
	})
	return desk
}

func TestBookConfirmAndWatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status, body := b.call(http.MethodPost, "ada@example.com", "ada")
	if status != http.StatusAccepted || !strings.Contains(body, `"callback":"RunWorkflow"`) {
		t.Fatalf("answer %d: %s", status, body)
	}
	desk := b.awaitDesk("ada@example.com", "the workflow has started", func(d Desk) bool { return d.Instance != "" })
	if desk.Instance != "ada-DL264" || desk.Trip.UserID != "ada" || !strings.HasPrefix(desk.Watch, "cron-") {
		t.Errorf("desk is %+v", desk)
	}
	b.awaitDesk("ada@example.com", "the agent saw that the workflow waits", func(d Desk) bool { return d.State == workflow.Waiting })
	if status, body := b.call(http.MethodPost, "ada@example.com/confirm", ""); status != http.StatusOK {
		t.Fatalf("answer %d: %s", status, body)
	}
	done := b.awaitDesk("ada@example.com", "the agent saw the end", func(d Desk) bool { return d.State == workflow.Complete })
	if done.Looks < 2 {
		t.Errorf("desk is %+v", done)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if status, body := b.call(http.MethodPost, "taken", "bob"); status != http.StatusAccepted {
		t.Fatalf("answer %d: %s", status, body)
	}
	for _, row := range []struct {
		name, method, path, user string
		status                   int
		want                     string
	}{
		{"no user", http.MethodPost, "eve", "", http.StatusBadRequest, "the header user-id is missing"},
		{"user that makes no id", http.MethodPost, "eve", "eve@example.com", http.StatusBadRequest, `instance id \"eve@example.com-DL264\"`},
		{"booked already", http.MethodPost, "taken", "bob", http.StatusConflict, "this desk has booked DL264 already"},
		{"nothing to confirm", http.MethodPost, "eve/confirm", "", http.StatusConflict, "nothing to confirm yet"},
		{"method", http.MethodDelete, "eve", "", http.StatusMethodNotAllowed, "GET and POST are allowed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			status, body := b.call(row.method, row.path, row.user)
			if status != row.status || !strings.Contains(body, row.want) {
				t.Errorf("answer %d: %s", status, body)
			}
		})
	}
	if desk := b.awaitDesk("eve", "the agent answers", func(Desk) bool { return true }); desk != (Desk{}) {
		t.Errorf("refused requests left %+v", desk)
	}
}
