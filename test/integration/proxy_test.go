package integration

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a process and a NATS server. While it is cut, nothing gets through.
type proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex // guards what follows
	whole  chan struct{}
	refuse bool
	conns  map[net.Conn]bool
}

// proxies are those before all servers of a rig, and the addresses that a process behind them has to use.
func (r *rig) proxies(t *testing.T) (all []*proxy, url string) {
	t.Helper()
	var urls []string
	for server := range strings.SplitSeq(r.url, ",") {
		p := startProxy(t, strings.TrimPrefix(server, "nats://"))
		all = append(all, p)
		urls = append(urls, "nats://"+p.listener.Addr().String())
	}
	return all, strings.Join(urls, ",")
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, whole: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.whole)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		p.mend()
		_ = listener.Close()
		p.closeAll()
		serving.Wait()
	})
	return p
}

// cut lets nothing through any more. What is sent meanwhile arrives when the proxy is mended; with refuse, connections
// end instead, and there are no new ones.
func (p *proxy) cut(refuse bool) {
	p.mu.Lock()
	p.whole, p.refuse = make(chan struct{}), refuse
	p.mu.Unlock()
	if refuse {
		p.closeAll()
	}
}

// mend lets everything through again.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
	select {
	case <-p.whole:
	default:
		close(p.whole)
	}
}

func (p *proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.admit(c, server) {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(c, server) })
	pumps.Go(func() { p.pump(server, c) })
	pumps.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	delete(p.conns, server)
}

func (p *proxy) admit(pair ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		p.conns[c] = true
	}
	return !p.refuse
}

// pump brings what comes from one side to the other, until either is closed.
func (p *proxy) pump(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		whole := p.whole
		p.mu.Unlock()
		<-whole
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
