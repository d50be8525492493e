//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestCrippled: a quorum is enough, and what has none is named.
func TestCrippled(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3)
	js := natstest.JetStream(t, c.Connect(t))
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MAIL", Subjects: []string{"mail"}, Retention: jetstream.WorkQueuePolicy, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: protocol.ConsumerDoorbell, AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	clock, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLOCK", Subjects: []string{"clock"}, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	for range 6 { // some of them on the server that stops
		_, err := clock.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
	}
	none := func() bool { return len(crippled(t.Context(), js)) == 0 }
	natstest.Eventually(t, natstest.Patience, "nothing is found while all servers are there", none)
	c.Stop(t, 0)
	natstest.Eventually(t, natstest.Patience, "nothing is found while two of three servers are there", none)
	c.Stop(t, 1)
	natstest.Eventually(t, natstest.Patience, "a stream without a leader is found", func() bool { return !none() })
}

func TestNoQuorum(t *testing.T) {
	t.Parallel()
	current, behind, gone := &jetstream.PeerInfo{Current: true}, &jetstream.PeerInfo{}, &jetstream.PeerInfo{Current: true, Offline: true}
	for _, row := range []struct {
		name string
		info *jetstream.ClusterInfo
		want string
	}{
		{"a single server", nil, ""},
		{"one replica", &jetstream.ClusterInfo{Leader: "a"}, ""},
		{"all are current", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{current, current}}, ""},
		{"one is behind", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{behind, current}}, ""},
		{"two are behind", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{behind, behind}}, "1 of 3"},
		{"one is behind, one is gone", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{behind, gone}}, "1 of 3"},
		{"half is no quorum", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{behind}}, "1 of 2"},
		{"nobody leads", &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{current, current}}, "no leader"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			have := noQuorum(row.info)
			if (have == "") != (row.want == "") || !strings.Contains(have, row.want) {
				t.Errorf("noQuorum says %q, want %q", have, row.want)
			}
		})
	}
}
