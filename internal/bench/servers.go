package bench

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/pkg/protocol"
)

// servers are a cluster of three.
type servers struct {
	r    *runnerRun
	dir  string
	all  [3]*exec.Cmd
	port [3]int
	// cluster is where they listen for each other.
	cluster [3]int
	// down is the one that was killed.
	down int
}

func (c *servers) url() string {
	var urls []string
	for _, port := range c.port {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	return strings.Join(urls, ",")
}

func (c *servers) start(ctx context.Context) error {
	ports, err := freePorts(2 * len(c.all))
	if err != nil {
		return err
	}
	copy(c.port[:], ports)
	copy(c.cluster[:], ports[len(c.all):])
	for i := range c.all {
		if err := c.startOne(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (c *servers) startOne(ctx context.Context, i int) (err error) {
	var routes []string
	for _, port := range c.cluster {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	name := fmt.Sprintf("bench-%d", i)
	c.all[i], _, err = start(ctx, c.r.cmd, c.r.runnerLoad.procs, "server", "--name", name, "--data", filepath.Join(c.dir, name), "--sync-always",
		"--port", fmt.Sprint(c.port[i]), "--cluster-port", fmt.Sprint(c.cluster[i]), "--routes", strings.Join(routes, ","))
	return err
}

func (c *servers) end() {
	for _, s := range c.all {
		if s != nil {
			end(s)
		}
	}
}

func (c *servers) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	s, err := c.r.project.JS.Stream(ctx, protocol.WorkflowsStream(projectName, 0))
	if err != nil {
		return nil, err
	}
	return s.Info(ctx)
}

func (c *servers) killLeader(ctx context.Context) error {
	info, err := c.info(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Sscanf(info.Cluster.Leader, "bench-%d", &c.down); err != nil {
		return fmt.Errorf("leader %q: %w", info.Cluster.Leader, err)
	}
	if err := c.all[c.down].Process.Kill(); err != nil {
		return err
	}
	_ = c.all[c.down].Wait() // it was killed
	c.all[c.down] = nil
	return nil
}

// restart starts the server that was killed, and waits until the instances' stream is on all three again.
func (c *servers) restart(ctx context.Context) error {
	if err := c.startOne(ctx, c.down); err != nil {
		return err
	}
	return until(ctx, func() bool {
		info, err := c.info(ctx)
		if err != nil || info.Cluster == nil || len(info.Cluster.Replicas) != len(c.all)-1 {
			return false
		}
		for _, replica := range info.Cluster.Replicas {
			if !replica.Current {
				return false
			}
		}
		return true
	})
}

// freePorts finds ports that nobody listens on.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all are taken until all are found
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
