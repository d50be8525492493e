package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/pkg/agent"
)

// TestHostsOfSocketsKilled: two clients hold sockets at one host and talk through an agent at others, which are killed with SIGKILL in the
// middle, one after the other. The sockets stay open, and no message is lost, doubled or out of order. Then the host of the sockets is
// killed: the agent is told of the end of both, once.
func TestHostsOfSocketsKilled(t *testing.T) {
	t.Parallel()
	for name, start := range rigs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t), "sockets")
			owner := w.host("")
			if got := owner.get(t.Context(), "jo", ""); got.err != nil {
				t.Fatal(got.err)
			}
			gate := w.host("")
			a, b := gate.dial(t, "jo", "a"), gate.dial(t, "jo", "b")
			const kills, each = 2, 60
			heard := []<-chan []string{aside(func() []string { return hear(t.Context(), a, kills*each) }), aside(func() []string { return hear(t.Context(), b, kills*each) })}
			var want []string
			for range kills {
				heir := w.host("")
				for i := range each {
					if i == each/2 {
						owner.kill(t)
					}
					text := fmt.Sprint(len(want))
					want = append(want, text)
					if err := a.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, patience, "all is noted", func() bool { return len(w.notes("jo")) >= len(want) })
				owner = heir
			}
			for _, one := range heard {
				if got := within(t, "a client has heard all", one); !slices.Equal(got, want) {
					t.Errorf("heard %q, want each once and in order", got)
				}
			}
			if got := w.notes("jo"); !slices.Equal(got, want) {
				t.Errorf("noted %q, want each once and in order", got)
			}
			last := w.host("") // whoever owns the agent now may be the host that is killed
			gate.kill(t)
			want = append(want, "closed a 1006", "closed b 1006")
			eventually(t, patience, "the ends of both are noted", func() bool { return len(w.notes("jo")) >= len(want) })
			if got := last.get(t.Context(), "jo", ""); got.body != fmt.Sprint(len(want)) || !slices.Equal(w.notes("jo"), want) {
				t.Errorf("GET = %+v, noted %q, want also the ends of both, once", got, w.notes("jo"))
			}
		})
	}
}

// OnMessage notes what a client says and tells all.
func (c *clerk) OnMessage(ctx context.Context, _ *agent.Connection, m agent.Message) error {
	if err := c.Note(ctx, m.Text); err != nil {
		return err
	}
	return agent.Broadcast(ctx, m)
}

// OnClose notes the end of a socket.
func (c *clerk) OnClose(ctx context.Context, one *agent.Connection, how agent.Closed) error {
	return c.Note(ctx, fmt.Sprintf("closed %s %d", one.ID(), how.Code))
}

// dial opens a socket to a clerk.
func (h *agentHost) dial(t *testing.T, name, id string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://"+h.address+"/agents/clerk/"+name+"?_pk="+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() }) // it may have ended
	return ws
}

// hear collects what a clerk tells its clients, until it is so much or the socket ends. States are none of it.
func hear(ctx context.Context, ws *websocket.Conn, n int) (heard []string) {
	for len(heard) < n {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return append(heard, err.Error())
		}
		if !strings.HasPrefix(string(data), "{") {
			heard = append(heard, string(data))
		}
	}
	return heard
}
