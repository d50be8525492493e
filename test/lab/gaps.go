//go:build linux

package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/test/lab/work"
)

// gaps measures for how long at most nothing was stored in any stream of instances, of any project and shard: as seen by a client, so a
// time in which it was not told is a gap, too. A stream that stands still beside others is none: nobody can tell it from one that had
// nothing to do.
type gaps struct {
	js      jetstream.JetStream
	last    map[string]uint64
	since   time.Time
	longest time.Duration
}

// end is the last sequence of a stream, and when that was known.
type end struct {
	last uint64
	at   time.Time
}

func (g *gaps) look(ctx context.Context) {
	if g.last == nil {
		g.last, g.since = map[string]uint64{}, time.Now()
	}
	var told []time.Time
	for name, e := range g.ends(ctx) {
		if e.last > g.last[name] {
			g.last[name], told = e.last, append(told, e.at)
		}
	}
	slices.SortFunc(told, time.Time.Compare)
	for _, at := range told {
		g.longest, g.since = max(g.longest, at.Sub(g.since)), at
	}
	g.longest = max(g.longest, time.Since(g.since))
}

// ends asks for the ends of all streams at the same time: one that has no leader does not answer, and must neither hide the others nor
// make them look as if they had stored something later.
func (g *gaps) ends(ctx context.Context) map[string]end {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards ends
	ends := map[string]end{}
	for _, project := range work.Projects() {
		for _, name := range work.WorkflowsStreams(project) {
			wg.Go(func() {
				stream, err := g.js.Stream(ctx, name)
				if err != nil {
					return // a leader is being elected, or we are cut off
				}
				e := end{stream.CachedInfo().State.LastSeq, time.Now()}
				mu.Lock()
				defer mu.Unlock()
				ends[name] = e
			})
		}
	}
	wg.Wait()
	return ends
}

func (g *gaps) stored() (sum uint64) {
	for _, last := range g.last {
		sum += last
	}
	return sum
}
