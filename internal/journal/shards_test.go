package journal_test

import (
	"testing"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestStoredOnceInEachShard: where nothing goes wrong, what is published is stored once, whatever the name of its stream looks like.
func TestStoredOnceInEachShard(t *testing.T) {
	t.Parallel()
	const shards, rounds = 3, 10
	nc := natstest.Start(t).Connect(t)
	if err := streams.EnsureWorkflows(t.Context(), natstest.JetStream(t, nc), "p", shards, streams.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	at := func(shard int) protocol.Instance {
		return protocol.Instance{Project: "p", Shard: shard, Workflow: "w", ID: "i"}
	}
	for range rounds {
		for shard := range shards {
			if _, err := store.Publish(t.Context(), at(shard).EventSubject(), nil, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for shard := range shards {
		state, err := store.State(t.Context(), at(shard).Stream())
		if err != nil || state.Last != rounds {
			t.Errorf("%s holds %d messages, %d were published: %v", at(shard).Stream(), state.Last, rounds, err)
		}
	}
}
