package gateway

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestPingBehindASlowFrame: who takes a frame slowly is not taken for gone, though no ping reaches it.
func TestPingBehindASlowFrame(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Stall, l.WaitingBytes = soon, 1<<30 })
	ws := r.open("a")
	large := strings.Repeat("x", 8<<20)
	r.take(r.next(), say(large))
	_, frame, err := ws.Reader(t.Context()) // it is on its way
	if err != nil {
		t.Fatal(err)
	}
	c := r.gateway.all()[0]
	c.ping(t.Context())
	natstest.Eventually(t, soon, "the ping is given up", func() bool { return !c.pinged.Load() })
	r.take(r.next(), say("after"))
	if got, err := io.ReadAll(frame); err != nil || string(got) != large {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	expect(t, ws, "after")
}

// TestSlowFrameOfAClient: who sends a frame slowly is heard before it is whole.
func TestSlowFrameOfAClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	tcp, err := net.Dial("tcp", strings.TrimPrefix(r.url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	half := "\x81\xfe\xff\xff\x00\x00\x00\x00" + strings.Repeat("x", 30<<10)
	if _, err := fmt.Fprint(tcp, "GET /?_pk=a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", half); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "the client is heard", func() bool {
		all := r.gateway.all()
		return len(all) == 1 && all[0].heard.Load() > 0
	})
}

// TestChunksOfAnswers: they come one by one, after what was sent before them, and nobody waits for a client that has gone.
func TestChunksOfAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Gap = soon })
	passed, goOn := make(chan string, 10), make(chan struct{})
	large := strings.Repeat("x", 8<<20)
	r.bring = func(up protocol.SocketUp, u Underway) (protocol.SocketAck, error) {
		if up.Call == nil {
			return protocol.SocketAck{}, nil
		}
		place := r.next()
		go func() {
			<-goOn
			r.take(place, say("before"))
		}()
		for _, chunk := range []string{"1", "2", large} {
			u.Chunk([]byte(chunk), place)
			passed <- chunk
		}
		u.Chunk([]byte(large), place)
		<-u.Gone
		u.Chunk([]byte("late"), place)
		passed <- "all"
		return protocol.SocketAck{Place: place, Answers: []protocol.FrameText{"late"}}, nil
	}
	ws := r.open("a")
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"rpc","id":"1","method":"tail","args":[]}`)); err != nil {
		t.Fatal(err)
	}
	goOn <- struct{}{}
	expect(t, ws, "before", "1", "2", large)
	for range 300 { // more than may wait beside the chunk
		r.take(r.next(), protocol.SocketFrame{State: true})
	}
	for _, want := range []string{"1", "2", large} {
		if got := <-passed; got != want {
			t.Fatalf("passed %.10q", got)
		}
	}
	if err := ws.CloseNow(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-passed:
	case <-time.After(soon):
		t.Fatal("the chunks wait for a client that has gone")
	}
}
