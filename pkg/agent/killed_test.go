package agent

import (
	"testing"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
)

// TestCallSurvivesItsHost: SIGKILL at the points of a turn. The caller repeats the call, and it is applied once.
func TestCallSurvivesItsHost(t *testing.T) {
	t.Parallel()
	for _, point := range []string{testsignal.AgentBeforeCommit, testsignal.AgentAfterCommit} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.callAndKill(t, r.server.URL(), "jo", point)
		})
	}
}

// TestCallSurvivesItsHostOnACluster is the same with a record on three servers.
func TestCallSurvivesItsHostOnACluster(t *testing.T) {
	t.Parallel()
	cluster := natstest.StartCluster(t, 3)
	r := &rig{connect: cluster.Connect}
	r.nc = cluster.Connect(t)
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	for _, ensure := range []error{
		streams.EnsureProjects(t.Context(), r.js, streams.Options{Replicas: 3}),
		streams.EnsureAgents(t.Context(), r.js, testProject, streams.Options{Replicas: 3}),
	} {
		if ensure != nil {
			t.Fatal(ensure)
		}
	}
	r.callAndKill(t, cluster.URL(), "jo", testsignal.AgentAfterCommit)
}

func (r *rig) callAndKill(t *testing.T, url, name, point string) {
	t.Helper()
	victim := r.process(t, url, point)
	p := r.program(t, project.Config{Name: testProject})
	type answer struct {
		n   int
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		n, err := Call(t.Context(), deskClass.In(p).Agent(name), (*desk).Add, 7, Timeout(soon))
		answers <- answer{n, err}
	}()
	victim.await(t, "testsignal: "+point)
	record, _ := r.record(t, name)
	if stored := record.Turn == 1; stored != (point == testsignal.AgentAfterCommit) {
		t.Errorf("at %s the turn is stored: %v", point, stored)
	}
	victim.kill()
	r.process(t, url, "")
	if got := <-answers; got.n != 7 || got.err != nil {
		t.Errorf("call whose host was killed: %d, %v; want 7", got.n, got.err)
	}
	if record, _ := r.record(t, name); string(record.State) != `{"Count":7,"Log":null}` || record.Turn != 1 {
		t.Errorf("state %s after %d turns, want the call applied once", record.State, record.Turn)
	}
}
