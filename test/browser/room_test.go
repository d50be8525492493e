package browser_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/js"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/test/browser"
)

// room is the agent of the pages.
type room struct{ agent.Base[roomState] }

type roomState struct {
	N int `json:"n"`
}

func (r *room) OnConnect(ctx context.Context, c *agent.Connection, q *http.Request) error {
	switch q.URL.Query().Get("as") {
	case "stranger":
		return &agent.Error{Status: http.StatusForbidden, Message: "strangers are not let in"}
	case "reader":
		return c.SetReadonly(ctx, true)
	}
	return nil
}

func (r *room) OnMessage(ctx context.Context, c *agent.Connection, m agent.Message) error {
	if m.Binary {
		slices.Reverse(m.Data)
		return c.Send(ctx, m)
	}
	return agent.Broadcast(ctx, m, agent.Except(c.ID()))
}

func (r *room) ValidateStateChange(_ context.Context, next roomState) error {
	if next.N < 0 {
		return errors.New("n is below 0")
	}
	return nil
}

func (r *room) Add(ctx context.Context, n int) (int, error) {
	err := r.Update(ctx, func(s *roomState) error { s.N += n; return nil })
	return r.State().N, err
}

// Count answers in chunks, and breaks off before 4.
func (r *room) Count(ctx context.Context, out *agent.Chunks[int], to int) (string, error) {
	for n := range to {
		if n == 3 {
			return "", errors.New("it goes no further")
		}
		if err := out.Send(ctx, n+1); err != nil {
			return "", err
		}
	}
	return "done", nil
}

func (r *room) Fail(context.Context) error { return errors.New("the room is taken") }

func (r *room) Hidden(context.Context) error { return nil }

func (r *room) People(ctx context.Context) ([]string, error) {
	ids := []string{}
	all, err := agent.Connections(ctx)
	for _, c := range all {
		ids = append(ids, c.ID())
	}
	slices.Sort(ids)
	return ids, err
}

func (r *room) Leave(ctx context.Context, code int) error {
	c, _ := agent.CurrentConnection(ctx)
	return c.Close(ctx, code, "you wanted to")
}

// rooms is a host of rooms that serves the page of the client, too.
func rooms() *agent.HostService {
	class := agent.Define("ChatRoom", func() *room { return &room{} },
		agent.Clients((*room).Add, (*room).Fail, (*room).People, (*room).Leave, (*room).Count))
	return agent.Host(class).Handle("/skein.js", js.Handler()).Handle("/{$}", browser.HTML(moduleAt("/skein.js")))
}

// clientOfHosts: the client and real hosts, two pages at two of them.
func clientOfHosts(t *testing.T, b *browser.Browser) {
	server := natstest.Start(t)
	one, two := browser.Serve(t, server, rooms(), nil), browser.Serve(t, server, rooms(), nil)
	t.Run("pages", func(t *testing.T) {
		t.Run("state and calls", func(t *testing.T) { t.Parallel(); stateAndCalls(t, b.Open(t, one.URL), b.Open(t, two.URL)) })
		t.Run("refusals", func(t *testing.T) { t.Parallel(); refusals(t, b.Open(t, one.URL)) })
		t.Run("origins", func(t *testing.T) { t.Parallel(); origins(t, b, server, one) })
		t.Run("drain", func(t *testing.T) { t.Parallel(); drain(t, b, server, two) })
	})
}

func stateAndCalls(t *testing.T, ada, bob *browser.Page) {
	ada.Run(`connect({name: "lobby", id: "ada"}), agent.ready`)
	ada.Expect("[agent.name, agent.agent, agent.state ?? null]", `["lobby","chat-room",null]`)
	bob.Run(`connect({name: "lobby", id: "bob"}), agent.ready`)
	ada.Run("agent.setState({n: 1})")
	bob.Await("agent.state?.n", "1")
	bob.Run("agent.setState({n: 2})")
	ada.Await("agent.state.n", "2")
	ada.Expect("agent.stub.add(40)", "42")
	ada.Await("agent.state.n", "42")
	bob.Await("agent.state.n", "42")
	bob.Expect(`agent.call("people")`, `["ada","bob"]`)
	for call, want := range map[string]string{
		`agent.call("fail")`:       "the room is taken",
		`agent.call("nothing")`:    "Method nothing does not exist",
		`agent.call("hidden")`:     "Method hidden is not callable",
		`agent.call("add", ["1"])`: `Method add: argument 1 is "1"; allowed is a whole number of 64 bits`,
		`agent.call("add", [])`:    "Method add takes 1 argument (a whole number of 64 bits), got 0",
	} {
		bob.Expect(call+".catch((e) => [e.message, e.outcome])", `[`+strconv.Quote(want)+`,"answered"]`)
	}
	ada.Run("take()")
	const stream = `{stream: {onChunk: (n) => seen.push("chunk " + n), onDone: (r) => seen.push("done " + r), onError: (e) => seen.push("error " + e)}}`
	ada.Expect(`agent.call("count", [2], `+stream+`)`, `"done"`)
	expectSeen(t, ada, "chunk 1", "chunk 2", "done done")
	ada.Expect(`agent.call("count", [9], `+stream+`).catch((e) => e.message)`, `"it goes no further"`)
	expectSeen(t, ada, "chunk 1", "chunk 2", "chunk 3", "error it goes no further")
	bob.Run("take(), agent.setState({n: -1}), agent.send('hi'), agent.send(new Uint8Array([1, 2, 3])), 0")
	expectSeen(t, bob, `state {"n":-1} client`, `refused State update rejected state of agent "lobby": is refused: n is below 0`, `state {"n":42} server`, "message binary 3,2,1")
	expectSeen(t, ada, "message hi")
}

func refusals(t *testing.T, p *browser.Page) {
	p.Run(`connect({name: "refusals", query: {as: "stranger"}})`)
	expectSeen(t, p, "open", "close 1008 strangers are not let in", "final 1008 Agent connection closed: strangers are not let in")
	p.Run(`connect({name: "refusals", query: {as: "reader"}}), agent.ready`)
	expectSeen(t, p, "open", "identity refusals chat-room")
	p.Run("agent.setState({n: 1})")
	expectSeen(t, p, `state {"n":1} client`, "state undefined server", "refused Connection is readonly ")
	p.Run("agent.close(), take(), 0")
	for _, code := range []int{4001, 1008} {
		p.Run(`connect({name: "refusals"}), agent.ready`)
		p.Run(`follow("leave", agent.call("leave", [` + strconv.Itoa(code) + `])), 0`)
		p.Await("agent.connectionError?.code", strconv.Itoa(code))
		p.Run("take()")
	}
	// An id that is no visible text is none; the browser is not told why.
	p.Run(`connect({name: "refusals", id: "a b", maxRetries: 0})`)
	p.Await("agent.connectionError?.code", "1006")
	// Whoever takes the id of another takes its place.
	p.Run(`connect({name: "refusals", id: "same"}), window.first = agent, agent.ready`)
	p.Run(`connect({name: "refusals", id: "same"}), agent.ready`)
	p.Await("first.connectionError?.message", `"Agent connection closed: another connection of the same id was opened"`)
}

// origins: pages of other origins are refused, unless the settings let them in.
func origins(t *testing.T, b *browser.Browser, server *natstest.Server, host *browser.Host) {
	other := httptest.NewServer(browser.HTML(moduleAt(host.URL + "/skein.js")))
	t.Cleanup(other.Close)
	p := b.Open(t, other.URL)
	p.Run(`connect({host: "` + host.URL + `", maxRetries: 0}), follow("call", agent.call("add", [1])), 0`)
	p.Await("agent.connectionError?.code", "1006")
	p.Expect("[seen.includes('open'), seen.at(-1)]", `[false,"call ! AgentCallError: Connection closed (unsent)"]`)
	open := browser.Serve(t, server, rooms(), func(c *project.Config) { c.Settings.HTTPOrigins = other.URL })
	p.Run(`connect({host: "` + open.URL + `", name: "open"}), agent.ready`)
	p.Expect(`agent.call("add", [1])`, "1")
}

// drain: a client whose host stops comes back at another, as the same connection.
func drain(t *testing.T, b *browser.Browser, server *natstest.Server, next *browser.Host) {
	first := browser.Serve(t, server, rooms(), nil)
	var current atomic.Pointer[browser.Host]
	current.Store(first)
	door := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		target, _ := url.Parse(current.Load().URL)
		r.SetURL(target)
		r.Out.Host = r.In.Host // what the page's origin is compared with
	}})
	t.Cleanup(door.Close)
	p := b.Open(t, door.URL)
	p.Run(`connect({name: "drained", id: "ada"}), agent.ready`)
	p.Expect(`agent.call("add", [7])`, "7")
	p.Run("take()")
	current.Store(next)
	first.Stop()
	expectSeen(t, p, "close 1001 the host is shutting down, come back at another", "open", `state {"n":7} server`, "identity drained chat-room")
	p.Expect(`agent.call("people")`, `["ada"]`)
}
