package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
)

// TestHostThatHoldsEnoughSockets: one more is refused with 503 before it is one; requests are served, and room is given back.
func TestHostThatHoldsEnoughSockets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, rooms(nil), settings(func(s *process.Settings) { s.HTTPMaxSockets, s.HTTPMaxConnections = 1, 100 }))
	a := h.dial(t, roomPath)
	a.expect(identity("jo"))
	_, response, err := h.tryDial(t.Context(), "/agents/chat-room/other", nil)
	expectRefusal(t, response, err, "TooManySockets")
	if status, _ := h.call(t, http.MethodGet, roomPath, ""); status != http.StatusOK {
		t.Errorf("GET = %d", status)
	}
	if line := h.log.line("socket is refused"); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "as many sockets as it may") {
		t.Errorf("log line %q", line)
	}
	if err := a.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "there is room again", func() bool {
		c, _, err := h.tryDial(t.Context(), roomPath, nil)
		if err == nil {
			_ = c.ws.CloseNow()
		}
		return err == nil
	})
}

// expectRefusal fails unless a socket was refused with 503, a name, and when to come back.
func expectRefusal(t *testing.T, response *http.Response, err error, name string) {
	t.Helper()
	if response == nil {
		t.Fatalf("no answer: %v", err)
	}
	defer response.Body.Close()
	text := make([]byte, 1024)
	n, _ := response.Body.Read(text)
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || !strings.Contains(string(text[:n]), name) {
		t.Errorf("status %d, Retry-After %q, %s; want 503 %s", response.StatusCode, response.Header.Get("Retry-After"), text[:n], name)
	}
}

// TestSocketWhileTheHostStops: who asks for a socket while the host shuts down is told to come back.
func TestSocketWhileTheHostStops(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked, goOn := make(chan bool, 1), make(chan struct{})
	h := r.host(t, rooms(nil), func(s *HostService, _ *project.Config) {
		s.BeforeRequest(func(r *http.Request, _ Target) (any, error) {
			if !r.URL.Query().Has("late") {
				return nil, nil
			}
			asked <- true
			return nil, await(r.Context(), goOn)
		})
	})
	open := h.dial(t, roomPath)
	open.expect(identity("jo"))
	type answer struct {
		response *http.Response
		err      error
	}
	answered, stopped := make(chan answer, 1), make(chan error, 1)
	go func() {
		_, response, err := h.tryDial(t.Context(), roomPath+"?late", nil)
		answered <- answer{response, err}
	}()
	awaitTurn(t, "the hook is asked", asked)
	go func() { stopped <- h.stop() }()
	open.expectClose(1001, "shutting down")
	close(goOn)
	late := awaitTurn(t, "the request is answered", answered)
	expectRefusal(t, late.response, late.err, "ShuttingDown")
	if err := awaitTurn(t, "the host has stopped", stopped); err != nil {
		t.Error(err)
	}
}

// TestFrameRate: a client that sends faster than it may is held up, which is logged once; each of its frames is applied, in order.
func TestFrameRate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, rooms(nil), settings(func(s *process.Settings) { s.HTTPFrameRate = 50 }))
	c := h.dial(t, roomPath+"?_pk=a")
	c.expect(identity("jo"))
	const n, held = 60, "more than 50 frames in a second"
	natstest.Eventually(t, soon, "the client is held up", func() bool { // a busy machine may send them more slowly than that
		for i := range n {
			c.send(rpc(fmt.Sprint(i), "count", `[]`))
		}
		for i := range n {
			c.expect(rpcDone(fmt.Sprint(i), "0"))
		}
		return h.log.has(held)
	})
	line := h.log.line(held)
	if !strings.Contains(line, "level=WARN") || !strings.Contains(line, "connection=a") {
		t.Errorf("log line %q", line)
	}
}

// letters are some that take more bytes as JSON, and one that does not.
var letters = map[string]string{"plain": "x", "markup": "<", "quotes": `"`, "control": "\x01", "separators": "\u2028"}

// patient lets hosts wait for each other: on a busy machine, it takes time to hand large frames over.
var patient = timings(func(t *timing) { t.acceptWithin = 10 * time.Second })

// TestLargestFrame: a frame of 512 KiB comes through, whatever it takes as JSON; one of a byte more closes the socket with the limit as
// its reason.
func TestLargestFrame(t *testing.T) {
	t.Parallel()
	prepare := func(r *room) {
		r.closed = func(context.Context, *room, *Connection, Closed) error { return nil }
		r.message = func(ctx context.Context, _ *room, c *Connection, m Message) error {
			return c.Send(ctx, Text(fmt.Sprint(len(m.Text), " ", strings.Count(m.Text, string([]rune(m.Text)[:1])))))
		}
	}
	bothRooms(t, prepare, func(t *testing.T, r *rig, gate *testHost) {
		for name, letter := range letters {
			c := gate.dial(t, roomPath+"?_pk="+name)
			c.expect(identity("jo"))
			n := (512 << 10) / len(letter)
			c.send(strings.Repeat(letter, n))
			c.expect(fmt.Sprint(n*len(letter), " ", n))
			if err := c.ws.CloseNow(); err != nil {
				t.Error(err)
			}
		}
		c := gate.dial(t, roomPath+"?_pk=a")
		c.expect(identity("jo"))
		text := strings.Repeat("x", 1000)
		c.send(rpc("1", "count", `[]`))
		c.expect(rpcDone("1", "0"))
		c.send(strings.Repeat(text, 525))
		c.expectClose(1009, "a frame has more than 524288 bytes")
		if line := gate.log.line("frame of a client is refused"); !strings.Contains(line, "connection=a") || !strings.Contains(line, "524288") {
			t.Errorf("log line %q", line)
		}
	}, patient)
}

// TestLargestAnswer: 512 KiB come back, too, whatever they take as JSON: as a message, and as the result of a call, stored or not.
func TestLargestAnswer(t *testing.T) {
	t.Parallel()
	bothRooms(t, echo, func(t *testing.T, r *rig, gate *testHost) {
		for name, letter := range letters {
			c := gate.dial(t, roomPath+"?_pk="+name)
			c.expect(identity("jo"))
			text := strings.Repeat(letter, (512<<10)/len(letter))
			c.send(text)
			if got, err := c.next(); got != text {
				t.Fatalf("%s: back come %d bytes, %.100q, %v", name, len(got), got, err)
			}
			encoded, err := json.Marshal(letter)
			if err != nil {
				t.Fatal(err)
			}
			encoded = encoded[1 : len(encoded)-1]
			n := (512<<10 - 100) / len(encoded)
			for _, method := range []string{"repeat", "repeatStored"} {
				c.send(rpc(method, method, fmt.Sprintf(`["%s",%d]`, encoded, n)))
				if got, err := c.next(); got != rpcDone(method, `"`+strings.Repeat(string(encoded), n)+`"`) {
					t.Fatalf("%s: %s answers %d bytes, %.100q, %v", name, method, len(got), got, err)
				}
			}
			if err := c.ws.CloseNow(); err != nil {
				t.Error(err)
			}
		}
	}, patient)
}

// echo makes rooms that send back what they get.
func echo(r *room) {
	r.message = func(ctx context.Context, r *room, c *Connection, m Message) error { return c.Send(ctx, m) }
	r.closed = func(context.Context, *room, *Connection, Closed) error { return nil }
	r.failed = func(_ context.Context, _ *room, err error) error { return errors.Join(errors.New("unexpected"), err) }
}
