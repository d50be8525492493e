package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

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
