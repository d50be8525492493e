package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
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
	r, url := newClusterRig(t)
	r.callAndKill(t, url, "jo", testsignal.AgentAfterCommit)
}

// newClusterRig is a rig on three servers.
func newClusterRig(t *testing.T) (r *rig, url string) {
	t.Helper()
	cluster := natstest.StartCluster(t, 3)
	r = &rig{connect: cluster.Connect}
	r.nc = cluster.Connect(t)
	r.js = natstest.JetStream(t, r.nc)
	var err error
	if r.store, err = journal.Open(r.nc); err != nil {
		t.Fatal(err)
	}
	natstest.Ask(t, "streams of agents", func(ctx context.Context) error {
		return errors.Join(
			streams.EnsureProjects(ctx, r.js, streams.Options{Replicas: 3}),
			streams.EnsureAgents(ctx, r.js, testProject, streams.Options{Replicas: 3}),
		)
	})
	return r, cluster.URL()
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
		n, err := callPatiently(t.Context(), deskClass.In(p).Agent(name), (*desk).Add, 7)
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

// TestTellSurvivesItsHost: SIGKILL after the commit, and after the mail is sent. It is applied once.
func TestTellSurvivesItsHost(t *testing.T) {
	t.Parallel()
	for _, point := range []string{testsignal.AgentAfterCommit, testsignal.AgentProjected} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			victim := r.process(t, r.server.URL(), point)
			p := r.program(t, project.Config{Name: testProject})
			answered := make(chan error, 1)
			go func() {
				_, err := callPatiently(t.Context(), deskClass.In(p).Agent("jo"), (*desk).Ask, "pass it on")
				answered <- err
			}()
			victim.await(t, "testsignal: "+point)
			if record, _ := r.record(t, "jo"); record.Turn != 1 || len(record.Outbox) != 1 {
				t.Errorf("at %s the record is %+v, want the turn with what it tells", point, record)
			}
			victim.kill()
			r.process(t, r.server.URL(), "")
			if err := <-answered; err != nil {
				t.Errorf("call whose host was killed: %v", err)
			}
			r.awaitRecord(t, "other", "has heard", func(p protocol.Record) bool { return p.State != nil })
			r.inboxEmpty(t)
			for name, want := range map[string]string{"jo": `{"Count":0,"Log":["pass it on"]}`, "other": `{"Count":0,"Log":["pass it on"]}`} {
				if record, _ := r.record(t, name); string(record.State) != want {
					t.Errorf("state of %s is %s, want %s: applied once", name, record.State, want)
				}
			}
		})
	}
}
