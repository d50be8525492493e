package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestSocketConversation goes through every kind of frame, in the order in which they must come.
func TestSocketConversation(t *testing.T) {
	t.Parallel()
	prepare := func(r *room) {
		r.connect = func(ctx context.Context, r *room, c *Connection, q *http.Request) error {
			return c.Send(ctx, Text("hello "+c.ID()+" of "+q.URL.Query().Get("from")))
		}
		r.message = func(ctx context.Context, r *room, c *Connection, m Message) error {
			if m.Binary {
				return c.Send(ctx, Binary(append([]byte("back "), m.Data...)))
			}
			return Broadcast(ctx, Text("heard "+m.Text), Except("b"))
		}
	}
	bothRooms(t, prepare, func(t *testing.T, r *rig, gate *testHost) {
		a := gate.dial(t, roomPath+"?_pk=a&from=Oslo")
		a.expect(identity("jo"), "hello a of Oslo")
		a.send(rpc("1", "addTo", `[2,"one"]`))
		a.expect(state(`{"n":2,"log":["one"]}`), rpcDone("1", "2"))
		b := gate.dial(t, roomPath+"?_pk=b")
		b.expect(identityBefore("jo"), state(`{"n":2,"log":["one"]}`), "hello b of ")
		a.send(rpc("2", "Count", `[]`))
		a.expect(rpcDone("2", "2"))
		a.send("hi")
		a.expect("heard hi")
		a.send(rpc("3", "say", `["all"]`))
		a.expect("all", rpcDone("3", `"said"`))
		b.expect("all")
		if err := b.ws.Write(t.Context(), websocket.MessageBinary, []byte{1, 2}); err != nil {
			t.Fatal(err)
		}
		b.expect("binary back \x01\x02")
		b.send(state(`{"n":7}`))
		a.expect(state(`{"n":7}`))
		b.send(rpc("4", "count", `[]`))
		b.expect(rpcDone("4", "7"))
		if status, _ := gate.call(t, http.MethodPost, roomPath+"?say=posted", ""); status != http.StatusOK {
			t.Fatalf("POST = %d", status)
		}
		a.expect("posted")
		b.expect("posted")
		if err := b.ws.Close(websocket.StatusNormalClosure, "bye"); err != nil {
			t.Fatal(err)
		}
		a.expect(state(`{"n":7,"log":["closed b"]}`))
		r.awaitLog(t, "jo", "closed b")
	})
}

// TestSocketRefusals: what a client does wrong is told to it, changes nothing, and disturbs nobody.
func TestSocketRefusals(t *testing.T) {
	t.Parallel()
	failures := make(chan error, 10)
	prepare := func(r *room) {
		r.message = func(ctx context.Context, r *room, c *Connection, m Message) error {
			return fmt.Errorf("cannot take %s", m.Text)
		}
		r.failed = func(_ context.Context, _ *room, err error) error { failures <- err; return nil }
		r.closed = func(context.Context, *room, *Connection, Closed) error { return nil }
	}
	r := newRig(t)
	h := r.host(t, rooms(prepare))
	other := h.dial(t, roomPath)
	other.expect(identity("jo"))
	c := h.dial(t, roomPath+"?_pk=a")
	c.expect(identity("jo"))
	for _, test := range []struct{ frame, answer string }{
		{rpc("1", "nope", `[]`), rpcError("1", "Method nope does not exist")},
		{rpc("1", "hidden", `[]`), rpcError("1", "Method hidden is not callable")},
		{rpc("1", "OnMessage", `[]`), rpcError("1", "Method OnMessage is not callable")},
		{rpc("1", "setState", `[{}]`), rpcError("1", "Method setState is not callable")},
		{rpc("1", "addTo", `[1]`), rpcError("1", "Method addTo takes 2 arguments (a whole number of 64 bits, a text), got 1")},
		{rpc("1", "addTo", `[1,2]`), rpcError("1", "Method addTo: argument 2 is 2; allowed is a text")},
		{rpc("1", "fail", `["no luck"]`), rpcError("1", "no luck")},
		{rpc("1", "panic", `[]`), rpcError("1", "the agent panicked")},
		{`{"type":"rpc","id":"1","method":1,"args":[]}`, rpcError("1", "frame of a call: the field method is 1; allowed is a text of up to 256 bytes")},
		{`{"type":"cf_agent_state"}`, `{"type":"cf_agent_state_error","error":"State update rejected","reason":"the field state is missing"}`},
	} {
		c.send(test.frame)
		if got, err := c.next(); err != nil || got != test.answer {
			t.Fatalf("%s is answered with %s, %v; want %s", test.frame, got, err, test.answer)
		}
	}
	c.send(state(`{"n":-1}`))
	if got, _ := c.next(); !strings.Contains(got, `"error":"State update rejected"`) || !strings.Contains(got, "n is below 0") {
		t.Errorf("state that is refused: %s", got)
	}
	c.send(rpc("2", "addTo", `[1,""]`))
	c.expect(state(`{"n":1}`), rpcDone("2", "1"))
	c.send(state(`{"n":"many"}`))
	if got, _ := c.next(); !strings.Contains(got, "State update rejected") {
		t.Errorf("state that does not fit: %s", got)
	}
	c.expect(state(`{"n":1}`)) // the true one
	c.send("a letter")
	if err := awaitTurn(t, "OnError is called", failures); err.Error() != `OnMessage of connection "a": cannot take a letter` {
		t.Errorf("OnError(%v)", err)
	}
	c.send(`{"type":"rpc","method":"count","args":[]}`)
	c.expectClose(1007, "the field id is missing")
	other.expect(state(`{"n":1}`))
	other.send(rpc("9", "count", `[]`))
	other.expect(rpcDone("9", "1"))
	if got := h.log.count(`level=WARN msg="frame of a client is refused"`); got != 1 { // the others are told at debug
		t.Errorf("%d warnings of refused frames, want one for the connection", got)
	}
	if got := h.log.count("frame of a client is refused"); got != 11 { // not of what the agent's own code has refused
		t.Errorf("%d lines about refused frames, want 11", got)
	}
	if line := h.log.line("frame of a client is refused"); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "connection=a") ||
		!strings.Contains(line, `cause="call of a method that`) {
		t.Errorf("log line %q", line)
	}
}

// TestSocketAdmission: who may open a socket at all.
func TestSocketAdmission(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	failures := make(chan error, 10)
	classes := append(rooms(func(r *room) {
		r.failed = func(_ context.Context, _ *room, err error) error { failures <- err; return nil }
		r.connect = func(ctx context.Context, r *room, c *Connection, q *http.Request) error {
			user, err := Identity[string](ctx)
			if err != nil {
				return &Error{Status: http.StatusForbidden, Message: "who are you?"}
			}
			if user == "broken" {
				return fmt.Errorf("no room for %s", user)
			}
			return c.Send(ctx, Text("hello "+user+q.Header.Get("Cookie")))
		}
		r.message = func(ctx context.Context, r *room, c *Connection, m Message) error {
			user, err := Identity[string](ctx)
			if err != nil {
				return err
			}
			return c.Send(ctx, Text(m.Text+" "+user))
		}
	}), desks(nil)...)
	hook := func(r *http.Request, to Target) (any, error) {
		switch user := r.URL.Query().Get("user"); user {
		case "evil":
			return nil, &Error{Status: http.StatusUnauthorized, Name: "NoSession"}
		case "":
			return nil, nil
		default:
			return user, nil
		}
	}
	h := r.host(t, classes, func(s *HostService, c *project.Config) {
		s.BeforeRequest(hook)
		c.Settings.HTTPOrigins = "https://app.example"
	})
	c := h.dial(t, roomPath+"?user=ada")
	c.expect(identity("jo"), "hello ada")
	c.send("again")
	c.expect("again ada")
	h.dial(t, roomPath).expectClose(1008, "who are you?")
	h.dial(t, roomPath+"?user=broken&_pk=b").expectClose(1011, "no room for broken")
	if err := awaitTurn(t, "OnError is called", failures); err.Error() != `OnConnect of connection "b": no room for broken` {
		t.Errorf("OnError(%v)", err) // the first: who was refused is no failure
	}
	for _, test := range []struct {
		path, origin string
		status       int
	}{
		{roomPath + "?user=evil", "", http.StatusUnauthorized},
		{roomPath + "?user=ada", "https://evil.example", http.StatusForbidden},
		{roomPath + "?user=ada", "null", http.StatusForbidden},
		{roomPath + "?user=ada", "https://app.example", http.StatusSwitchingProtocols},
		{roomPath + "?user=ada", h.url, http.StatusSwitchingProtocols},
		{roomPath + "?user=ada&_pk=a%20b", "", http.StatusBadRequest},
		{roomPath + "?user=ada&_pk=" + strings.Repeat("x", 129), "", http.StatusBadRequest},
		{"/agents/desk/jo", "", http.StatusNotFound},
		{"/agents/chat-room/", "", http.StatusNotFound},
		{"/agents/nothing/jo", "", http.StatusBadRequest},
	} {
		header := http.Header{}
		if test.origin != "" {
			header.Set("Origin", test.origin)
		}
		c, response, err := h.tryDial(t.Context(), test.path, header)
		if response == nil || response.StatusCode != test.status {
			t.Errorf("%s from %q: %v, %v; want status %d", test.path, test.origin, response, err, test.status)
		}
		if c != nil {
			_ = c.ws.CloseNow()
		}
	}
}

// TestSocketFromAnyOrigin: where all origins are allowed, cookies that a browser has sent along count for nothing.
func TestSocketFromAnyOrigin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, rooms(func(r *room) {
		r.connect = func(ctx context.Context, r *room, c *Connection, q *http.Request) error {
			return c.Send(ctx, Text("cookie "+q.Header.Get("Cookie")))
		}
	}), func(_ *HostService, c *project.Config) { c.Settings.HTTPOrigins = "*" })
	for origin, want := range map[string]string{"https://evil.example": "cookie ", h.url: "cookie a=1"} {
		room := strings.TrimPrefix(origin, "https://")
		c, _, err := h.tryDial(t.Context(), "/agents/chat-room/"+url.PathEscape(room), http.Header{"Origin": {origin}, "Cookie": {"a=1"}})
		if err != nil {
			t.Fatal(err)
		}
		c.t = t
		c.expect(identity(room), want)
		if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
	}
}

// TestConnectionSettings: tags, state, readonly, silent, Connections and Close.
func TestConnectionSettings(t *testing.T) {
	t.Parallel()
	prepare := func(r *room) {
		r.connect = func(ctx context.Context, r *room, c *Connection, q *http.Request) error {
			if err := c.SetTags(ctx, "floor", c.ID()[:1]); err != nil {
				return err
			}
			if err := c.SetState(ctx, map[string]int{"seen": 1}); err != nil {
				return err
			}
			if err := c.SetSilent(ctx, q.URL.Query().Has("silent")); err != nil {
				return err
			}
			return c.SetReadonly(ctx, q.URL.Query().Has("readonly"))
		}
		r.message = func(ctx context.Context, r *room, c *Connection, m Message) error {
			switch what, rest, _ := strings.Cut(m.Text, " "); what {
			case "count":
				s, err := ConnectionState[map[string]int](c)
				if err != nil {
					return err
				}
				s["seen"]++
				return firstOf(c.SetState(ctx, s), c.Send(ctx, Text(fmt.Sprint(s["seen"]))))
			case "tag":
				return Broadcast(ctx, Text(rest), Tagged(rest))
			case "list":
				all, err := Connections(ctx)
				tagged, err2 := Connections(ctx, "b")
				var text strings.Builder
				for _, one := range all {
					text.WriteString(one.ID() + strings.Join(one.Tags(), "+") + ";")
				}
				return firstOf(err, err2, c.Send(ctx, Text(fmt.Sprint(text.String(), len(tagged)))))
			case "close":
				return c.Close(ctx, 4001, rest)
			}
			return nil
		}
	}
	bothRooms(t, prepare, func(t *testing.T, r *rig, gate *testHost) {
		a := gate.dial(t, roomPath+"?_pk=a1")
		a.expect(identity("jo"))
		b := gate.dial(t, roomPath+"?_pk=b1&readonly")
		b.expect(identity("jo"))
		c := gate.dial(t, roomPath+"?_pk=b2&silent")
		c.send("count")
		c.expect("2") // its first frame: it is silent
		for _, want := range []string{"2", "3"} {
			a.send("count")
			a.expect(want)
		}
		b.send("tag a")
		a.expect("a")
		a.send("tag b")
		b.expect("b")
		c.expect("b")
		b.send("list")
		b.expect("a1floor+a;b1floor+b;b2floor+b;2")
		b.send(state(`{"n":1}`))
		b.expect(`{"type":"cf_agent_state_error","error":"Connection is readonly"}`)
		b.send(rpc("1", "addTo", `[1,""]`))
		b.expect(rpcError("1", "Connection is readonly"))
		b.send(rpc("2", "count", `[]`))
		b.expect(rpcDone("2", "0"))
		c.send(rpc("1", "addTo", `[1,""]`))
		c.expect(rpcDone("1", "1"))
		a.expect(state(`{"n":1}`))
		a.send("close enough")
		a.expectClose(4001, "enough")
		r.awaitLog(t, "jo", "closed a1")
	})
}

// firstOf is the first error.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestConnectionOfTheSameID: a newer connection closes the older, unless it is somebody else's.
func TestConnectionOfTheSameID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hosts := []*testHost{}
	for range 2 {
		hosts = append(hosts, r.host(t, rooms(nil), func(s *HostService, _ *project.Config) {
			s.BeforeRequest(func(r *http.Request, _ Target) (any, error) { return r.URL.Query().Get("user"), nil })
		}))
	}
	old := hosts[0].dial(t, roomPath+"?_pk=a&user=ada")
	old.expect(identity("jo"))
	hosts[1].dial(t, roomPath+"?_pk=a&user=eve").expectClose(1008, "somebody else has a connection of this id")
	if line := hosts[1].log.line("frame of a client is refused"); !strings.Contains(line, "connection=a") || !strings.Contains(line, "somebody else") {
		t.Errorf("log line %q", line)
	}
	newer := hosts[1].dial(t, roomPath+"?_pk=a&user=ada")
	newer.expect(identity("jo"))
	old.expectClose(1008, "another connection of the same id was opened")
	newer.expect(state(`{"n":0,"log":["closed a"]}`))
}

// TestSocketOutlivesItsAgent: the socket stays while the agent sleeps, wakes it, and goes on with another owner.
func TestSocketOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := rooms(nil, IdleAfter(1))
	gate := r.host(t, classes)
	c := gate.dial(t, roomPath)
	c.expect(identity("jo"))
	for n := range 3 {
		natstest.Eventually(t, soon, "the agent sleeps", func() bool { return r.roomRecord(t, "jo").Owner == "" })
		c.send(rpc("1", "addTo", `[1,""]`))
		c.expect(state(fmt.Sprintf(`{"n":%d}`, n+1)), rpcDone("1", fmt.Sprint(n+1)))
	}
}

// TestSocketOfDestroyedAgent: its sockets are closed, and who connects again meets the next life.
func TestSocketOfDestroyedAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, rooms(nil))
	c := h.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send(rpc("1", "addTo", `[1,""]`))
	c.expect(state(`{"n":1}`), rpcDone("1", "1"))
	life := r.roomRecord(t, "jo").Life
	p, err := project.Open(t.Context(), project.Config{Name: testProject}, project.Conn(r.nc))
	if err != nil {
		t.Fatal(err)
	}
	if err := Destroy(t.Context(), Bind[*room]("ChatRoom").In(p).Agent("jo")); err != nil {
		t.Fatal(err)
	}
	c.expectClose(1000, "the agent was destroyed")
	c = h.dial(t, roomPath)
	c.expect(identity("jo"))
	if now := r.roomRecord(t, "jo"); now.Life <= life || now.State != nil {
		t.Errorf("record %+v, want a new life", now)
	}
}

// TestLongCallOfClient: while a call is outside, later frames of its connection have their turns.
func TestLongCallOfClient(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	prepare := func(r *room) { r.wait = func(ctx context.Context) error { return await(ctx, goOn) } }
	bothRooms(t, prepare, func(t *testing.T, _ *rig, gate *testHost) {
		c := gate.dial(t, roomPath)
		c.expect(identity("jo"))
		c.send(rpc("1", "long", `[]`))
		c.send(rpc("1", "count", `[]`))
		c.expect(rpcError("1", "another call of this id is not answered yet"))
		c.send(rpc("2", "count", `[]`))
		c.expect(rpcDone("2", "0"))
		goOn <- struct{}{}
		c.expect(rpcDone("1", `"long"`))
	})
}

func TestSocketPlacesCompare(t *testing.T) {
	t.Parallel()
	ascending := []protocol.SocketPlace{{}, {Life: 1, Since: 1, Number: 1}, {Life: 1, Since: 1, Number: 2}, {Life: 1, Since: 3, Number: 1}, {Life: 2, Since: 1, Number: 1}}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i != j {
				want = map[bool]int{true: -1, false: 1}[i < j]
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%+v against %+v = %d, want %d", a, b, got, want)
			}
		}
	}
}

// TestStateSource: a validator knows which client has sent a state, and that the agent sets one although a client has asked for it.
func TestStateSource(t *testing.T) {
	t.Parallel()
	prepare := func(r *room) {
		r.validate = func(ctx context.Context, next roomState) error {
			switch c, sent := StateSource(ctx); {
			case sent && next.N != 1:
				return fmt.Errorf("not from %s", c.ID())
			case !sent && next.N == 1:
				return errors.New("not from the agent")
			}
			return nil
		}
	}
	bothRooms(t, prepare, func(t *testing.T, r *rig, gate *testHost) {
		c := gate.dial(t, roomPath+"?_pk=a")
		c.expect(identity("jo"))
		c.send(state(`{"n":2}`))
		if got, _ := c.next(); !strings.Contains(got, "not from a") {
			t.Errorf("a state of the client: %s", got)
		}
		c.send(rpc("1", "addTo", `[1,""]`))
		if got, _ := c.next(); !strings.Contains(got, "not from the agent") {
			t.Errorf("a state of the agent: %s", got)
		}
		c.send(state(`{"n":1}`))
		c.send(rpc("2", "addTo", `[1,""]`))
		c.expect(state(`{"n":2}`), rpcDone("2", "2"))
	})
}
