//go:build linux

package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// gaps measures for how long at most nothing was stored in the stream of any project: as seen by a client, so a time in which it was
// not told is a gap, too.
type gaps struct {
	js      jetstream.JetStream
	last    map[string]uint64
	since   time.Time
	longest time.Duration
}

func (g *gaps) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if g.last == nil {
		g.last, g.since = map[string]uint64{}, time.Now()
	}
	for _, name := range work.Projects() {
		stream, err := g.js.Stream(ctx, protocol.WorkflowsStream(name, 0))
		if err != nil {
			continue // a leader is being elected, or we are cut off
		}
		if last := stream.CachedInfo().State.LastSeq; last > g.last[name] {
			g.last[name], g.since = last, time.Now()
		}
	}
	g.longest = max(g.longest, time.Since(g.since))
}

func (g *gaps) stored() (sum uint64) {
	for _, last := range g.last {
		sum += last
	}
	return sum
}
