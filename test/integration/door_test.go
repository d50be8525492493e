package integration

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"
)

// door is where turns wait for the test. Not over NATS: a host that is cut off from that gets through.
type door struct {
	t        *testing.T
	address  string
	visitors chan visitor
}

// visitor is a turn that waits.
type visitor struct {
	pid  int
	open chan struct{}
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{t: t, visitors: make(chan visitor, 100)}
	ended := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		pid, err := strconv.Atoi(r.URL.Query().Get("pid"))
		if err != nil {
			t.Errorf("pid of who knocks: %v", err)
		}
		v := visitor{pid: pid, open: make(chan struct{})}
		d.visitors <- v
		select {
		case <-v.open:
		case <-ended:
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(ended) })
	d.address = s.URL
	return d
}

// await waits for the next turn, which must be one of a process.
func (d *door) await(of *agentHost) visitor {
	d.t.Helper()
	select {
	case v := <-d.visitors:
		if v.pid != of.pid() {
			d.t.Fatalf("the turn is in process %d, want %d", v.pid, of.pid())
		}
		return v
	case <-time.After(patience):
		d.t.Fatalf("no turn of %s comes to the door", of.name)
	}
	panic("not reached")
}
