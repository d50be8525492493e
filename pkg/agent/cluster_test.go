package agent

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestAgentsOnACluster(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	r := &rig{connect: cluster.Connect}
	r.nc = cluster.Connect(t)
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	replicated := func(_ *HostService, c *project.Config) { c.Settings.Replicas = 3 }
	// A busy machine elects slowly, and no host is lost.
	patient := timings(func(t *timing) { t.findWithin, t.leaseMisses = soon/2, silentForGood })
	hosts := []*testHost{r.host(t, desks(nil), replicated, patient), r.host(t, desks(nil), replicated, patient)}
	const agents, posts = 4, 25
	answered := make([]int, agents)
	var callers sync.WaitGroup
	for i := range agents {
		callers.Go(func() {
			for n := range posts {
				path := fmt.Sprintf("/agents/desk/agent-%d", i)
				status, body, err := hosts[n%2].tryCall(context.WithoutCancel(t.Context()), http.MethodPost, path, "")
				if err != nil || status != 200 {
					t.Errorf("POST %d to %s = %d %s, %v", n, path, status, body, err)
					continue
				}
				answered[i]++
			}
		})
	}
	for range 3 {
		cluster.MoveLeader(t, protocol.KVStream(protocol.AgentsBucket(testProject)))
		cluster.MoveLeader(t, protocol.KVStream(protocol.HostsBucket(testProject)))
	}
	callers.Wait()
	for i := range agents {
		record, _ := r.record(t, fmt.Sprintf("agent-%d", i))
		if want := fmt.Sprintf(`{"Count":%d,"Log":null}`, answered[i]); string(record.State) != want || record.Turn != uint64(answered[i]) {
			t.Errorf("agent %d: state %s after %d turns, want %s: one per answer", i, record.State, record.Turn, want)
		}
	}
}
