package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// gate stands between a host and the NATS server. Once it is shut, nothing gets through any more, and nobody is told: the
// connections stay.
type gate struct {
	listener net.Listener
	target   string
	shut     atomic.Bool
	serving  sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []io.Closer
}

func openGate(url string) (*gate, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a gate before %s: %w", url, err)
	}
	g := &gate{listener: listener, target: strings.TrimPrefix(url, "nats://"), conns: []io.Closer{listener}}
	g.serving.Go(g.serve)
	return g, nil
}

func (g *gate) url() string { return "nats://" + g.listener.Addr().String() }

func (g *gate) serve() {
	for {
		host, err := g.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", g.target)
		if err != nil {
			_ = host.Close()
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, host, server)
		g.mu.Unlock()
		g.serving.Go(func() { g.pump(host, server) })
		g.serving.Go(func() { g.pump(server, host) })
	}
}

// pump passes on what comes from one side, until that ends or the gate is shut.
func (g *gate) pump(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if g.shut.Load() {
			return
		}
		if n > 0 {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// close ends all connections and returns when nothing passes any more.
func (g *gate) close() error {
	g.mu.Lock()
	conns := g.conns
	g.mu.Unlock()
	var errs []error
	for _, c := range conns {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	g.serving.Wait()
	return errors.Join(errs...)
}
