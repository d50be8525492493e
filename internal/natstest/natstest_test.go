package natstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
)

func stream(t *testing.T, nc *nats.Conn, replicas int) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js := natstest.JetStream(t, nc)
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KEEP", Subjects: []string{"keep.>"}, Storage: jetstream.FileStorage, Replicas: replicas,
	})
	if err != nil {
		t.Fatal(err)
	}
	return js, s
}

func TestRestartKeepsMessagesPortAndConnection(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.SyncAlways())
	nc := s.Connect(t)
	js, stored := stream(t, nc, 1)
	if _, err := js.Publish(t.Context(), "keep.a", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	url := s.URL()
	s.Stop(t)
	natstest.Eventually(t, natstest.Patience, "the client notices the stop", func() bool { return !nc.IsConnected() })
	if err := nc.Publish("keep.a", []byte("late")); err == nil {
		t.Fatal("a publish while disconnected was taken")
	}
	s.Start(t)
	if s.URL() != url {
		t.Fatalf("URL after restart is %s, was %s", s.URL(), url)
	}
	natstest.Eventually(t, natstest.Patience, "the client is back", nc.IsConnected)
	s.Restart(t)
	natstest.Eventually(t, natstest.Patience, "the client is back again", nc.IsConnected)
	msg, err := stored.GetMsg(t.Context(), 1)
	if err != nil || string(msg.Data) != "hello" {
		t.Fatalf("after restart: message %v, error %v", msg, err)
	}
}

func TestTwoServersShareNothing(t *testing.T) {
	t.Parallel()
	a, b := natstest.Start(t), natstest.Start(t)
	stream(t, a.Connect(t), 1)
	stream(t, b.Connect(t), 1)
}

// TestFreePortIsGivenOnce: one of 600 would surely come again, of 20,000.
func TestFreePortIsGivenOnce(t *testing.T) {
	t.Parallel()
	given := map[int]bool{}
	for range 600 {
		port := natstest.FreePort(t)
		if given[port] {
			t.Fatalf("port %d is given twice", port)
		}
		given[port] = true
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3)
	nc := c.Connect(t)
	js, stored := stream(t, nc, 3)
	old := c.Leader(t, "KEEP")
	if next := c.MoveLeader(t, "KEEP"); next == old || next != c.Leader(t, "KEEP") {
		t.Fatal("the leader did not move")
	}
	publish := func(what string) {
		natstest.Eventually(t, natstest.Patience, what, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := js.Publish(ctx, "keep.a", []byte(what))
			return err == nil
		})
	}
	publish("a message is stored after the move")
	c.Stop(t, 0)
	publish("a message is stored by two of three")
	c.Restart(t, 0)
	publish("a message is stored after the restart")
	info, err := stored.Info(t.Context())
	if err != nil || info.State.Msgs < 3 {
		t.Fatalf("stream info %+v, error %v", info, err)
	}
}
