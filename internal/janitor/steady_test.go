package janitor_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
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
		// On a busy machine it may have expired before its result is asked for.
		if _, err := i.Result(y.t.Context()); err != nil && !errors.Is(err, workflow.ErrNotFound) {
			return err
		}
		made.Add(1)
	}
	return nil
}

// stretch is a part of the time of a load: how much of the log came in it, and the most that was stored at a time.
type stretch struct {
	begun         time.Time
	took          time.Duration
	first, last   uint64
	most, objects uint64 // bytes
}

func (s stretch) rate() float64 { return float64(s.last-s.first) / s.took.Seconds() }

// watch looks at what is stored while the load goes on: until it is a small part of all that ever was, and then for
// several times the retention, in which it must not grow. More load may bring more.
func (y *yard) watch(made *atomic.Int64) {
	y.t.Helper()
	before := y.follow(*steady, "little is stored of all that ever was", func(_ stretch, log, objects journal.State) bool {
		return log.Last > 1000 && log.Messages < log.Last/3 && objects.Messages < objects.Last/3
	})
	// A janitor that was held up leaves more for a time: what is not cleaned away for good stays, and grows.
	after := y.follow(8*retained, fmt.Sprintf("no more is stored than before: at most %d bytes at %.0f messages/s, and %d of large values",
		before.most, before.rate(), before.objects), func(now stretch, log, objects journal.State) bool {
		bound := 2 * max(1, now.rate()/before.rate())
		return float64(log.Bytes) <= bound*float64(before.most) && float64(objects.Bytes) <= bound*float64(before.objects)
	})
	y.t.Logf("%d instances; at most %d bytes at %.0f messages/s, then %d at %.0f, and %d and %d bytes of large values", made.Load(),
		before.most, before.rate(), after.most, after.rate(), before.objects, after.objects)
}

// follow looks at what is stored for some time, and for as long after that as it is too much.
func (y *yard) follow(least time.Duration, what string, enough func(so stretch, log, objects journal.State) bool) stretch {
	y.t.Helper()
	s, told := stretch{begun: time.Now(), first: y.stored()}, time.Time{}
	natstest.Eventually(y.t, least+natstest.Patience, what, func() bool {
		log, objects := y.state(protocol.WorkflowsStream("p", 0)), y.state(protocol.ObjectsStream("p"))
		s.took, s.last = time.Since(s.begun), log.Last
		s.most, s.objects = max(s.most, log.Bytes), max(s.objects, objects.Bytes)
		if time.Since(told) > max(time.Second, *steady/12) {
			told = time.Now()
			y.t.Logf("%5.0f s: %7d of %7d messages, %8d bytes; of large values %5d of %5d messages, %8d bytes", s.took.Seconds(),
				log.Messages, log.Last, log.Bytes, objects.Messages, objects.Last, objects.Bytes)
		}
		return s.took >= least && enough(s, log, objects)
	})
	return s
}
