package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
)

// ownCluster are three NATS servers in processes of their own.
type ownCluster struct {
	t       *testing.T
	servers map[string]*ownServer
	js      jetstream.JetStream
}

func startCluster(t *testing.T) *ownCluster {
	t.Helper()
	c := &ownCluster{t: t, servers: map[string]*ownServer{}}
	ports := []int{natstest.FreePort(t), natstest.FreePort(t), natstest.FreePort(t)}
	for i, port := range ports {
		var routes []string
		for _, other := range ports {
			if other != port {
				routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", other))
			}
		}
		s := &ownServer{
			t: t, name: fmt.Sprint("own-", i), port: natstest.FreePort(t), store: t.TempDir(),
			cluster: []string{strconv.Itoa(port), strings.Join(routes, ",")},
		}
		c.servers[s.name] = s
		s.start()
	}
	nc := c.connect(t)
	c.js = natstest.JetStream(t, nc)
	natstest.Ask(t, "JetStream of the cluster", func(ctx context.Context) error {
		_, err := c.js.AccountInfo(ctx)
		return err
	})
	return c
}

func (c *ownCluster) rig() *rig {
	return &rig{url: c.url(), replicas: len(c.servers), connect: c.connect}
}

func (c *ownCluster) url() string {
	var urls []string
	for _, s := range c.servers {
		urls = append(urls, s.url())
	}
	return strings.Join(urls, ",")
}

func (c *ownCluster) connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connectTo(t, c.url(), opts)
}

// leader is the server that leads a stream, if all replicas of that are up to date.
func (c *ownCluster) leader(stream string) *ownServer {
	c.t.Helper()
	var leader *ownServer
	natstest.Ask(c.t, "leader of "+stream, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		cluster := s.CachedInfo().Cluster
		for _, r := range cluster.Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("replica at %s is behind", r.Name)
			}
		}
		if leader = c.servers[cluster.Leader]; leader == nil {
			return errors.New("it has none")
		}
		return nil
	})
	return leader
}

// serverOf is the server that a host is connected to.
func (c *ownCluster) serverOf(h *agentHost) *ownServer {
	c.t.Helper()
	log := h.log.String()
	_, url, _ := strings.Cut(log[max(strings.LastIndex(log, `msg="connected to NATS`), 0):], "url=")
	for _, s := range c.servers {
		if fields := strings.Fields(url); len(fields) > 0 && fields[0] == s.url() {
			return s
		}
	}
	c.t.Fatalf("%s has not logged which server it is connected to", h.name)
	return nil
}

// moveLeader makes the leader of a stream step down: again, if it is elected again.
func (c *ownCluster) moveLeader(stream string) {
	c.t.Helper()
	before := c.leader(stream).name
	natstest.Ask(c.t, "another leader of "+stream, func(ctx context.Context) error {
		if c.leader(stream).name != before {
			return nil
		}
		_, err := c.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil)
		return cmp.Or(err, errors.New("it leads still"))
	})
}

// killLeader kills the server that leads a stream, and starts it again when there is another leader and meanwhile has
// returned.
func (c *ownCluster) killLeader(stream string, meanwhile func()) {
	c.t.Helper()
	old := c.leader(stream)
	old.kill(c.t)
	natstest.Ask(c.t, "another leader of "+stream, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		if leader := s.CachedInfo().Cluster.Leader; leader == "" || leader == old.name {
			return fmt.Errorf("leader is %q", leader)
		}
		return nil
	})
	meanwhile()
	old.start()
}

// killMost kills all servers but the leader of a stream for a time in which nothing can be stored, and starts them again.
func (c *ownCluster) killMost(stream string, away time.Duration) {
	c.t.Helper()
	last := c.leader(stream)
	for _, s := range c.servers {
		if s != last {
			s.kill(c.t)
		}
	}
	pause(c.t.Context(), away)
	for _, s := range c.servers {
		if s != last {
			s.start()
		}
	}
}
