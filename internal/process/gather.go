package process

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// maxGathered is how many bytes wait for the network before their writers do.
	maxGathered = 256 << 10
	// writeTimeout bounds one write to the network, closeWait what is left to write when a connection is closed.
	writeTimeout = 10 * time.Second
	closeWait    = time.Second
)

// gathering is a nats.CustomDialer of connections whose writes are gathered.
type gathering struct{ net.Dialer }

// Dial connects. The goroutine that writes ends with the connection.
func (d *gathering) Dial(network, address string) (net.Conn, error) {
	conn, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return gather(conn), nil
}

// gathered is a connection whose writes go out together. The client of NATS makes a system call for nearly every message,
// and the server wakes up for each of them: in a busy process, a fifth of what all of it costs. Here, whoever is ready to
// run comes first, and adds what he has to say; where nobody is, nothing is waited for.
type gathered struct {
	net.Conn
	sent chan struct{} // closed when nothing is written any more

	mu      sync.Mutex
	changed *sync.Cond // any of what follows
	waiting []byte
	spare   []byte // what waiting was, to be used again
	closed  bool
	err     error // of a write to the network
}

func gather(conn net.Conn) *gathered {
	g := &gathered{Conn: conn, sent: make(chan struct{})}
	g.changed = sync.NewCond(&g.mu)
	go g.send()
	return g
}

// Write takes b. The error is that of an earlier write: the network is broken, and the reader of the connection knows.
func (g *gathered) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > maxGathered && g.err == nil && !g.closed {
		g.changed.Wait()
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.closed:
		return 0, net.ErrClosed
	}
	if g.waiting = append(g.waiting, b...); len(g.waiting) == len(b) {
		g.changed.Broadcast()
	}
	return len(b), nil
}

// send writes what waits, until the connection is closed or breaks.
func (g *gathered) send() {
	defer close(g.sent)
	for {
		b, ok := g.next()
		if !ok {
			return
		}
		err := g.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err == nil {
			_, err = g.Conn.Write(b)
		}
		g.mu.Lock()
		g.err = err
		if cap(b) <= 2*maxGathered {
			g.spare = b[:0]
		}
		g.changed.Broadcast()
		g.mu.Unlock()
		if err != nil {
			_ = g.Conn.Close() // so that who reads learns of it
			return
		}
	}
}

// next waits for something to write, and returns what there is when all others had their turn. With ok false, nothing
// follows.
func (g *gathered) next() (b []byte, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) == 0 && !g.closed {
		g.changed.Wait()
	}
	if len(g.waiting) == 0 {
		return nil, false
	}
	g.mu.Unlock()
	runtime.Gosched()
	g.mu.Lock()
	b, g.waiting, g.spare = g.waiting, g.spare, nil
	g.changed.Broadcast() // there is room
	return b, true
}

// SetDeadline bounds reads. Each write to the network has a bound of its own: that of the caller's may be over by then.
func (g *gathered) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

// SetWriteDeadline does nothing, see SetDeadline.
func (*gathered) SetWriteDeadline(time.Time) error { return nil }

// Close writes what waits, if that can be done soon, and closes the connection.
func (g *gathered) Close() error {
	g.mu.Lock()
	g.closed = true
	g.changed.Broadcast()
	g.mu.Unlock()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-g.sent:
	case <-timer.C:
	}
	err := g.Conn.Close()
	<-g.sent
	return err
}
