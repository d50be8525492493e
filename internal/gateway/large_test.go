package gateway

import (
	"context"
	"sync"
	"testing"

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
	r.take(r.next(), say("2"))
	letGo()
	expect(t, ws, `{"type":"cf_agent_state","state":"large"}`, "1", "2")
	r.take(r.next(), say("3"))
	expect(t, ws, "3")
}
