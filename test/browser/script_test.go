package browser_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/js"
	"github.com/skein-run/skein/test/browser"
)

// clientPage loads the module and notes what happens to its client.
const clientPage = `<!doctype html><meta charset="utf-8"><title>client</title><script type="module">
import * as skein from "MODULE";
window.skein = skein;
window.seen = [];
window.connect = (options = {}) => {
  const note = (what) => (...args) => { seen.push([what, ...args].join(" ")) };
  window.agent = new skein.AgentClient({
    agent: "ChatRoom", name: "jo",
    onOpen: () => seen.push("open"),
    onClose: (e) => seen.push("close " + e.code + " " + e.reason),
    onMessage: (e) => seen.push("message " + (typeof e.data === "string" ? e.data : "binary " + new Uint8Array(e.data).join())),
    onStateUpdate: (state, source) => seen.push("state " + JSON.stringify(state) + " " + source),
    onStateUpdateError: note("refused"),
    onIdentity: note("identity"),
    onIdentityChange: note("other"),
    onConnectionError: (e) => seen.push("final " + e.code + " " + e.message),
    ...options,
  });
};
// What becomes of a promise is noted, whenever that is.
window.follow = (name, promise) => promise.then(
  (result) => { seen.push(name + " = " + JSON.stringify(result)) },
  (error) => { seen.push(name + " ! " + error.name + ": " + error.message + (error.outcome ? " (" + error.outcome + ")" : "")) });
window.take = () => seen.splice(0);
</script>`

// script is a server whose sockets the test plays.
type script struct {
	t     *testing.T
	url   string
	peers chan *peer
}

func newScript(t *testing.T) *script {
	t.Helper()
	s := &script{t: t, peers: make(chan *peer, 16)}
	mux := http.NewServeMux()
	mux.Handle("/skein.js", js.Handler())
	mux.Handle("/", browser.HTML(moduleAt("/skein.js")))
	ctx, cancel := context.WithCancel(context.Background())
	mux.HandleFunc("/agents/", func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // it was answered
		}
		p := &peer{t: t, ws: ws, path: r.URL.EscapedPath(), query: r.URL.Query(), frames: make(chan string, 1000)}
		s.peers <- p
		p.read(ctx)
	})
	server := httptest.NewServer(mux)
	s.url = server.URL
	t.Cleanup(func() {
		cancel()
		server.Close()
	})
	return s
}

// accept waits for the next socket.
func (s *script) accept() *peer {
	s.t.Helper()
	return await(s.t, "a socket", s.peers)
}

// greet accepts a socket and says who is there, as hosts do. The state comes next if there is one.
func (s *script) greet(state string) *peer {
	s.t.Helper()
	p := s.accept()
	if state == "" {
		p.write(`{"type":"cf_agent_identity","name":"jo","agent":"chat-room"}`)
		return p
	}
	p.write(`{"type":"cf_agent_identity","name":"jo","agent":"chat-room","stateFollows":true}`)
	p.write(`{"type":"cf_agent_state","state":` + state + `}`)
	return p
}

// peer is the server's side of a socket.
type peer struct {
	t      *testing.T
	ws     *websocket.Conn
	path   string
	query  url.Values
	frames chan string
	ended  websocket.CloseError // set when frames is closed
}

func (p *peer) read(ctx context.Context) {
	defer close(p.frames)
	for {
		kind, data, err := p.ws.Read(ctx)
		if err != nil {
			_ = errors.As(err, &p.ended) // else it broke
			return
		}
		if kind == websocket.MessageBinary {
			data = append([]byte("binary "), data...)
		}
		p.frames <- string(data)
	}
}

func (p *peer) write(frame string) {
	p.t.Helper()
	if err := p.ws.Write(p.t.Context(), websocket.MessageText, []byte(frame)); err != nil {
		p.t.Fatalf("write to the page: %v", err)
	}
}

// expect takes frames of the page, which must be these. Of calls they are name and arguments, and their ids are returned.
func (p *peer) expect(want ...string) (ids []string) {
	p.t.Helper()
	for _, w := range want {
		frame := await(p.t, w, p.frames)
		var call struct {
			Type, ID, Method string
			Args             json.RawMessage
		}
		if json.Unmarshal([]byte(frame), &call) == nil && call.Type == "rpc" {
			ids, frame = append(ids, call.ID), call.Method+string(call.Args)
		}
		if frame != w {
			p.t.Fatalf("the page sent %s, want %s", frame, w)
		}
	}
	return ids
}

// quiet fails if the page has sent anything that was not taken.
func (p *peer) quiet() {
	p.t.Helper()
	select {
	case frame, ok := <-p.frames:
		if ok {
			p.t.Errorf("the page sent %s", frame)
		}
	default:
	}
}

func (p *peer) close(code int, reason string) {
	_ = p.ws.Close(websocket.StatusCode(code), reason) // the page may have gone
}

func (p *peer) answer(id, result string) {
	p.t.Helper()
	p.write(`{"type":"rpc","id":"` + id + `","success":true,"result":` + result + `,"done":true}`)
}

func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("there will be no %s", what)
		}
		return v
	case <-time.After(natstest.Patience):
		t.Fatalf("not in time: %s", what)
	}
	panic("unreachable")
}
