package natstest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Cluster is a JetStream cluster whose servers all run in the test's process.
//
// Stopping one of its servers is polite: it hands its leaderships over first. A crash has to be tried with servers in
// processes of their own.
type Cluster struct {
	Servers []*Server
}

// StartCluster starts a cluster of n servers, waits until JetStream has a leader and every server follows it, and
// stops them when the test ends.
func StartCluster(t testing.TB, n int, opts ...Option) *Cluster {
	t.Helper()
	c := &Cluster{Servers: make([]*Server, n)}
	routes := make([]*url.URL, n)
	for i := range n {
		routes[i] = &url.URL{Scheme: "nats", Host: "127.0.0.1:" + strconv.Itoa(FreePort(t))}
	}
	for i := range n {
		o := newOptions(t, "natstest-"+strconv.Itoa(i), opts)
		port, err := strconv.Atoi(routes[i].Port())
		if err != nil {
			t.Fatalf("natstest: route %s: %v", routes[i], err)
		}
		// Clients know all addresses already; those that a test has put a proxy before must not learn the others.
		o.Cluster = server.ClusterOpts{Name: "natstest", Host: "127.0.0.1", Port: port, NoAdvertise: true}
		o.Routes = slices.Delete(slices.Clone(routes), i, i+1)
		c.Servers[i] = &Server{options: o}
		t.Cleanup(c.Servers[i].stop)
	}
	for _, s := range c.Servers {
		s.Start(t)
	}
	c.Await(t)
	return c
}

// URL lists the addresses of all servers, as nats.Connect takes them.
func (c *Cluster) URL() string {
	urls := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Connect returns a connection to any server of the cluster; otherwise it is like that of a single Server.
func (c *Cluster) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, c.URL(), opts)
}

// Await waits until JetStream has a leader that knows of every running server, all follow it, and requests are answered.
func (c *Cluster) Await(t testing.TB) {
	t.Helper()
	Eventually(t, Patience, "the cluster's JetStream has a leader that all follow", func() bool {
		leaders, known, up := 0, 0, 0
		for _, s := range c.Servers {
			running := s.server()
			if running == nil {
				continue
			}
			up++
			if !running.JetStreamEnabled() || !running.JetStreamIsCurrent() {
				return false
			}
			if running.JetStreamIsLeader() {
				leaders++
				known = len(running.JetStreamClusterPeers()) // those that it would place a stream on
			}
		}
		return leaders == 1 && known >= up
	})
	nc, err := nats.Connect(c.URL(), nats.Timeout(tryTimeout))
	if err != nil {
		t.Fatalf("natstest: connect to %s: %v", c.URL(), err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	Eventually(t, Patience, "the cluster's JetStream answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
}

// Head returns which server leads the cluster's JetStream, waiting for an election if need be.
func (c *Cluster) Head(t testing.TB) (i int) {
	t.Helper()
	Eventually(t, Patience, "the cluster's JetStream has a leader", func() bool {
		i = slices.IndexFunc(c.Servers, func(s *Server) bool {
			running := s.server()
			return running != nil && running.JetStreamIsLeader()
		})
		return i >= 0
	})
	return i
}

// Leader returns the server that leads stream, waiting for an election if need be.
func (c *Cluster) Leader(t testing.TB, stream string) *Server {
	t.Helper()
	var leader *Server
	Eventually(t, Patience, fmt.Sprintf("stream %s has a leader", stream), func() bool {
		leader = c.leader(stream)
		return leader != nil
	})
	return leader
}

func (c *Cluster) leader(stream string) *Server {
	for _, s := range c.Servers {
		if running := s.server(); running != nil && running.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return s
		}
	}
	return nil
}

// HasLeader reports whether a server leads stream.
func (c *Cluster) HasLeader(stream string) bool { return c.leader(stream) != nil }

// Stored is how many bytes the server has in files that has the fewest.
func (c *Cluster) Stored(t testing.TB) int64 {
	t.Helper()
	least := int64(math.MaxInt64)
	for _, s := range c.Servers {
		info, err := s.server().Jsz(nil)
		if err != nil {
			t.Fatalf("natstest: what %s has stored: %v", s.URL(), err)
		}
		least = min(least, int64(info.Store))
	}
	return least
}

// MoveLeader makes the leader of stream step down and returns the new one.
func (c *Cluster) MoveLeader(t testing.TB, stream string) *Server {
	t.Helper()
	old := c.Leader(t, stream)
	next := old
	Eventually(t, Patience, fmt.Sprintf("stream %s has another leader", stream), func() bool {
		running := old.server()
		if c.leader(stream) == old {
			if err := running.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, stream); err != nil {
				t.Fatalf("natstest: step down as leader of %s: %v", stream, err)
			}
		}
		next = c.leader(stream)
		return next != nil && next != old
	})
	return next
}

// Stop shuts server i down. The others go on.
func (c *Cluster) Stop(t testing.TB, i int) {
	t.Helper()
	c.Servers[i].Stop(t)
}

// Restart starts server i again, after stopping it if it runs, and waits until it follows the others.
func (c *Cluster) Restart(t testing.TB, i int) {
	t.Helper()
	c.Servers[i].Restart(t)
	c.Await(t)
}

// LoseDisk stops server i, takes away all that it has stored, and starts it again, as if its disk had been replaced. It does not wait
// until the server has caught up with the others, see AwaitHealthy.
func (c *Cluster) LoseDisk(t testing.TB, i int) {
	t.Helper()
	s := c.Servers[i]
	s.Stop(t)
	entries, err := os.ReadDir(s.options.StoreDir)
	if err == nil && len(entries) == 0 {
		err = errors.New("it is empty")
	}
	if err == nil {
		err = os.RemoveAll(s.options.StoreDir)
	}
	if err != nil {
		t.Fatalf("natstest: lose the disk %s: %v", s.options.StoreDir, err)
	}
	s.Start(t)
}

// AwaitHealthy waits until server i says what /healthz says when it has all streams and consumers as the others have them.
func (c *Cluster) AwaitHealthy(t testing.TB, i int) {
	t.Helper()
	Eventually(t, Patience, fmt.Sprintf("server %d is healthy", i), func() bool {
		return c.Servers[i].server().Healthz(nil).Status == "ok"
	})
}
