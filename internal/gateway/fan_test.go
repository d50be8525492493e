package gateway

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestFan: every write is started, whatever others do, also if more come while it is at it and when it has come to rest.
func TestFan(t *testing.T) {
	t.Parallel()
	var busy atomic.Bool
	f := fan{isBusy: func() bool { return !busy.Swap(!busy.Load()) }}
	stalled := make(chan struct{})
	var stuck, done sync.WaitGroup
	for range 2 {
		stuck.Add(together)
		for range together {
			f.start(func() { defer stuck.Done(); <-stalled })
		}
		done.Add(100 * together)
		for range 50 * together {
			f.start(func() {
				defer done.Done()
				f.start(done.Done)
			})
		}
		all := make(chan struct{})
		go func() { done.Wait(); close(all) }()
		select {
		case <-all:
		case <-time.After(soon):
			t.Fatal("not all is written in time")
		}
	}
	close(stalled)
	stuck.Wait()
}

// TestBroadcastToMany: each client gets everything in order, also what is for it alone and comes in between.
func TestBroadcastToMany(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var clients []*websocket.Conn
	for i := range together + 2 {
		clients = append(clients, r.open(fmt.Sprint(i)))
	}
	alone := protocol.SocketFrame{Gateway: "here", Conn: 1, Text: new(protocol.FrameText("alone"))}
	for range 5 {
		r.take(r.next(), say("all"), alone, say("again"))
	}
	for i, ws := range clients {
		for range 5 {
			expect(t, ws, "all")
			if i == 0 {
				expect(t, ws, "alone")
			}
			expect(t, ws, "again")
		}
	}
}
