package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestTellIsPartOfTheTurn: it leaves with the commit, in order, and not at all if the turn fails.
func TestTellIsPartOfTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			for i := range 3 {
				if err := Tell(q.Context(), deskClass.Agent("other"), (*desk).Note, fmt.Sprintf("%s %d", q.URL.Query().Get("n"), i)); err != nil {
					return err
				}
			}
			if q.Method == http.MethodPut {
				return errors.New("dropped")
			}
			if err := Tell(q.Context(), deskClass.Agent("other"), (*desk).Note, "x", ID("x")); err == nil {
				t.Error("Tell in a turn takes an id")
			}
			return Tell(q.Context(), deskClass.Agent("jo"), (*desk).Note, "self "+q.URL.Query().Get("n"))
		}
	}))
	h.call(t, http.MethodPut, "/agents/desk/jo?n=0", "")
	h.call(t, http.MethodPost, "/agents/desk/jo?n=1", "")
	h.call(t, http.MethodPost, "/agents/desk/jo?n=2", "")
	other := r.awaitRecord(t, "other", "has all", func(p protocol.Record) bool { return strings.Contains(string(p.State), "2 2") })
	if string(other.State) != `{"Count":0,"Log":["1 0","1 1","1 2","2 0","2 1","2 2"]}` {
		t.Errorf("state %s", other.State)
	}
	jo := r.awaitRecord(t, "jo", "has told itself", func(p protocol.Record) bool { return strings.Contains(string(p.State), "self 2") })
	if string(jo.State) != `{"Count":0,"Log":["self 1","self 2"]}` {
		t.Errorf("state %s", jo.State)
	}
	r.inboxEmpty(t)
}

// TestTellThatIsProjectedTwice: a new owner may send again what the old one has sent.
func TestTellThatIsProjectedTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mail := protocol.Mail{V: protocol.Version, Source: agentNamed("jo").TellSource(1), Number: 1<<16 + 1, Callback: "Note", Payload: []byte(`"once"`)}
	told := protocol.Outgoing{ID: "1.1.1", Kind: protocol.OutgoingMail,
		Tell: &protocol.OutgoingTell{Project: testProject, Class: "Desk", Name: "other", Mail: mail}}
	r.own(t, "jo", "dead", told)
	r.mail(t, "other", testProject, mail)
	h := r.host(t, desks(nil))
	h.expect(t, "/agents/desk/jo", 200, "5")
	r.awaitRecord(t, "jo", "has told", func(p protocol.Record) bool { return p.Owner != "dead" })
	r.awaitRecord(t, "other", "has heard", func(p protocol.Record) bool { return p.State != nil })
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	r.awaitRecord(t, "jo", "outbox is empty", func(p protocol.Record) bool { return len(p.Outbox) == 0 })
	r.inboxEmpty(t)
	if record, _ := r.record(t, "other"); string(record.State) != `{"Count":0,"Log":["once"]}` {
		t.Errorf("state %s, want what was told, once", record.State)
	}
}

// TestTellOfPrograms: stored when it returns, applied once per id, and refused where nobody could hear it.
func TestTellOfPrograms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil, Callable((*desk).Note)))
	shop := r.program(t, project.Config{Name: "shop", Agents: []project.Agent{
		{ClassName: "Desk", ScriptName: testProject}, {ClassName: "Dessk", ScriptName: testProject},
	}})
	own := r.program(t, project.Config{Name: testProject})
	for range 3 {
		for _, p := range []*project.Project{own, shop} {
			if err := Tell(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Note, "by "+p.Config.Name, ID("order-7")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Tell(t.Context(), deskClass.In(own).Agent("jo"), (*desk).Note, "end"); err != nil {
		t.Fatal(err)
	}
	r.inboxEmpty(t)
	record := r.awaitRecord(t, "jo", "has all", func(p protocol.Record) bool { return strings.Contains(string(p.State), "end") })
	for _, text := range []string{"by flight-desk", "by shop", "end"} {
		if n := strings.Count(string(record.State), text); n != 1 {
			t.Errorf("%q was applied %d times, want once: %s", text, n, record.State)
		}
	}
	h.expect(t, "/agents/desk/jo", 200, "0")
	err := Tell(t.Context(), Bind[*desk]("Dessk").In(shop).Agent("jo"), (*desk).Note, "x")
	if unknown, ok := errors.AsType[*NoClassError](err); !ok || !slices.Contains(unknown.Classes, "Desk") {
		t.Errorf("Tell with an unknown class: %v", err)
	}
}

// TestCallsOfWorkflows: between steps they are steps, which are not carried out again.
func TestCallsOfWorkflows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, desks(nil, Callable((*desk).Note, (*desk).Add)))
	if err := streams.EnsureWorkflows(t.Context(), r.js, "mail", 1, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	config := project.Config{Name: "mail", Workflows: []project.Workflow{{Name: "order", ClassName: "Order"}},
		Agents: []project.Agent{{ClassName: "Desk", ScriptName: testProject}}}
	p := r.program(t, config)
	order := workflow.Define("Order", func(ctx context.Context, _ workflow.Event[string]) (int, error) {
		n, err := Call(ctx, deskClass.Agent("jo"), (*desk).Add, 2)
		if err != nil {
			return 0, err
		}
		if n, err = Call(ctx, deskClass.Agent("jo"), (*desk).Add, n); err != nil {
			return 0, err
		}
		if err := Tell(ctx, deskClass.Agent("jo"), (*desk).Note, "told"); err != nil {
			return 0, err
		}
		if _, err := workflow.WaitForEvent[string](ctx, "paid", "paid"); err != nil { // it runs again from the top
			return 0, err
		}
		return n, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- project.Run(ctx, p, workflow.Runner(order)) }()
	natstest.Eventually(t, soon, "the runner is ready", p.IsReady)
	instance, err := workflow.Bind[string, int]("order").In(p).Create(ctx, "", workflow.ID("o1"))
	if err != nil {
		t.Fatal(err)
	}
	r.awaitRecord(t, "jo", "was told", func(p protocol.Record) bool { return strings.Contains(string(p.State), "told") })
	if err := instance.SendEvent(ctx, "paid", ""); err != nil {
		t.Fatal(err)
	}
	if n, err := instance.Result(ctx); n != 4 || err != nil {
		t.Errorf("result %d, %v; want 4", n, err)
	}
	record, _ := r.record(t, "jo")
	if string(record.State) != `{"Count":4,"Log":["told"]}` || len(record.Calls) != 2 || len(record.Keys) != 1 {
		t.Errorf("state %s with calls %v and keys %v, want each step applied once and remembered", record.State, record.Calls, record.Keys)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
