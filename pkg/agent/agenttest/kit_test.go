package agenttest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/agent/agenttest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/pkg/workflow/workflowtest"
)

// shop is the agent of the tests.
type shop struct {
	agent.Base[[]string]
	made *atomic.Int64
	fail *atomic.Int64
}

var shops = agent.Bind[*shop]("Shop")

func (s *shop) OnStart(context.Context) error { s.made.Add(1); return nil }

// OnRequest opens the shop: it counts, and plans everything.
func (s *shop) OnRequest(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		if _, err := agent.Schedule(r.Context(), agent.After(30*24*time.Hour), s.Note, "month"); err != nil {
			return err
		}
		if _, err := agent.Schedule(r.Context(), agent.Every(24*time.Hour), s.Day, "day"); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, strconv.Itoa(len(s.State())))
	return err
}

// Note appends to the state.
func (s *shop) Note(ctx context.Context, text string) error {
	if s.fail.Add(-1) >= 0 {
		return errors.New("no luck")
	}
	return s.Update(ctx, func(notes *[]string) error { *notes = append(*notes, text); return nil })
}

// Day notes when it was planned, and after three days it is over.
func (s *shop) Day(ctx context.Context, text string) error {
	m, ok := agent.Firing(ctx)
	if !ok || m.Actual.Before(m.Planned) {
		return errors.New("fired before its time")
	}
	if strings.Count(strings.Join(s.State(), " "), text) == 2 {
		if _, err := agent.CancelSchedule(ctx, m.Schedule); err != nil {
			return err
		}
	}
	return s.Note(ctx, text)
}

// Add notes and tells the other shop.
func (s *shop) Add(ctx context.Context, text string) (int, error) {
	if err := s.Note(ctx, text); err != nil {
		return 0, err
	}
	return len(s.State()), agent.Tell(ctx, shops.Agent("other"), (*shop).Note, text)
}

// Order tells the depot, which is of another project.
func (s *shop) Order(ctx context.Context, what string) (string, error) {
	return what, agent.Tell(ctx, depot.Agent("depot"), (*shop).Note, what)
}

var depot = agent.Bind[*shop]("depot")

var restock = workflow.Bind[string, string]("Restock")

// Restock starts a workflow.
func (s *shop) Restock(ctx context.Context, what string) (string, error) {
	i, err := restock.Create(ctx, what, workflow.ID("restock-"+what))
	if err != nil {
		return "", err
	}
	return i.ID(), nil
}

// shopClass returns a class and the counters of its agents.
func shopClass() (class agent.Class, made, fail *atomic.Int64) {
	made, fail = new(atomic.Int64), new(atomic.Int64)
	return agent.Define("Shop", func() *shop { return &shop{made: made, fail: fail} }, agent.Retry{MaxAttempts: 5, BaseDelay: time.Hour, MaxDelay: time.Hour}),
		made, fail
}

func notes(k *agenttest.Kit, name string) string {
	return strings.Join(agenttest.State[[]string](k, "Shop", name), " ")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestTimeIsInTheHandsOfTheTest(t *testing.T) {
	t.Parallel()
	class, _, fail := shopClass()
	k := agenttest.New(t, class)
	began := time.Now()
	if status, body := k.Request(http.MethodPost, "/agents/shop/jo", ""); status != http.StatusOK || body != "0" {
		t.Errorf("POST = %d %s", status, body)
	}
	k.Advance(23 * time.Hour)
	expect(t, "before the first day", notes(k, "jo"), "")
	fail.Store(3) // an hour between attempts takes no time
	k.Advance(2 * time.Hour)
	expect(t, "after the first day", notes(k, "jo"), "day")
	k.Advance(29 * 24 * time.Hour)
	expect(t, "after the month", notes(k, "jo"), "day day day month")
	if took := time.Since(began); took > 10*time.Minute {
		t.Errorf("a month took %v", took)
	}
}

func TestHostDies(t *testing.T) {
	t.Parallel()
	class, made, _ := shopClass()
	k := agenttest.New(t, class)
	jo := shops.In(k.Project).Agent("jo")
	for n, die := range []func(){k.KillHost, k.Sleep, func() { k.KillHost(); k.KillHost() }} {
		if got, err := agent.Call(t.Context(), jo, (*shop).Add, strconv.Itoa(n)); got != n+1 || err != nil {
			t.Errorf("call %d = %d, %v", n, got, err)
		}
		before := made.Load()
		die()
		if _, body := k.Request(http.MethodGet, "/agents/shop/jo", ""); body != strconv.Itoa(n+1) || made.Load() == before {
			t.Errorf("after the host went, jo has %s notes, and %d agents were made anew", body, made.Load()-before)
		}
	}
	expect(t, "notes", notes(k, "jo"), "0 1 2")
	expect(t, "told", notes(k, "other"), "0 1 2")
}

// TestHostDiesWithWorkToDo: what a turn has asked for is stored with it, and could not be carried out before its host died,
// as the project that it concerns was not there. The next host does it.
func TestHostDiesWithWorkToDo(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "skein.jsonc")
	bindings := `{ "name": "test", "agents": [{ "binding": "depot", "class_name": "Shop", "script_name": "elsewhere" }] }`
	if err := os.WriteFile(config, []byte(bindings), 0o600); err != nil {
		t.Fatal(err)
	}
	class, _, _ := shopClass()
	k := agenttest.In(t, workflowtest.Load(t, config), class)
	jo := shops.In(k.Project).Agent("jo")
	if _, err := agent.Call(t.Context(), jo, (*shop).Order, "bread"); err != nil {
		t.Fatal(err)
	}
	k.KillHost()
	if err := errors.Join(
		streams.EnsureAgents(t.Context(), k.Project.JS, "elsewhere", streams.Options{}),
		streams.RegisterAgents(t.Context(), k.Project.JS, "elsewhere", []string{"Shop"}),
	); err != nil {
		t.Fatal(err)
	}
	inbox, err := k.Project.JS.Stream(t.Context(), protocol.InboxStream("elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "the order is sent", func() bool {
		info, err := inbox.Info(t.Context())
		return err == nil && info.State.Msgs > 0
	})
}

func TestWorkflowsOfAgents(t *testing.T) {
	t.Parallel()
	class, _, _ := shopClass()
	run := func(ctx context.Context, e workflow.Event[string]) (string, error) {
		price, err := workflow.Do(ctx, "order", func(context.Context) (string, error) { return "", errors.New("no shop in tests") })
		if err != nil {
			return "", err
		}
		if err := workflow.Sleep(ctx, "delivery", 14*24*time.Hour); err != nil {
			return "", err
		}
		return price, agent.Tell(ctx, shops.Agent("jo"), (*shop).Note, e.Payload+" for "+price)
	}
	env := workflowtest.New(t, workflow.Define("Restock", run))
	env.Step("order").Return("7")
	k := agenttest.In(t, env, class)
	id, err := agent.Call(t.Context(), shops.In(k.Project).Agent("jo"), (*shop).Restock, "lamps")
	if err != nil {
		t.Fatal(err)
	}
	k.Advance(13 * 24 * time.Hour)
	expect(t, "before the delivery", notes(k, "jo"), "")
	price, err := workflowtest.Find[string](env, "Restock", id).Result()
	if price != "7" || err != nil {
		t.Errorf("instance ended with %q, %v", price, err)
	}
	expect(t, "after the delivery", notes(k, "jo"), "lamps for 7")
}
