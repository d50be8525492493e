package agent

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

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// room is the agent of the tests of sockets.
type room struct {
	Base[roomState]
	connect func(context.Context, *room, *Connection, *http.Request) error
	message func(context.Context, *room, *Connection, Message) error
	closed  func(context.Context, *room, *Connection, Closed) error
	failed  func(context.Context, *room, error) error
	wait    func(context.Context) error
	// validate is called for states that are none otherwise.
	validate func(context.Context, roomState) error
	tail     func(context.Context, *room, *Chunks[string], int) (string, error)
}

type roomState struct {
	N   int      `json:"n"`
	Log []string `json:"log,omitempty"`
}

func (r *room) log(ctx context.Context, text string) error {
	return r.Update(ctx, func(s *roomState) error { s.Log = append(s.Log, text); return nil })
}

func (r *room) OnConnect(ctx context.Context, c *Connection, q *http.Request) error {
	if r.connect == nil {
		return nil
	}
	return r.connect(ctx, r, c, q)
}

func (r *room) OnMessage(ctx context.Context, c *Connection, m Message) error {
	if r.message == nil {
		return nil
	}
	return r.message(ctx, r, c, m)
}

func (r *room) OnClose(ctx context.Context, c *Connection, how Closed) error {
	if r.closed == nil {
		return r.log(ctx, "closed "+c.ID())
	}
	return r.closed(ctx, r, c, how)
}

func (r *room) OnError(ctx context.Context, err error) error {
	if r.failed == nil {
		return nil
	}
	return r.failed(ctx, r, err)
}

func (r *room) OnRequest(w http.ResponseWriter, q *http.Request) error {
	if q.Method == http.MethodPost {
		return Broadcast(q.Context(), Text(q.URL.Query().Get("say")))
	}
	return json.NewEncoder(w).Encode(r.State())
}

func (r *room) ValidateStateChange(ctx context.Context, next roomState) error {
	if next.N < 0 {
		return errors.New("n is below 0")
	}
	if r.validate == nil {
		return nil
	}
	return r.validate(ctx, next)
}

func (r *room) AddTo(ctx context.Context, n int, note string) (int, error) {
	err := r.Update(ctx, func(s *roomState) error {
		s.N += n
		if note != "" {
			s.Log = append(s.Log, note)
		}
		return nil
	})
	return r.State().N, err
}

func (r *room) Count(context.Context) (int, error) { return r.State().N, nil }

func (r *room) Fail(ctx context.Context, text string) error {
	return errors.Join(r.log(ctx, "failed"), errors.New(text))
}

func (r *room) Panic(context.Context) error { panic("secret") }

// Say broadcasts before its result leaves.
func (r *room) Say(ctx context.Context, text string) (string, error) {
	return "said", Broadcast(ctx, Text(text))
}

// Long goes outside until the test lets it.
func (r *room) Long(ctx context.Context) (string, error) {
	return "long", Outside(ctx, r.wait)
}

// Repeat answers with a text n times.
func (r *room) Repeat(_ context.Context, text string, n int) (string, error) {
	return strings.Repeat(text, n), nil
}

// RepeatStored does, and stores that it has.
func (r *room) RepeatStored(ctx context.Context, text string, n int) (string, error) {
	c, _ := CurrentConnection(ctx)
	return strings.Repeat(text, n), c.SetState(ctx, n)
}

// Nothing has no result.
func (r *room) Nothing(context.Context) error { return nil }

func (r *room) Hidden(context.Context) error { return nil }

// Heed takes a letter that changes nothing.
func (r *room) Heed(context.Context, string) error { return nil }

func rooms(prepare func(*room), options ...ClassOption) []Class {
	options = append([]ClassOption{Clients((*room).AddTo, (*room).Count, (*room).Fail, (*room).Panic, (*room).Say, (*room).Repeat, (*room).RepeatStored, (*room).Long, (*room).Tail, (*room).Pour, (*room).Nothing)}, options...)
	return []Class{Define("ChatRoom", func() *room {
		r := &room{}
		if prepare != nil {
			prepare(r)
		}
		return r
	}, options...)}
}

func roomNamed(name string) protocol.Agent {
	return protocol.Agent{Project: testProject, Class: "ChatRoom", Name: name}
}

// socketClient is a socket to a room.
type socketClient struct {
	t  *testing.T
	ws *websocket.Conn
}

const roomPath = "/agents/chat-room/jo"

func (h *testHost) dial(t *testing.T, path string) *socketClient {
	t.Helper()
	c, _, err := h.tryDial(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.t = t
	t.Cleanup(func() { _ = c.ws.CloseNow() }) // most have ended before
	return c
}

func (h *testHost) tryDial(ctx context.Context, path string, header http.Header) (*socketClient, *http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	ws, response, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(h.url, "http")+path, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		return nil, response, err
	}
	ws.SetReadLimit(1 << 20)
	return &socketClient{ws: ws}, response, nil
}

func (c *socketClient) send(text string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *socketClient) next() (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	kind, data, err := c.ws.Read(ctx)
	if kind == websocket.MessageBinary {
		return "binary " + string(data), err
	}
	return string(data), err
}

// expect reads frames and fails unless they are these.
func (c *socketClient) expect(frames ...string) {
	c.t.Helper()
	for _, want := range frames {
		if got, err := c.next(); err != nil || got != want {
			c.t.Fatalf("frame %s, %v; want %s", got, err, want)
		}
	}
}

// expectClose reads until the socket ends, which must be next.
func (c *socketClient) expectClose(code int, reason string) {
	c.t.Helper()
	got, err := c.next()
	ended, ok := errors.AsType[websocket.CloseError](err)
	if !ok || int(ended.Code) != code || !strings.Contains(ended.Reason, reason) {
		c.t.Fatalf("frame %q, %v; want a close with %d %q", got, err, code, reason)
	}
}

func identity(name string) string {
	return fmt.Sprintf(`{"type":"cf_agent_identity","name":%q,"agent":"chat-room"}`, name)
}

// identityBefore is that of a room that has a state, which comes next.
func identityBefore(name string) string {
	return strings.TrimSuffix(identity(name), "}") + `,"stateFollows":true}`
}

func state(text string) string { return `{"type":"cf_agent_state","state":` + text + `}` }

func rpc(id, method, args string) string {
	return fmt.Sprintf(`{"type":"rpc","id":%q,"method":%q,"args":%s}`, id, method, args)
}

func rpcDone(id, result string) string {
	return fmt.Sprintf(`{"type":"rpc","id":%q,"success":true,"result":%s,"done":true}`, id, result)
}

func rpcError(id, text string) string {
	return fmt.Sprintf(`{"type":"rpc","id":%q,"success":false,"error":%q}`, id, text)
}

// roomRecord reads the record of a room.
func (r *rig) roomRecord(t *testing.T, name string) protocol.Record {
	t.Helper()
	records := &records{store: r.store, where: bucketOf(protocol.AgentsBucket(testProject))}
	v, err := records.read(t.Context(), roomNamed(name))
	if err != nil {
		t.Fatal(err)
	}
	return v.record
}

// roomLog is what the room has noted.
func (r *rig) roomLog(t *testing.T, name string) []string {
	t.Helper()
	var s roomState
	if raw := r.roomRecord(t, name).State; raw != nil {
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
	}
	return s.Log
}

// awaitLog waits until the room has noted texts, in their order.
func (r *rig) awaitLog(t *testing.T, name string, want ...string) {
	t.Helper()
	natstest.Eventually(t, soon, fmt.Sprintf("the log of room %q is %q", name, want), func() bool {
		return slices.Equal(r.roomLog(t, name), want)
	})
}

// bothRooms runs a test with sockets at the host of the room, and at another.
func bothRooms(t *testing.T, prepare func(*room), test func(t *testing.T, r *rig, gate *testHost), options ...hostOption) {
	t.Helper()
	eachRoom(t, func(t *testing.T, start startRoom) {
		r, gate := start(prepare, options...)
		test(t, r, gate)
	})
}

// startRoom makes a room and a host to reach it through.
type startRoom func(prepare func(*room), options ...hostOption) (*rig, *testHost)

// eachRoom is bothRooms for tests whose rooms must not share what they are prepared with.
func eachRoom(t *testing.T, test func(t *testing.T, start startRoom)) {
	t.Helper()
	for _, name := range []string{"at its host", "through another host"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(prepare func(*room), options ...hostOption) (*rig, *testHost) {
				r := newRig(t)
				classes := rooms(prepare)
				owner := r.host(t, classes, options...)
				gate := owner
				owner.call(t, http.MethodGet, roomPath, "")
				if name != "at its host" {
					gate = r.host(t, classes, options...)
				}
				return r, gate
			})
		})
	}
}

// awaitTurn waits for something that a turn says.
func awaitTurn[T any](t *testing.T, what string, said <-chan T) T {
	t.Helper()
	select {
	case v := <-said:
		return v
	case <-time.After(soon):
		t.Fatalf("not in time: %s", what)
		panic("unreachable")
	}
}
