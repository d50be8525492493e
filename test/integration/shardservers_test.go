package integration

import (
	"fmt"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestShardsOverServers: the shards of a project are led by different servers. One of these dies while instances are created,
// executed and parked in all shards. Those in the other shards go on, those in its own when another server leads: nothing is
// lost or done twice.
func TestShardsOverServers(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	w := newWorld(t, &rig{url: cluster.URL(), replicas: 3, shards: 3, connect: cluster.Connect, cluster: cluster}, "spread")
	leaders := map[*natstest.Server]int{}
	eventually(t, patience, "each server leads a shard", func() bool {
		clear(leaders)
		for _, stream := range w.streams() {
			leaders[cluster.Leader(t, stream)]++
		}
		for _, stream := range w.streams() {
			if leaders[cluster.Leader(t, stream)] > 1 {
				cluster.MoveLeader(t, stream)
				return false
			}
		}
		return len(leaders) == 3
	})
	s := ops(do("one"), sleep("nap", tenths), do("two"))
	w.runner(setup{})
	w.runner(setup{})
	const each = 30
	create := func(from int) {
		for n := from; n < from+each; n++ {
			w.create(fmt.Sprint(n), s)
		}
	}
	create(0)
	victim := cluster.Leader(t, protocol.WorkflowsStream(w.name, 1))
	for i, server := range cluster.Servers {
		if server == victim {
			cluster.Stop(t, i)
		}
	}
	create(each)
	w.finishAll(2*each, s)
	w.quiesce()
	if cluster.Leader(t, protocol.WorkflowsStream(w.name, 1)) == victim {
		t.Error("the dead server leads")
	}
}
