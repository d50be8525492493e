//go:build linux

package main

import (
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// TestGaps: whatever shard stores something, that is no gap, also while other streams cannot be asked.
func TestGaps(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, work.South, work.Shards(work.South), streams.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	g := gaps{js: js}
	g.look(t.Context()) // there is no stream of the other project
	for shard := range work.Shards(work.South) {
		before := g.since
		at := protocol.Instance{Project: work.South, Shard: shard, Workflow: work.Any, ID: "i"}
		if _, err := js.Publish(t.Context(), at.EventSubject(), nil); err != nil {
			t.Fatal(err)
		}
		if g.look(t.Context()); g.since == before || g.stored() != uint64(shard+1) {
			t.Errorf("shard %d has stored something, seen are %d messages", shard, g.stored())
		}
	}
	before := g.since
	if g.look(t.Context()); g.since != before {
		t.Error("nothing was stored, and that is no gap")
	}
}

// TestDurables: the consumers of each shard must not be lost.
func TestDurables(t *testing.T) {
	t.Parallel()
	nc := natstest.Start(t).Connect(t)
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, work.South, work.Shards(work.South), streams.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range durables() {
		known[name] = true
	}
	for _, name := range work.WorkflowsStreams(work.South) {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		all, consumers := 0, stream.ConsumerNames(t.Context())
		for consumer := range consumers.Name() {
			if all++; !known[consumer] {
				t.Errorf("consumer %s of %s is not among those that must not be lost", consumer, name)
			}
		}
		if err := consumers.Err(); err != nil || all == 0 {
			t.Errorf("%s has %d consumers: %v", name, all, err)
		}
	}
}
