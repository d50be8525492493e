package gateway

import (
	"io"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
)

// TestPingBehindASlowFrame: who takes a frame slowly is not taken for gone, though no ping reaches it.
func TestPingBehindASlowFrame(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Stall, l.WaitingBytes = soon, 1<<30 })
	ws := r.open("a")
	large := strings.Repeat("x", 8<<20)
	r.take(r.next(), say(large))
	_, frame, err := ws.Reader(t.Context()) // it is on its way
	if err != nil {
		t.Fatal(err)
	}
	c := r.gateway.all()[0]
	c.ping(t.Context())
	natstest.Eventually(t, soon, "the ping is given up", func() bool { return !c.pinged.Load() })
	r.take(r.next(), say("after"))
	if got, err := io.ReadAll(frame); err != nil || string(got) != large {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	expect(t, ws, "after")
}
