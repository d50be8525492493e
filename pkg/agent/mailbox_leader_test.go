package agent

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestBellBeforeTheLeaderHasTheMail rings for mail that another replica has stored and the leader has not: it is not taken for
// mail that was acked before.
func TestBellBeforeTheLeaderHasTheMail(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureAgents(t.Context(), natstest.JetStream(t, nc), "shop", streams.Options{}); err != nil {
		t.Fatal(err)
	}
	id := protocol.Agent{Project: "shop", Class: "Cart", Name: "ada"}
	in := inbox{store: store, stream: protocol.InboxStream("shop"), project: "shop"}
	acks, err := nc.SubscribeSync(protocol.AckPrefix + ">")
	if err != nil {
		t.Fatal(err)
	}
	m := newMailbox()
	if !m.ring(protocol.Bell{Sequence: 1, Ack: protocol.AckPrefix + "of.a.bell"}) {
		t.Fatal("the bell is not heard")
	}
	asked := make(chan *nats.Msg, 100)
	if _, err := nc.ChanSubscribe("$JS.API.STREAM.INFO."+in.stream, asked); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan error, 1)
	go func() { loaded <- m.load(t.Context(), in, id) }() // waited for below
	for range 2 {                                         // then the leader has said once that it does not have it
		select {
		case err := <-loaded:
			t.Fatalf("load has ended before there was mail: %v, cursor %d", err, m.cursor)
		case <-asked:
		}
	}
	if _, err := store.Publish(t.Context(), id.InboxSubject("shop"), nil, []byte(`{"v":1,"source":"s","number":1,"callback":"Add","sent":"2026-11-29T08:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	if m.held[1] == nil || m.newest(nc) != 0 || m.held[1] == nil {
		t.Errorf("held is %v, cursor %d", m.held, m.cursor)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := acks.Pending(); err != nil || n != 0 {
		t.Errorf("%d acks, %v: nobody has read the mail", n, err)
	}
}
