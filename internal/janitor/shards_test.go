package janitor_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestShards: each shard is cleaned by what is settled in it. A body that runs in one holds up that one alone, and what lives
// in any is carried.
func TestShards(t *testing.T) {
	t.Parallel()
	y := openShards(t, natstest.Start(t).Connect(t), 1, 4)
	y.serve()
	// The ids "a" to "d" are one in each shard.
	var kept []*workflow.Instance[string]
	for _, id := range []string{"a", "b", "c", "d"} {
		kept = append(kept, create(y, "waits", id, id))
		create(y, "quick", id, "q", gone())
		create(y, "large", id, big("params"), gone())
	}
	for _, i := range kept {
		y.reaches(i, workflow.Waiting)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		y.awaitEnd("quick", id)
		y.awaitEnd("large", id)
	}
	works := create(y, "works", "b", "b") // holds up shard 1
	y.send(works, "begin")
	<-y.gate("b").arrived
	var all []*janitor.Cleaner
	for shard := range 4 {
		all = append(all, y.cleaner(func(c *janitor.Cleaner) { c.Shard = shard }))
	}
	if n, err := janitor.Sweep(t.Context(), all); err != nil || n != 8 {
		t.Errorf("%d values of what has expired were taken away, %v, want 8", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- janitor.New(janitor.Options{
			Store: y.store, JS: y.js, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), ID: "janitor", Every: 50 * time.Millisecond,
			Settings: janitor.Settings{Age: time.Nanosecond, Margin: time.Nanosecond, Chunk: 10, Share: -1000},
		}).Run(ctx)
	}()
	for shard := range 4 {
		at := protocol.Instance{Project: "p", Shard: shard, Workflow: "quick", ID: []string{"a", "b", "c", "d"}[shard]}
		natstest.Eventually(t, natstest.Patience, fmt.Sprintf("%s is cleaned away", at), func() bool {
			return len(y.subjects(at.Stream(), at.EverySubject())) == 0
		})
	}
	at := protocol.Instance{Project: "p", Shard: 1, Workflow: "works", ID: "b"}
	if left := y.subjects(at.Stream(), at.CreateSubject()); len(left) != 1 {
		t.Errorf("what runs has gone: %q", left)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(y.gate("b").open)
	y.result(works, "b")
	for n, i := range kept {
		y.send(i, "first")
		y.send(i, "second")
		y.result(i, []string{"a", "b", "c", "d"}[n]+" first second")
	}
}
