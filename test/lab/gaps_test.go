//go:build linux

package main

import (
	"fmt"
	"testing"
	"time"

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
		natstest.Eventually(t, natstest.Patience, fmt.Sprintf("it is seen that shard %d has stored something", shard), func() bool {
			g.look(t.Context())
			return g.since != before
		})
		if g.stored() != uint64(shard+1) {
			t.Errorf("shard %d has stored something, seen are %d messages", shard, g.stored())
		}
	}
	before := g.since
	if g.look(t.Context()); g.since != before {
		t.Error("nothing was stored, and that is no gap")
	}
}

// TestGapBesideASilentStream: a look lasts long if a stream does not answer. A gap ends when another has told that something was
// stored, and the next one begins then.
func TestGapBesideASilentStream(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect(t)
	js := natstest.JetStream(t, nc)
	if err := streams.EnsureWorkflows(t.Context(), js, work.South, work.Shards(work.South), streams.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	at := protocol.Instance{Project: work.South, Workflow: work.Any, ID: "i"}
	if _, err := js.Publish(t.Context(), at.EventSubject(), nil); err != nil {
		t.Fatal(err)
	}
	info := "$JS.API.STREAM.INFO." + protocol.WorkflowsStream(work.North, 0)
	srv.Lose(t, info)
	if _, err := nc.SubscribeSync("nowhere." + info); err != nil { // so that nobody says that there is nobody
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "a gap ends when a stream answers, within the second for which the other is waited for", func() bool {
		began := time.Now()
		g := gaps{js: js, last: map[string]uint64{}, since: began.Add(-time.Hour)}
		g.look(t.Context())
		if time.Since(began) < time.Second {
			t.Fatal("no stream was silent")
		}
		if g.stored() != 1 {
			return false // who answers after that is not heard
		}
		if g.longest < time.Hour {
			t.Errorf("the longest gap is %v, it began an hour ago", g.longest)
		}
		return g.since.After(began) && g.since.Sub(began) < time.Second
	})
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
