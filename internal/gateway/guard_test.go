package gateway

import (
	"context"
	"log/slog"
	"testing"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// fragile is a log that breaks at complaints about frames.
type fragile struct{ slog.Handler }

func (fragile) Enabled(context.Context, slog.Level) bool { return true }

func (fragile) Handle(_ context.Context, line slog.Record) error {
	if line.Message == frameRefused {
		panic("no more lines")
	}
	return nil
}

func (f fragile) WithAttrs([]slog.Attr) slog.Handler { return f }

// TestPanicAtAFrame: it ends one socket, not the host, and the agent hears of that end.
func TestPanicAtAFrame(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, frame string
		code        websocket.StatusCode
	}{
		{"where it is read", `{"type":"rpc"}`, websocket.StatusInternalError},
		{"where it is brought", "hello", websocket.StatusServiceRestart},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.gateway.mu.Lock()
			r.gateway.log = slog.New(fragile{})
			r.gateway.mu.Unlock()
			r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) { panic("no idea") }
			a, other := r.open("a"), r.open("other")
			if err := a.Write(t.Context(), websocket.MessageText, []byte(row.frame)); err != nil {
				t.Fatal(err)
			}
			expectClose(t, a, row.code, "")
			natstest.Eventually(t, soon, "the agent is told", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.closed) > 0 && r.closed[0].Conn == 1
			})
			r.take(r.next(), say("hello"))
			expect(t, other, "hello")
		})
	}
}
