package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

type cart struct{ agent.Base[int] }

func (c *cart) Add(ctx context.Context, n int) (int, error) {
	return n, c.SetState(ctx, c.State()+n)
}

func TestDestroyAgent(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	config := project.Config{Name: "shop"}
	config.Settings.HTTPAddr = "127.0.0.1:0"
	p, err := project.Open(t.Context(), config, project.Conn(s.Connect(t)), project.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- project.Run(ctx, p, agent.Host(agent.Define("Cart", func() *cart { return &cart{} })))
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	natstest.Eventually(t, natstest.Patience, "the host is ready", p.IsReady)
	carts := agent.Bind[*cart]("Cart").In(p)
	destroy := func(args ...string) (string, int) {
		return said(t, append([]string{"agents", "destroy", "--nats-url", s.URL(), "--project", "shop"}, args...)...)
	}
	for _, output := range []string{"text", "json"} {
		if _, err := agent.Call(ctx, carts.Agent("jo@home"), (*cart).Add, 7); err != nil {
			t.Fatal(err)
		}
		said, code := destroy("Cart", "jo@home", "--output", output)
		var object map[string]string
		if code != 0 || output == "text" && said != "Cart/jo@home: destroyed\n" ||
			output == "json" && (json.Unmarshal([]byte(said), &object) != nil || object["state"] != "destroyed") {
			t.Errorf("destroy with --output %s: %d %s", output, code, said)
		}
		js := natstest.JetStream(t, s.Connect(t))
		stream, err := js.Stream(ctx, protocol.KVStream(protocol.AgentsBucket("shop")))
		if err != nil || stream.CachedInfo().State.Msgs != 0 {
			t.Errorf("records are left: %v", err)
		}
	}
	for want, args := range map[string][]string{
		"no such class of agents is registered": {"Crat", "jo"},
		"agent is empty":                        {"Cart", ""},
		"allowed is text or json":               {"Cart", "jo", "--output", "xml"},
	} {
		if said, code := destroy(args...); code == 0 || !strings.Contains(said, want) {
			t.Errorf("destroy %q: %d %s, want %s", args, code, said, want)
		}
	}
}

// TestInboxOfAnAgent shows what waits for an agent that has mail, some of it parked, and for one that has none.
func TestInboxOfAnAgent(t *testing.T) {
	t.Parallel()
	url, js := deadProject(t)
	jo := protocol.Agent{Project: "shop", Class: "Cart", Name: "jo@home"}
	next := time.Date(2026, 11, 22, 14, 20, 0, 0, time.UTC)
	record := protocol.Record{V: protocol.Version, Class: jo.Class, Name: jo.Name, Parked: []protocol.Parked{{Sequence: 1, Attempts: 1, NotBefore: next}}}
	bucket := protocol.AgentsBucket("shop")
	for subject, value := range map[string]any{
		protocol.KVSubject(bucket, protocol.AgentKey(jo.Class, jo.Name)): record, jo.InboxSubject("shop"): protocol.Mail{}, jo.InboxSubject("till"): protocol.Mail{},
	} {
		body, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), subject, body); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"Cart", "jo@home"}, 0, "AGENT         WAITING  PARKED  NEXT ATTEMPT          STOPPED\nCart/jo@home  2        1       2026-11-22T14:20:00Z  false\n"},
		{[]string{"Cart", "al"}, 0, "AGENT    WAITING  PARKED  NEXT ATTEMPT  STOPPED\nCart/al  0        0       -             false\n"},
		{[]string{"Cart", "jo@home", "--output", "json"}, 0, `{"waiting":2,"parked":1,"next":"2026-11-22T14:20:00Z","stopped":false}` + "\n"},
		{[]string{"Cart", "jo", "--output", "xml"}, 1, "text or json"},
		{[]string{"Cart"}, 1, "accepts 2 arg"},
		{[]string{"C.rt", "jo"}, 1, `"C.rt"`},
	} {
		text, code := said(t, append([]string{"agents", "inbox", "--project", "shop", "--nats-url", url}, row.args...)...)
		if code != row.code || code == 0 && text != row.want || !strings.Contains(text, row.want) {
			t.Errorf("%q: exit code %d, want %d and %q in:\n%s", row.args, code, row.code, row.want, text)
		}
	}
}
