package process

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// maxGathered is how many bytes wait for the network before their writers do.
	maxGathered = 256 << 10
	// closeWait bounds how long what was written may take when a connection is closed.
	closeWait = time.Second
)

// gathering is a nats.CustomDialer of connections whose writes are gathered.
type gathering struct{ net.Dialer }

// Dial connects.
func (d *gathering) Dial(network, address string) (net.Conn, error) {
	conn, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return gather(conn), nil
}

// gathered is a connection whose writes go out together. The client of NATS makes a system call for nearly every message,
// and the server wakes up for each of them. Here, whoever is ready to run comes first, and adds what he has to say; where
// nobody is, nothing is waited for.
//
// A write returns before its bytes are sent. If they cannot be, the connection is closed, so that whoever reads it learns
// of that, and the next write and Close return the error.
type gathered struct {
	net.Conn

	mu       sync.Mutex // guards what follows
	changed  *sync.Cond // there is room, or nothing is being sent any more
	waiting  []byte     // what the next write to the network takes, by due
	due      time.Time
	sending  bool      // a goroutine sends what waits; it ends when nothing does
	sendBy   time.Time // the deadline of the network
	spare    []byte    // memory for waiting
	deadline time.Time // of writes from now on
	closed   bool
	err      error // of a write to the network
}

func gather(conn net.Conn) *gathered {
	g := &gathered{Conn: conn}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Write takes b. While there is no room for it, something is being sent, and that has a deadline no later than b's.
func (g *gathered) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) >= maxGathered && g.err == nil && !g.closed {
		g.changed.Wait()
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.closed:
		return 0, net.ErrClosed
	case !g.deadline.IsZero() && !time.Now().Before(g.deadline):
		return 0, os.ErrDeadlineExceeded
	case len(b) == 0:
		return 0, nil
	}
	g.waiting, g.due = append(g.waiting, b...), earlier(g.due, g.deadline)
	if !g.sending {
		g.sending = true
		go g.send()
	}
	return len(b), nil
}

// send writes what waits to the network until there is nothing, each time after all others who are ready to run.
func (g *gathered) send() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 && g.err == nil {
		g.mu.Unlock()
		runtime.Gosched()
		g.mu.Lock()
		g.err = g.sendWaiting()
	}
	if g.err != nil {
		_ = g.Conn.Close()
	}
	g.sending = false
	g.changed.Broadcast()
}

// sendWaiting writes what waits to the network; g.mu is held before and after.
func (g *gathered) sendWaiting() error {
	b := g.waiting
	g.sendBy = g.due
	g.waiting, g.spare, g.due = g.spare, nil, time.Time{}
	if err := g.Conn.SetWriteDeadline(g.sendBy); err != nil {
		return err
	}
	g.changed.Broadcast() // there is room
	g.mu.Unlock()
	_, err := g.Conn.Write(b)
	g.mu.Lock()
	if cap(b) <= 2*maxGathered {
		g.spare = b[:0]
	}
	return err
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (g *gathered) SetDeadline(t time.Time) error {
	if err := g.Conn.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// SetWriteDeadline bounds writes from now on: what they take must be sent by then, whatever deadline is set later. What
// was taken before must be, too, so that those who wait for room are in time.
func (g *gathered) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	return g.hurry(t)
}

// hurry bounds what was taken; g.mu is held.
func (g *gathered) hurry(t time.Time) error {
	if len(g.waiting) > 0 {
		g.due = earlier(g.due, t)
	}
	if by := earlier(g.sendBy, t); g.sending && !by.Equal(g.sendBy) {
		g.sendBy = by
		return g.Conn.SetWriteDeadline(by)
	}
	return nil
}

// earlier is the earlier of two deadlines. The zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Close sends what was written, if that can be done soon, and closes the connection.
func (g *gathered) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.closed = true
	err := g.hurry(time.Now().Add(closeWait))
	g.changed.Broadcast()
	for g.sending {
		g.changed.Wait()
	}
	if g.err != nil {
		return g.err // the connection is closed
	}
	return errors.Join(err, g.Conn.Close())
}
