package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// steadyLoad calls agents without a pause, each by one caller. None may fail.
type steadyLoad struct {
	w *world
	// requests come in turn with calls. A request whose answer is lost with a connection is not repeated: its fate is
	// unknown.
	requests bool
	names    []string
	stop     context.CancelFunc
	ended    sync.WaitGroup

	mu    sync.Mutex // guards what follows
	hosts []*agentHost
	done  []int // answers per agent
	late  []string
}

func (w *world) startLoad(agents int, requests bool, hosts ...*agentHost) *steadyLoad {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	l := &steadyLoad{w: w, requests: requests, stop: stop, hosts: hosts, done: make([]int, agents)}
	for i := range agents {
		l.names = append(l.names, fmt.Sprint("agent-", i))
	}
	for i := range agents {
		l.ended.Go(func() { l.call(ctx, i) })
	}
	w.t.Cleanup(func() { stop(); l.ended.Wait() })
	return l
}

func (l *steadyLoad) call(ctx context.Context, i int) {
	for n := 1; ctx.Err() == nil; n++ {
		o := order{Note: fmt.Sprint(n)}
		var failed string
		if l.requests && n%2 == 0 {
			got := l.host(n/2).post(context.WithoutCancel(ctx), l.names[i], o)
			if got.status != http.StatusOK || got.body != fmt.Sprint(n) {
				failed = fmt.Sprintf("POST %d to %s = %+v", n, l.names[i], got)
			}
		} else if got := l.w.call(l.names[i], o); got.n != n || got.err != nil {
			failed = fmt.Sprintf("call %d of %s = %+v", n, l.names[i], got)
		}
		l.mu.Lock()
		if failed != "" {
			l.late = append(l.late, failed)
			l.mu.Unlock()
			return
		}
		l.done[i] = n
		l.mu.Unlock()
	}
}

// host is one of those that take requests.
func (l *steadyLoad) host(n int) *agentHost {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[n%len(l.hosts)]
}

// goOn waits until every agent has answered some more.
func (l *steadyLoad) goOn() {
	l.w.t.Helper()
	l.mu.Lock()
	before := slices.Clone(l.done)
	l.mu.Unlock()
	eventually(l.w.t, patience, "every agent answers", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.late) > 0 {
			l.w.t.Fatalf("failed: %s", strings.Join(l.late, "; "))
		}
		for i, n := range l.done {
			if n < before[i]+4 {
				return false
			}
		}
		return true
	})
}

// replace takes a host out, and another in.
func (l *steadyLoad) replace(old, fresh *agentHost) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts = slices.DeleteFunc(slices.Clone(l.hosts), func(h *agentHost) bool { return h == old })
	if fresh != nil {
		l.hosts = append(l.hosts, fresh)
	}
}

// end stops the load and sees that all that was answered is there, once and in order.
func (l *steadyLoad) end() {
	l.w.t.Helper()
	l.stop()
	l.ended.Wait()
	for _, failed := range l.late {
		l.w.t.Error(failed)
	}
	for i, name := range l.names {
		notes := l.w.notes(name)
		for n, note := range notes {
			if note != fmt.Sprint(n+1) {
				l.w.t.Errorf("note %d of %s is %q", n+1, name, note)
			}
		}
		if len(notes) != l.done[i] {
			l.w.t.Errorf("%s has %d notes, want %d: one per answer", name, len(notes), l.done[i])
		}
	}
}

// TestLeadersOfNATSEnd kills the servers that lead the records and the leases with SIGKILL, moves the leaders of both, and
// leaves the cluster without a majority until all leases are over, under load. Agents pause; none moves and no call fails.
func TestLeadersOfNATSEnd(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	w := newWorld(t, c.rig(), "leaders")
	l := w.startLoad(8, false, w.host(""), w.host(""))
	l.goOn()
	names := strings.Join(l.names, " ")
	before := w.epochs(names)
	records, leases := protocol.KVStream(protocol.AgentsBucket(w.name)), protocol.KVStream(protocol.HostsBucket(w.name))
	c.moveLeader(records)
	c.moveLeader(leases)
	c.killLeader(records, l.goOn)
	c.killLeader(leases, l.goOn)
	l.goOn()
	c.killMost(leases, 8*time.Second) // longer than a lease is good for: no host has one
	l.goOn()
	l.end()
	if after := w.epochs(names); !slices.Equal(before, after) {
		t.Errorf("epochs were %d, are %d: agents have moved", before, after)
	}
}

// TestRollingRestart replaces all hosts by others, one after the other (SIGTERM), under load. No call fails, no request to
// a host that is not stopping, and no agent waits for a lease to end.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	for name, start := range rigs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t), "rolling")
			hosts := []*agentHost{w.host(""), w.host(""), w.host("")}
			l := w.startLoad(12, true, hosts...)
			l.goOn()
			before := w.epochs(strings.Join(l.names, " "))
			all := slices.Clone(hosts)
			for _, old := range hosts {
				fresh := w.host("")
				all = append(all, fresh)
				l.replace(old, fresh)
				l.goOn() // so that no request is on its way to it
				old.terminate(t)
				if text := old.log.String(); strings.Contains(text, "dropped the agent") || strings.Contains(text, "could not let the agent go") {
					t.Errorf("%s has not let all agents go", old.name)
				}
				l.goOn()
			}
			l.end()
			for _, h := range all {
				if strings.Contains(h.log.String(), "host is gone, taking its agent") {
					t.Errorf("%s has taken an agent that was not let go", h.name)
				}
			}
			for i, epoch := range w.epochs(strings.Join(l.names, " ")) {
				if epoch == before[i] {
					t.Errorf("%s is still owned by a host that was replaced", l.names[i])
				}
			}
		})
	}
}
