package gateway

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestLargeState: while a large state is read, whoever has brought the batch can go on with those of other agents; those of the same agent
// come after it, in their order.
func TestLargeState(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.large = make(chan struct{})
	letGo := sync.OnceFunc(func() { close(r.large) })
	t.Cleanup(letGo)
	ws := r.open("a")
	ctx, cancel := context.WithCancel(t.Context())
	down := protocol.SocketDown{Place: r.next(), Frames: []protocol.SocketFrame{{State: true}}, StateObject: &protocol.Object{}, Revision: 5}
	r.gateway.Take(ctx, room, down) // returns at once
	cancel()
	r.take(r.next(), say("1"))
	last := r.next()
	r.take(last, say("2"))
	if r.gateway.find(room).miss(t.Context(), last) {
		t.Error("what waits for a large state is held for lost")
	}
	letGo()
	expect(t, ws, `{"type":"cf_agent_state","state":"large"}`, "1", "2")
	r.take(r.next(), say("3"))
	expect(t, ws, "3")
}

// TestLargeStateThatCannotBeRead: nobody is left with an old state.
func TestLargeStateThatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ws := r.open("a")
	r.unread = errors.New("no")
	first := protocol.FrameText("first")
	r.gateway.Take(t.Context(), room, protocol.SocketDown{
		Place: r.next(), Frames: []protocol.SocketFrame{{Text: &first}, {State: true}}, StateObject: &protocol.Object{}, Revision: 5,
	})
	expect(t, ws, "first")
	expectClose(t, ws, websocket.StatusServiceRestart, "frames were lost")
}

// TestTooMuchBehindALargeState: a batch that finds no room behind it is missed by nobody in silence, neither by who is open nor by who is opened
// by what waits, though nothing comes after it.
func TestTooMuchBehindALargeState(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Waiting = 3 })
	r.large = make(chan struct{})
	letGo := sync.OnceFunc(func() { close(r.large) })
	t.Cleanup(letGo)
	early := r.open("a")
	r.gateway.Take(t.Context(), room, protocol.SocketDown{Place: r.next(), StateObject: &protocol.Object{}})
	late := r.dial("b")
	natstest.Eventually(t, soon, "the connection waits", func() bool {
		waiting := r.gateway.find(room).late
		waiting.mu.Lock()
		defer waiting.mu.Unlock()
		return waiting.count == 2
	})
	r.take(r.next(), say("1"))
	r.take(r.next(), say("dropped"))
	r.take(r.next(), say("dropped, too"))
	expectClose(t, early, websocket.StatusServiceRestart, "frames were lost")
	letGo()
	expect(t, late, "1")
	expectClose(t, late, websocket.StatusServiceRestart, "frames were lost")
	again := r.open("c")
	r.take(r.next(), say("2"))
	expect(t, again, "2")
}
