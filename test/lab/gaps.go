//go:build linux

package main

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/test/lab/work"
)

// gaps measures for how long at most nothing was stored in any stream of instances, of any project and shard: as seen by a client, so a
// time in which it was not told is a gap, too.
type gaps struct {
	js      jetstream.JetStream
	last    map[string]uint64
	since   time.Time
	longest time.Duration
}

func (g *gaps) look(ctx context.Context) {
	if g.last == nil {
		g.last, g.since = map[string]uint64{}, time.Now()
	}
	for name, last := range g.ends(ctx) {
		if last > g.last[name] {
			g.last[name], g.since = last, time.Now()
		}
	}
	g.longest = max(g.longest, time.Since(g.since))
}

// ends asks for the last sequences of all streams at the same time: one that has no leader does not answer, and must not hide the others.
func (g *gaps) ends(ctx context.Context) map[string]uint64 {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards ends
	ends := map[string]uint64{}
	for _, project := range work.Projects() {
		for _, name := range work.WorkflowsStreams(project) {
			wg.Go(func() {
				stream, err := g.js.Stream(ctx, name)
				if err != nil {
					return // a leader is being elected, or we are cut off
				}
				mu.Lock()
				defer mu.Unlock()
				ends[name] = stream.CachedInfo().State.LastSeq
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
