package agenttest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/agent/agenttest"
)

// lobby is the agent of the tests with clients: what is said there is noted and told to all.
type lobby struct{ agent.Base[[]string] }

func (l *lobby) OnConnect(_ context.Context, _ *agent.Connection, r *http.Request) error {
	if r.Header.Get("Banned") != "" {
		return &agent.Error{Status: http.StatusForbidden, Name: "Banned", Message: "not you"}
	}
	return nil
}

func (l *lobby) OnMessage(ctx context.Context, c *agent.Connection, m agent.Message) error {
	switch {
	case m.Binary:
		return c.Send(ctx, m)
	case m.Text == "out":
		return c.Close(ctx, 4001, "as you wish")
	}
	return errors.Join(l.Note(ctx, c.ID()+": "+m.Text), agent.Broadcast(ctx, m))
}

func (l *lobby) OnClose(ctx context.Context, c *agent.Connection, how agent.Closed) error {
	return l.Note(ctx, fmt.Sprintf("%s left with %d %s", c.ID(), how.Code, how.Reason))
}

func (l *lobby) ValidateStateChange(_ context.Context, next []string) error {
	if slices.Contains(next, "") {
		return errors.New("a note is empty")
	}
	return nil
}

func (l *lobby) Note(ctx context.Context, text string) error {
	return l.Update(ctx, func(notes *[]string) error { *notes = append(*notes, text); return nil })
}

// Remind broadcasts tomorrow, and tells how many notes there are.
func (l *lobby) Remind(ctx context.Context, text string) (int, error) {
	_, err := agent.Schedule(ctx, agent.After(24*time.Hour), l.Announce, text)
	return len(l.State()), err
}

// Whisper answers in chunks, to who has said who it is.
func (l *lobby) Whisper(ctx context.Context, out *agent.Chunks[string]) (string, error) {
	user, err := agent.Identity[string](ctx)
	if err != nil {
		return "", err
	}
	return "bye", out.Send(ctx, "hi "+user)
}

func (l *lobby) OnRequest(w http.ResponseWriter, r *http.Request) error {
	user, err := agent.Identity[string](r.Context())
	return errors.Join(err, json.NewEncoder(w).Encode(user))
}

func (l *lobby) Announce(ctx context.Context, text string) error {
	return agent.Broadcast(ctx, agent.Text(text))
}

func lobbyKit(t *testing.T) *agenttest.Kit {
	t.Helper()
	return agenttest.New(t, agent.Define("Lobby", func() *lobby { return &lobby{} }, agent.Clients((*lobby).Remind, (*lobby).Whisper)))
}

func texts(messages []agent.Message) (all []string) {
	for _, m := range messages {
		all = append(all, m.Text+string(m.Data))
	}
	return all
}

func expectAll(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	k := lobbyKit(t)
	a, b := k.Dial("/agents/lobby/main?_pk=a", nil), k.Dial("/agents/lobby/main?_pk=b", nil)
	a.Send("one")
	a.Send(`{"two":2}`)
	expectAll(t, "a hears", texts(a.Messages()), "one", `{"two":2}`)
	b.SendBinary([]byte("bytes"))
	if m := b.Next(); m.Text != "one" {
		t.Errorf("b hears %+v first", m)
	}
	if all := b.Messages(); len(all) != 2 || !all[1].Binary || string(all[1].Data) != "bytes" {
		t.Errorf("b hears %+v then", all)
	}
	if result, err := a.Call("remind", "tea"); string(result) != "2" || err != nil {
		t.Errorf("call: %s, %v", result, err)
	}
	if _, err := a.Call("announce", "no"); err == nil {
		t.Error("a client can call what it may not")
	}
	k.KillHost()
	b.Send("three")
	expectAll(t, "a hears through a kill", texts(a.Messages()), "three")
	k.Sleep()
	k.Advance(25 * time.Hour)
	expectAll(t, "a hears a day later", texts(a.Messages()), "tea")
	expectAll(t, "b hears in the end", texts(b.Messages()), "three", "tea")
	expectAll(t, "a sees", agenttest.Seen[[]string](a), "a: one", `a: {"two":2}`, "b: three")
	a.SetState([]string{"new"})
	expectAll(t, "b sees the state of a", agenttest.Seen[[]string](b), "new")
	a.SetState([]string{""})
	if m := a.Next(); !strings.Contains(m.Text, "a note is empty") {
		t.Errorf("a is told why not: %+v", m)
	}
}

// TestWhoAsks: hooks of the test see requests and clients, at hosts that are there and at those that come later.
func TestWhoAsks(t *testing.T) {
	t.Parallel()
	k := lobbyKit(t)
	nobody := k.Dial("/agents/lobby/main", nil)
	if _, err := nobody.Call("whisper"); err == nil || err.Error() != agent.ErrNoIdentity.Error() {
		t.Errorf("without a hook: %v", err)
	}
	k.BeforeRequest(func(r *http.Request, to agent.Target) (any, error) {
		user := r.URL.Query().Get("user")
		if user == "" {
			return nil, &agent.Error{Status: http.StatusUnauthorized, Name: "NoUser"}
		}
		return user + " of " + to.Name, nil
	})
	ada := k.Dial("/agents/lobby/main?user=ada", nil)
	if result, err := ada.Call("whisper"); string(result) != `"bye"` || err != nil {
		t.Errorf("whisper: %s, %v", result, err)
	}
	if all := texts(ada.Messages()); len(all) != 1 || !strings.Contains(all[0], `"result":"hi ada of main","done":false`) {
		t.Errorf("ada hears %q", all)
	}
	for range 2 {
		for path, want := range map[string]int{"/agents/lobby/main": http.StatusUnauthorized, "/agents/lobby/main?user=bob": http.StatusOK} {
			if status, body := k.Request(http.MethodGet, path, ""); status != want || want == http.StatusOK && body != "\"bob of main\"\n" {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
		k.KillHost()
	}
}

func TestEndsOfClients(t *testing.T) {
	t.Parallel()
	k := lobbyKit(t)
	a, b := k.Dial("/agents/lobby/main?_pk=a", nil), k.Dial("/agents/lobby/main?_pk=b", nil)
	c, d := k.Dial("/agents/lobby/main?_pk=c", nil), k.Dial("/agents/lobby/main?_pk=d", http.Header{"Banned": {"yes"}})
	if how, ok := d.Closed(); !ok || how.Code != 1008 || how.Reason != "not you" {
		t.Errorf("who was refused: %+v, %v", how, ok)
	}
	if how, ok := a.Closed(); ok {
		t.Errorf("a has ended: %+v", how)
	}
	a.Send("bye")
	a.Close(1000, "tired")
	k.KillHost()
	b.Break()
	c.Send("out")
	if how, ok := c.Closed(); !ok || how.Code != 4001 || how.Reason != "as you wish" {
		t.Errorf("who was closed: %+v, %v", how, ok)
	}
	if _, err := c.Call("remind", "tea"); err == nil {
		t.Error("a call over a socket that has ended is answered")
	}
	expectAll(t, "notes", agenttest.State[[]string](k, "Lobby", "main"), "a: bye", "a left with 1000 tired", "b left with 1006 ", "c left with 4001 as you wish")
}
