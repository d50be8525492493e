package throttle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Who is refused with a connection is told why, if that takes no longer than politeFor, and not more than maxPolite at a time: others
// are cut off.
const (
	maxPolite = 64
	politeFor = time.Second
)

// Listen counts the connections that l accepts, and refuses those over the limits. Clients that take no byte of what is written to them for
// Stall are cut off.
func (t *Throttle) Listen(l net.Listener) net.Listener { return &listener{Listener: l, throttle: t} }

type listener struct {
	net.Listener
	throttle *Throttle
}

// Accept returns the next connection that is below the limits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, err := l.throttle.enter(c.RemoteAddr())
		if err == nil {
			return &conn{Conn: c, stall: l.throttle.limits.Stall, leave: leave}, nil
		}
		l.throttle.turnAway(c, err)
	}
}

// enter counts a connection until leave is called. The error is a *Refusal. Those of proxies count for nobody alone: they carry what
// many clients send.
func (t *Throttle) enter(remote net.Addr) (leave func(), err error) {
	ctx := context.Background()
	if open := t.open.Add(1); t.limits.Connections > 0 && open > int64(t.limits.Connections) {
		t.open.Add(-1)
		return nil, t.refuse(ctx, everybody, &Refusal{
			Limit: LimitConnections, Status: http.StatusServiceUnavailable, Name: "TooManyConnections", RetryAfter: time.Second,
			Message: fmt.Sprintf("%d connections are open, more are not allowed", t.limits.Connections),
		})
	}
	client, counts := t.countsAlone(remote)
	if !counts {
		return func() { t.open.Add(-1) }, nil
	}
	full := false
	t.table.with(client, func(e *entry) {
		if full = e.connections >= t.limits.PerAddress; !full {
			e.connections++
		}
	})
	if full {
		t.open.Add(-1)
		return nil, t.refuse(ctx, client, &Refusal{
			Limit: LimitPerAddress, Status: http.StatusTooManyRequests, Name: "TooManyConnections", RetryAfter: time.Second,
			Message: fmt.Sprintf("%s has %d connections open, more are not allowed", name(client), t.limits.PerAddress),
		})
	}
	return func() {
		t.open.Add(-1)
		t.table.with(client, func(e *entry) { e.connections-- })
	}, nil
}

// countsAlone is whom a connection counts for, if there is a limit for each.
func (t *Throttle) countsAlone(remote net.Addr) (client netip.Prefix, ok bool) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || t.limits.PerAddress == 0 {
		return netip.Prefix{}, false
	}
	addr := plain(tcp.AddrPort().Addr())
	return owner(addr), !t.limits.Proxies.trusts(addr)
}

// turnAway closes a connection, and tells why if it can.
func (t *Throttle) turnAway(c net.Conn, why error) {
	select {
	case t.polite <- struct{}{}:
	default:
		_ = c.Close() // it has nothing to lose
		return
	}
	t.polity.Go(func() {
		defer func() { <-t.polite }()
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(politeFor))
		_, _ = c.Read(make([]byte, 1)) // a client that has not asked yet takes no answer
		if answer(c, why) != nil {
			return
		}
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		_, _ = io.CopyN(io.Discard, c, maxUnread) // closed with anything unread, the connection would take the answer with it
	})
}

// maxUnread is how much of a request is read that is refused with its connection.
const maxUnread = 64 << 10

// answer writes a refusal as net/http would.
func answer(w io.Writer, why error) error {
	r, ok := errors.AsType[*Refusal](why)
	if !ok {
		return why
	}
	body, err := json.Marshal(map[string]map[string]string{"error": {"name": r.Name, "message": r.Message}})
	if err != nil {
		return err
	}
	response := http.Response{
		StatusCode: r.Status, ProtoMajor: 1, ProtoMinor: 1, Close: true, ContentLength: int64(len(body)) + 1,
		Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {strconv.Itoa(int(math.Ceil(r.RetryAfter.Seconds())))}},
		Body:   io.NopCloser(strings.NewReader(string(body) + "\n")),
	}
	return response.Write(w)
}

// conn is a connection that is counted.
type conn struct {
	net.Conn
	stall  time.Duration
	leave  func()
	closed sync.Once

	mu    sync.Mutex // guards what follows
	until time.Time  // that writes may take, if its user has said so
}

// maxWrite is how much a client has to take at least in the time of Stall.
const maxWrite = 16 << 10

// Write writes b, and fails if the client takes nothing of it for long.
func (c *conn) Write(b []byte) (n int, err error) {
	for first := true; first || len(b) > 0; first = false {
		if err := c.hurry(); err != nil {
			return n, err
		}
		part := b[:min(len(b), maxWrite)]
		m, err := c.Conn.Write(part)
		n += m
		if err != nil {
			return n, err
		}
		b = b[len(part):]
	}
	return n, nil
}

// hurry bounds the next part of a write, unless its user has.
func (c *conn) hurry() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.until.IsZero() || c.stall == 0 {
		return nil
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.stall))
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetWriteDeadline bounds writes, in the place of Stall; the zero time gives that back.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite says that nothing more is written: net/http does so before it closes a connection whose client may be sending.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	return half.CloseWrite()
}

// Close ends the connection, and counts it no more.
func (c *conn) Close() error {
	defer c.closed.Do(c.leave)
	return c.Conn.Close()
}
