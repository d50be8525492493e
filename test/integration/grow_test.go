package integration

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/replicas"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestGrowsUnderLoad: the streams of a project, which have one copy each, get three while instances and agents are under load,
// and a leader moves. Everything goes on and ends: each step with one result, each note once and in the order of its lane,
// each moment of each schedule once, and the doctor finds nothing. Not parallel: it takes the machine.
func TestGrowsUnderLoad(t *testing.T) {
	cluster := natstest.StartCluster(t, 3)
	s := newSaved(t, &rig{url: cluster.URL(), replicas: 1, connect: cluster.Connect, cluster: cluster})
	s.serve()
	s.hang()
	stop := s.load(1, 1, 700*time.Millisecond)
	s.moreOf(3, 2)
	before, _, _ := s.acknowledged()
	copies := map[string]int{}
	meanwhile := func() bool { created, _, _ := s.acknowledged(); return len(created) > len(before) }
	grown := protocol.WorkflowsStream(s.flows.name, 0)
	names, err := replicas.Scale(t.Context(), replicas.Options{
		JS: s.js, Store: s.flows.store, Replicas: 3, Projects: []string{s.flows.name},
		Found: func(i *jetstream.StreamInfo) {
			if copies[i.Config.Name] = 1 + len(i.Cluster.Replicas); len(copies) == 1 { // the others grow after it
				eventually(t, patience, "an instance is created while streams grow", meanwhile)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster.MoveLeader(t, grown)
	during, _, _ := s.acknowledged()
	s.moreOf(5, 0)
	stop()
	created, sent, notes := s.acknowledged()
	t.Logf("%d streams; %d instances before, %d while they grew, %d after", len(names), len(before), len(during)-len(before), len(created)-len(during))
	for _, name := range names {
		if copies[name] != 3 {
			t.Errorf("stream %s has %d copies", name, copies[name])
		}
	}
	s.end(created, sent, notes)
}
