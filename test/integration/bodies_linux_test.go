package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	bodyBytes   = 64 << 20 // http_max_body
	connections = 64       // http_max_connections
)

// TestBodiesNeedLittleMemory: what a host has in memory of large bodies that it gets at once is 8 parts of 128 KiB of each, whatever their clients
// have to send, and how fast they do. Who is over a limit is told so, and others are served.
func TestBodiesNeedLittleMemory(t *testing.T) {
	t.Parallel()
	t.Run("of agents of the host", func(t *testing.T) {
		t.Parallel()
		c := &crush{t: t, fast: 24, slow: 8, busy: 8, door: newDoor(t)}
		c.taker = c.host(newWorld(t, singleServer(t), "bodies"))
		c.owner = c.taker
		c.run()
	})
	// Fewer: with the race detector it takes seconds to read parts of many.
	t.Run("of agents of another host", func(t *testing.T) {
		t.Parallel()
		c := &crush{t: t, fast: 8, slow: 2, busy: 4, door: newDoor(t)}
		w := newWorld(t, singleServer(t), "bodies")
		c.taker, c.owner = c.host(w), c.host(w)
		c.run()
	})
}

// crush is many clients at a host that send large bodies, and where their agents live.
type crush struct {
	t            *testing.T
	taker, owner *agentHost
	door         *door
	// fast and slow are how many bodies go to an agent each. As many as may wait go to one that is busy.
	fast, slow, busy int
	// sent is what the clients could send that send as fast as they can.
	sent atomic.Int64
}

func (c *crush) bodies() int { return c.fast + c.slow + c.busy }

// memoryLimit has room for 8 parts of 128 KiB of each body, for garbage of the same size, and for what a host needs else. What the clients
// have to send is many times as much.
func (c *crush) memoryLimit() int { return 2*c.bodies()*8*128<<10 + 48<<20 }

// host starts one that keeps to it, and that does not give up a request because the machine is busy.
func (c *crush) host(w *world) *agentHost {
	c.t.Helper()
	return w.hostWith(roleSink, w.url, []string{fmt.Sprint("GOMEMLIMIT=", c.memoryLimit())}, "--http-max-body", fmt.Sprint(bodyBytes),
		"--http-max-requests", fmt.Sprint(c.busy), "--http-max-connections", fmt.Sprint(connections), "--http-timeout", "15m")
}

func (c *crush) run() {
	t := c.t
	for i := range c.fast {
		c.small(c.owner, fmt.Sprint("own-", i))
	}
	for i := range c.slow {
		c.small(c.owner, fmt.Sprint("slow-", i))
	}
	for _, name := range []string{"busy", "idle"} {
		c.small(c.owner, name)
	}
	c.small(c.taker, "idle")
	var all []upload
	for i := range c.fast {
		all = append(all, upload{to: fmt.Sprint("own-", i), bytes: bodyBytes, known: i%2 == 0})
	}
	for i := range c.slow {
		all = append(all, upload{to: fmt.Sprint("slow-", i), bytes: 1 << 20, known: i%2 == 0, after: 900 << 10})
	}
	for i := range c.busy {
		all = append(all, upload{to: "busy", bytes: bodyBytes, known: i%2 == 0})
	}
	answers := make([]<-chan answer, len(all))
	for i, u := range all {
		answers[i] = aside(func() answer { return c.large(u) })
	}
	var waiting []visitor
	for range c.fast + c.slow + 1 {
		waiting = append(waiting, c.door.await(c.owner))
	}
	c.awaitStill()
	c.overLimits()
	eventually(t, patience, "connections are taken again", func() bool {
		return upload{to: "idle", bytes: 10}.send(t.Context(), c, c.taker, "").status == http.StatusOK
	})
	for _, v := range waiting {
		close(v.open)
	}
	for range c.busy - 1 {
		close(c.door.await(c.owner).open)
	}
	for i, u := range all {
		if got := within(t, "a body has its answer", answers[i]); got.status != http.StatusOK || got.body != fmt.Sprint(min(u.bytes, sinkTakes)) {
			t.Errorf("%+v: %+v", u, got)
		}
	}
	c.small(c.taker, "own-0")
	c.check()
	t.Logf("at the end the hosts have had %d and %d MB", c.taker.peak(t)>>20, c.owner.peak(t)>>20)
}

// check sees to it that the hosts have not had more memory than they may: twice what Go manages, for the program and for what the collector is
// late with. The race detector needs twice as much beside.
func (c *crush) check() {
	c.t.Helper()
	most := int64(c.memoryLimit()) * 2
	if raceDetector() {
		most *= 3
	}
	for _, h := range []*agentHost{c.taker, c.owner} {
		if peak := h.peak(c.t); peak > most {
			c.t.Fatalf("%s has taken %d MB for %d bodies of %d MB, at most %d MB are promised", h.name, peak>>20, c.bodies(), bodyBytes>>20, most>>20)
		}
	}
}

// raceDetector reports whether it is part of this program.
func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// awaitStill waits until the clients can send no more.
func (c *crush) awaitStill() {
	c.t.Helper()
	var last int64
	var since time.Time
	eventually(c.t, patience, "the host takes no more", func() bool {
		c.check()
		if sent := c.sent.Load(); sent != last {
			last, since = sent, time.Now()
		}
		return time.Since(since) > time.Second
	})
	c.t.Logf("clients have sent %d MB, the hosts have %d and %d MB", last>>20, c.taker.peak(c.t)>>20, c.owner.peak(c.t)>>20)
}

// overLimits asks for more than the settings allow: again, where not as much is under way yet as may be.
func (c *crush) overLimits() {
	t := c.t
	for _, over := range []struct {
		upload
		status int
		name   string
	}{
		{upload{to: "large", bytes: bodyBytes + 1, known: true}, http.StatusRequestEntityTooLarge, "BodyTooLarge"},
		{upload{to: "busy", bytes: bodyBytes}, http.StatusServiceUnavailable, "AgentBusy"},
		{upload{to: "busy", bytes: bodyBytes, known: true}, http.StatusServiceUnavailable, "AgentBusy"},
	} {
		eventually(t, patience, fmt.Sprintf("%+v is refused", over), func() bool { return c.isRefused(over.upload, over.status, over.name) })
	}
	var idle []net.Conn
	defer func() {
		for _, one := range idle {
			_ = one.Close()
		}
	}()
	// Connections of those who were refused can be open still, so that one of these is refused in their place: then one more is opened.
	eventually(t, patience, "one more connection is refused", func() bool {
		one, err := net.Dial("tcp", c.taker.address)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, one)
		return len(idle) >= connections-c.bodies() && c.isRefused(upload{to: "idle", bytes: 10, known: true}, http.StatusServiceUnavailable, "TooManyConnections")
	})
}

// isRefused sends a body, and reports whether it is refused. It gives up one that is taken and waits.
func (c *crush) isRefused(u upload, status int, name string) bool {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	got := u.send(ctx, c, c.taker, "")
	if got.status == status && strings.Contains(got.body, name) {
		return true
	}
	c.t.Logf("%+v is not refused: %+v", u, got)
	return false
}

// small has an agent take a small body at a host, at once.
func (c *crush) small(at *agentHost, agent string) {
	c.t.Helper()
	if got := (upload{to: agent, bytes: 10, known: true}).send(c.t.Context(), c, at, ""); got.status != http.StatusOK {
		c.t.Fatalf("a small body for %s: %+v", agent, got)
	}
}

// large sends a body that is taken when the door is open. Where something else that is asked for has its place or its connection, it is
// sent again.
func (c *crush) large(u upload) answer {
	for {
		got := u.send(c.t.Context(), c, c.taker, c.door.address)
		if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "AgentBusy") && !strings.Contains(got.body, "TooManyConnections") {
			return got
		}
		pause(c.t.Context(), 100*time.Millisecond)
	}
}

// upload is a body as a client sends it.
type upload struct {
	to    string
	bytes int
	// known tells the length at once.
	known bool
	// after is how much is sent as fast as the host takes it; 0: all. The rest comes slowly.
	after int
}

func (u upload) send(ctx context.Context, c *crush, at *agentHost, gate string) answer {
	url := fmt.Sprintf("http://%s/agents/sink/%s?gate=%s", at.address, u.to, gate)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, &bodyReader{c, u, 0})
	if err != nil {
		return answer{err: err}
	}
	if u.known {
		r.ContentLength = int64(u.bytes)
	}
	response, err := agentClient.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(text), err}
}

// bodyReader is an upload as its client reads it.
type bodyReader struct {
	c *crush
	upload
	read int
}

// Read returns some of the body.
func (r *bodyReader) Read(p []byte) (n int, err error) {
	n = min(len(p), r.bytes-r.read)
	switch {
	case n == 0:
		return 0, io.EOF
	case r.after > 0 && r.read >= r.after:
		pause(r.c.t.Context(), 50*time.Millisecond)
		n = min(n, 4<<10)
	case r.after == 0:
		r.c.sent.Add(int64(n))
	}
	clear(p[:n])
	r.read += n
	return n, nil
}
