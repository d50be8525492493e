package janitor_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

var steady = flag.Duration("steady", 0, "how long the load of TestSteadyLoad goes on, at least")

// retained is how long instances of the steady load are kept, aged how old what is cleaned away must be.
const (
	retained = time.Second
	aged     = 500 * time.Millisecond
)

// TestSteadyLoad: under a steady load, over many times the retention, what is stored does not grow: it is what the load
// brings in the time for which it is kept, and what lives for long, and not what it ever brought.
func TestSteadyLoad(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.serve()
	var kept []*workflow.Instance[string]
	for n := range 10 {
		kept = append(kept, create(y, "waits", fmt.Sprint("kept-", n), "k"))
	}
	if err := streams.EnsureProjects(t.Context(), y.js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group errgroup.Group
	for n := range 2 { // one of them does nothing, mostly
		group.Go(func() error {
			return janitor.New(janitor.Options{
				Store: y.store, JS: y.js, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), ID: fmt.Sprint("janitor-", n), Every: 100 * time.Millisecond,
				Settings: janitor.Settings{Age: aged, Margin: time.Millisecond, Chunk: 200},
			}).Run(ctx)
		})
	}
	var made atomic.Int64
	for worker := range 4 {
		group.Go(func() error { return y.load(ctx, worker, &made) })
	}
	y.watch(&made)
	cancel()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, i := range kept {
		y.send(i, "first")
		y.send(i, "second")
		y.result(i, "k first second")
	}
}

// load makes instances, each when the one before has ended, until ctx is done. Every 20th has large values.
func (y *yard) load(ctx context.Context, worker int, made *atomic.Int64) error {
	for n := 0; ctx.Err() == nil; n++ {
		name, params := "quick", "q"
		if n%20 == 0 {
			name, params = "large", big("params")
		}
		i, err := workflow.Bind[string, string](name).In(y.project).Create(y.t.Context(), params,
			workflow.ID(fmt.Sprint("load-", worker, "-", n)), workflow.Retention(retained, retained))
		if err != nil {
			return err
		}
		if _, err := i.Result(y.t.Context()); err != nil {
			return err
		}
		made.Add(1)
	}
	return nil
}

// watch looks at what is stored while the load goes on, until it is a small part of all that ever was.
func (y *yard) watch(made *atomic.Int64) {
	y.t.Helper()
	var most, mostObjects uint64
	start, told := time.Now(), time.Time{}
	natstest.Eventually(y.t, *steady+natstest.Patience, "what is stored is a small part of all that ever was", func() bool {
		log, objects := y.state(protocol.WorkflowsStream("p")), y.state(protocol.ObjectsStream("p"))
		if time.Since(start) >= *steady/2 {
			most, mostObjects = max(most, log.Bytes), max(mostObjects, objects.Bytes)
		}
		if time.Since(told) > max(time.Second, *steady/12) {
			told = time.Now()
			y.t.Logf("%5.0f s: %7d of %7d messages, %8d bytes; of large values %5d of %5d messages, %8d bytes", time.Since(start).Seconds(),
				log.Messages, log.Last, log.Bytes, objects.Messages, objects.Last, objects.Bytes)
		}
		few := log.Last > 1000 && log.Messages < log.Last/3 && objects.Messages < objects.Last/3
		return few && time.Since(start) >= *steady
	})
	y.t.Logf("%d instances; in the second half of the time at most %d bytes, and %d of large values", made.Load(), most, mostObjects)
}
