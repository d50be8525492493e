//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// durables are the names of the consumers that must not be lost. Others belong to somebody who reads, are on one server each, and are made
// anew when that is gone.
func durables() []string {
	names := []string{protocol.ConsumerDue, protocol.ConsumerDoorbell, protocol.ConsumerScheduler, protocol.ConsumerClock}
	for _, project := range work.Projects() {
		for shard := range work.Shards(project) {
			names = append(names, protocol.ConsumerWakes(shard), protocol.ConsumerControls(shard))
		}
	}
	return names
}

// crippled are the streams and durable consumers that have no leader, or too few replicas that are current: what is stored there is out
// of reach, or would be with the next server that goes.
func crippled(ctx context.Context, js jetstream.JetStream) (found []string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	durables := durables()
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			found = append(found, fmt.Sprintf("%s has no leader: %v", name, err))
			continue
		}
		found = add(found, name, stream.CachedInfo().Cluster)
		consumers := stream.ConsumerNames(ctx)
		for consumer := range consumers.Name() {
			if !slices.Contains(durables, consumer) {
				continue
			}
			c, err := stream.Consumer(ctx, consumer)
			if err != nil {
				found = append(found, fmt.Sprintf("consumer %s of %s has no leader: %v", consumer, name, err))
				continue
			}
			found = add(found, fmt.Sprintf("consumer %s of %s", consumer, name), c.CachedInfo().Cluster)
		}
		if err := consumers.Err(); err != nil {
			found = append(found, fmt.Sprintf("consumers of %s: %v", name, err))
		}
	}
	if err := names.Err(); err != nil {
		found = append(found, fmt.Sprintf("streams: %v", err))
	}
	return found
}

func add(found []string, what string, c *jetstream.ClusterInfo) []string {
	if why := noQuorum(c); why != "" {
		return append(found, what+" "+why)
	}
	return found
}

// noQuorum says why a group of replicas has no quorum, as its leader sees it; empty if it has one.
func noQuorum(c *jetstream.ClusterInfo) string {
	if c == nil {
		return "" // a single server
	}
	if c.Leader == "" {
		return "has no leader"
	}
	current, all := 1, 1+len(c.Replicas)
	for _, r := range c.Replicas {
		if r.Current && !r.Offline {
			current++
		}
	}
	if current <= all/2 {
		return fmt.Sprintf("has no quorum: %d of %d replicas are current", current, all)
	}
	return ""
}
