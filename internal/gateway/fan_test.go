package gateway

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
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
		done.Add(1)
		f.fill(done.Done)
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

// TestFillsGoFirst: what fills queues does not wait for writes that were there before.
func TestFillsGoFirst(t *testing.T) {
	t.Parallel()
	f := fan{running: true}
	for range together + 1 {
		f.start(func() {})
	}
	f.fill(func() {})
	for _, want := range []int{1, together, 1, 0} {
		if got := len(f.next()); got != want {
			t.Fatalf("%d are started, want %d", got, want)
		}
	}
	if f.running {
		t.Error("it does not rest")
	}
}

// TestBroadcastIsAfterItsTurn: who brings what is for many goes on at once, and what comes behind keeps its place. Only when much waits
// does it wait, too, and nothing is dropped.
func TestBroadcastIsAfterItsTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var clients []*websocket.Conn
	for i := range together + 2 {
		clients = append(clients, r.open(fmt.Sprint(i)))
	}
	r.turn = make(chan struct{})
	goOn := sync.OnceFunc(func() { close(r.turn) })
	t.Cleanup(goOn)
	first := r.next()
	r.take(first, say("all"))
	last := r.next()
	r.take(last, protocol.SocketFrame{Gateway: "here", Conn: 1, Text: new(protocol.FrameText("alone"))})
	l := r.gateway.find(room)
	if r.gateway.Has(room, first) || l.miss(t.Context(), last) {
		t.Fatal("it was given out in the turn, or is held for lost")
	}
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		for range 2 * ahead {
			r.take(r.next(), say("more"))
		}
	}()
	natstest.Eventually(t, soon, "so much waits", func() bool { return len(l.filling) == ahead })
	select {
	case <-taken:
		t.Error("more than that waits")
	default:
	}
	goOn()
	<-taken
	for i, ws := range clients {
		expect(t, ws, "all")
		if i == 0 {
			expect(t, ws, "alone")
		}
		for range 2 * ahead {
			expect(t, ws, "more")
		}
	}
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
