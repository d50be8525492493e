//go:build linux

package faults

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/work"
)

// streams are those whose leaders are meant. Those of instances come twice: they matter most.
func (d *dice) streams() []string {
	var names []string
	for _, project := range d.w.Projects() {
		names = slices.Concat(names, work.WorkflowsStreams(project), work.WorkflowsStreams(project))
		names = append(names, protocol.TimersStream(project), protocol.KVStream(protocol.AgentsBucket(project)), protocol.InboxStream(project))
	}
	return append(names, protocol.StreamClock)
}

// leaderOf asks who leads a stream until there is an answer.
func (in *inflicter) leaderOf(stream string) (string, error) {
	ctx, cancel := context.WithTimeout(in.mended(), 2*time.Minute)
	defer cancel()
	for {
		leader, err := in.askLeader(ctx, stream)
		if leader != "" {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("who leads %s: %w (%v)", stream, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (in *inflicter) askLeader(ctx context.Context, stream string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := in.JS.Stream(ctx, stream)
	if err != nil {
		return "", err
	}
	if cluster := s.CachedInfo().Cluster; cluster != nil {
		return cluster.Leader, nil
	}
	return "", nil
}

func (in *inflicter) killLeader(f Fault) error {
	leader, err := in.leaderOf(f.Targets[0])
	if err != nil {
		return err
	}
	in.saw("%s leads %s", leader, f.Targets[0])
	f.Targets = []string{leader}
	return in.kill(f)
}

// stepDown has the leader of a stream give way, and sees another one, or the same again in a later term.
func (in *inflicter) stepDown(f Fault) error {
	stream := f.Targets[0]
	before, err := in.leaderOf(stream)
	if err != nil {
		return err
	}
	for range 120 { // a leader that has no majority, or is cut off, does not answer
		ctx, cancel := context.WithTimeout(in.mended(), 2*time.Second)
		answer, err := in.NC.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.LEADER.STEPDOWN."+stream, nil)
		cancel()
		if err == nil && !bytes.Contains(answer.Data, []byte(`"error"`)) {
			in.began()
			after, err := in.leaderOf(stream)
			in.saw("%s has given way as leader of %s: %s; after it: %s", before, stream, answer.Data, after)
			return err
		}
		pause(in.ctx, 500*time.Millisecond)
	}
	return fmt.Errorf("the leader of %s, %s, does not step down", stream, before)
}
