package runner

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
)

// TestMarksFollowAckWait: an operator wants instances taken over early, so wakes are marked more often.
func TestMarksFollowAckWait(t *testing.T) {
	t.Parallel()
	r := setup(t)
	if err := streams.EnsureWorkflows(t.Context(), r.js, "p", 1, streams.Options{TakeOverAfter: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	marks, err := r.nc.SubscribeSync("$JS.ACK.>")
	if err != nil {
		t.Fatal(err)
	}
	r.serve(r.runner())
	r.create(at("works", "long"))
	r.gate("long").await(t)
	mark := func() *nats.Msg {
		t.Helper()
		m, err := marks.NextMsg(patience)
		if err != nil || string(m.Data) != "+WPI" {
			t.Fatalf("not a mark: %+v, %v", m, err)
		}
		return m
	}
	mark()
	const more = 5
	natstest.Eventually(t, patience, "marks follow an ack_wait of 2s", func() bool { // a busy machine may be late with some
		first := time.Now()
		for range more {
			mark()
		}
		return time.Since(first) <= more*markEvery*2/3
	})
	close(r.gate("long").open)
}
