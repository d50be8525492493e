package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// stream answers with numbered events until the gate is open, and then with the last one.
func (c *clerk) stream(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/event-stream")
	return agent.Outside(r.Context(), func(ctx context.Context) error {
		opened := make(chan error, 1)
		go func() { opened <- awaitGate(r.URL.Query().Get("gate")) }()
		for i := 1; ; i++ {
			select {
			case err := <-opened:
				fmt.Fprint(w, lastEvent)
				return err
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(2 * time.Millisecond):
			}
			fmt.Fprintf(w, "data: %d\n\n", i)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
		}
	})
}

const lastEvent = "data: last\n\n"

// listener reads events, for as long as they are the right ones.
type listener struct {
	heard atomic.Int64
	ended <-chan heard
}

// heard is how that ended: with the last event, with an error, or with one that is not the next.
type heard struct {
	last bool
	err  error
	odd  string
}

func (h *agentHost) listen(ctx context.Context, name, gate string) *listener {
	l := &listener{}
	l.ended = aside(func() heard {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.address+"/agents/clerk/"+name+"?stream&gate="+gate, nil)
		if err != nil {
			return heard{err: err}
		}
		response, err := agentClient.Do(r)
		if err != nil {
			return heard{err: err}
		}
		defer response.Body.Close()
		return l.read(bufio.NewReader(response.Body))
	})
	return l
}

func (l *listener) read(events *bufio.Reader) heard {
	for last := false; ; {
		line, err := events.ReadString('\n')
		next := fmt.Sprintf("data: %d\n", l.heard.Load()+1)
		switch {
		case err == io.EOF && line == "":
			return heard{last: last}
		case err != nil:
			return heard{last: last, err: err}
		case line == "\n":
		case last || line != next && line+"\n" != lastEvent:
			return heard{odd: fmt.Sprintf("%q came in the place of %q", line, next)}
		case line == next:
			l.heard.Add(1)
		default:
			last = true
		}
	}
}

// goesOn waits until more events have come, or no more will.
func (l *listener) goesOn(t *testing.T) (ended *heard) {
	t.Helper()
	more := l.heard.Load() + 50
	eventually(t, patience, "more events come, or none at all", func() bool {
		select {
		case h := <-l.ended:
			ended = &h
		default:
		}
		return ended != nil || l.heard.Load() >= more
	})
	return ended
}

// TestStreamsOfOtherHosts: streamed answers whose agents are on another host than their readers, while leaders of NATS move
// and the servers are killed that one of the two hosts is connected to. Each event comes once and in order, and who does not
// hear the last one hears that the answer broke off.
func TestStreamsOfOtherHosts(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	w := newWorld(t, c.rig(), "streams")
	owner := w.host("")
	var others []string
	for _, s := range c.servers {
		if s != c.serverOf(owner) {
			others = append(others, s.url())
		}
	}
	gate := w.hostAt(strings.Join(others, ","), "")
	w.streamThrough(owner, gate, true, func() {
		c.moveLeader(protocol.KVStream(protocol.AgentsBucket(w.name)))
		c.moveLeader(protocol.KVStream(protocol.HostsBucket(w.name)))
	})
	for _, of := range []*agentHost{gate, owner} {
		s := c.serverOf(of)
		w.streamThrough(owner, gate, false, func() { s.kill(t) })
		s.start()
		c.leader(protocol.KVStream(protocol.HostsBucket(w.name))) // when it has caught up, another one may end
	}
}

// streamThrough makes trouble in the middle of some streams. If it is no reason to break off, they must come whole.
func (w *world) streamThrough(owner, gate *agentHost, whole bool, trouble func()) {
	w.t.Helper()
	d := newDoor(w.t)
	var all []*listener
	var doors []visitor
	for i := range 4 {
		name := fmt.Sprint("speaker-", i)
		eventually(w.t, patience, name+" is at its host", func() bool { return owner.get(w.t.Context(), name, "").status == http.StatusOK })
		all = append(all, gate.listen(w.t.Context(), name, d.address))
		doors = append(doors, d.await(owner))
	}
	for _, l := range all {
		if ended := l.goesOn(w.t); ended != nil {
			w.t.Fatalf("before the trouble, a stream ended: %+v", ended)
		}
	}
	trouble()
	ends := make([]*heard, len(all))
	for i, l := range all {
		ends[i] = l.goesOn(w.t)
	}
	for _, v := range doors {
		close(v.open)
	}
	for i, l := range all {
		if ends[i] == nil {
			h := within(w.t, "the end of a stream", l.ended)
			ends[i] = &h
		}
		h := *ends[i]
		if h.odd != "" || h.last == (h.err != nil) || whole && !h.last {
			w.t.Errorf("a stream ended after %d events: %+v", l.heard.Load(), h)
		}
		w.t.Logf("after %d events: %+v", l.heard.Load(), h)
	}
}
