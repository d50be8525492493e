package integration

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// ownServer is a NATS server in a process of its own, which a test may end and start again on the same store.
type ownServer struct {
	t     *testing.T
	name  string
	port  int
	store string
	// cluster has its port in a cluster and the addresses of the others, if it is in one.
	cluster []string
	*process
}

func startServer(t *testing.T) *ownServer {
	s := &ownServer{t: t, name: "own", port: natstest.FreePort(t), store: t.TempDir()}
	s.start()
	return s
}

func (s *ownServer) start() {
	s.t.Helper()
	args := append([]string{s.name, strconv.Itoa(s.port), s.store}, s.cluster...)
	s.process = launch(s.t, "NATS server "+s.name, roleServer, nil, args...)
	s.awaitLog(s.t, "server ready")
}

func (s *ownServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

func (s *ownServer) connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connectTo(t, s.url(), opts)
}

func connectTo(t testing.TB, url string, opts []nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.Timeout(30 * time.Second),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestServerEnds ends the NATS server while instances sleep, wait and work, and starts it again on the same store.
func TestServerEnds(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		end  func(s *ownServer)
	}{
		{"by SIGKILL", func(s *ownServer) { s.kill(s.t) }},
		{"by SIGTERM", func(s *ownServer) { s.terminate(s.t) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			w := newWorld(t, &rig{url: s.url(), replicas: 1, connect: s.connect}, "server")
			scripts := map[string]script{
				"sleeps beyond":   ops(do("before"), sleep("nap", 6*time.Second), do("after")),
				"due meanwhile":   ops(do("before"), sleep("nap", 3*time.Second), do("after")),
				"naps in memory":  ops(do("before"), sleep("nap", 1500*time.Millisecond), do("after")),
				"waits":           ops(do("before"), wait("answer", "answer"), do("after")),
				"times out":       ops(do("before"), op{Wait: "answer", Type: "never", For: 3 * time.Second}, do("after")),
				"works":           ops(do("before"), slow("work", 3*time.Second), do("after")),
				"has both":        ops(sideBySide(inTurn(slow("work", 3*time.Second), do("x")), inTurn(wait("answer", "answer"), do("y")))),
				"is never begun":  ops(do("one")),
				"had its answer":  ops(slow("work", 2500*time.Millisecond), wait("answer", "answer")),
				"is between both": ops(wait("first", "first"), wait("answer", "answer")),
			}
			w.throughTheEnd(s, row.end, scripts)
		})
	}
}

// throughTheEnd runs scripts through the end of the server and audits what became of them.
func (w *world) throughTheEnd(s *ownServer, end func(*ownServer), scripts map[string]script) {
	w.t.Helper()
	w.runner(setup{})
	w.runner(setup{})
	for name, s := range scripts {
		if name != "is never begun" {
			w.create(projectName(name), s)
		}
	}
	for _, name := range []string{"due meanwhile", "times out", "sleeps beyond", "waits", "is between both"} {
		w.reaches(projectName(name), "was parked", func(s protocol.Status) bool { // a busy machine may look too late
			return s.State == protocol.StateWaiting || s.State.Finished()
		})
	}
	for _, name := range []string{"works", "has both", "had its answer"} {
		w.reaches(projectName(name), "works", func(s protocol.Status) bool { return len(s.Steps) > 0 })
	}
	w.send(projectName("had its answer"), "answer", "before the end")
	w.send(projectName("is between both"), "first", "just before the end")
	w.create(projectName("is never begun"), scripts["is never begun"])
	end(s)
	eventually(w.t, patience, "the test has noticed", func() bool { return !w.nc.IsConnected() })
	pause(w.t.Context(), 2*time.Second) // so that something comes due meanwhile
	s.start()
	eventually(w.t, patience, "the test is connected again", w.nc.IsConnected)
	for _, name := range []string{"waits", "has both", "is between both"} {
		w.send(projectName(name), "answer", "after the end")
	}
	for name, s := range scripts {
		w.finish(projectName(name), s)
	}
	w.quiesce()
}

// TestServerIsFrozen stops the server for longer than a wake lasts: everybody loses touch, nobody has died.
func TestServerIsFrozen(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	w := newWorld(t, &rig{url: s.url(), replicas: 1, connect: s.connect}, "frozen")
	w.runner(setup{})
	w.runner(setup{})
	work := ops(do("before"), slow("work", 3*time.Second), wait("answer", "answer"), do("after"))
	const instances = 20
	for i := range instances {
		w.create(strconv.Itoa(i), work)
	}
	w.reaches("0", "works", func(s protocol.Status) bool { return len(s.Steps) >= 2 })
	s.freeze(t)
	pause(t.Context(), ackWait+time.Second)
	s.thaw(t)
	for i := range instances {
		w.send(strconv.Itoa(i), "answer", "yes")
	}
	w.finishAll(instances, work)
	w.quiesce()
}
