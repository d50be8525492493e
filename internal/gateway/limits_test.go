package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestFullHost: one more socket than the host may hold is refused before it is one.
func TestFullHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Sockets = 1 })
	a := r.open("a")
	_, response, err := websocket.Dial(t.Context(), r.url, nil)
	if response == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("dial = %v, %v; want 503", response, err)
	}
	if err := a.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "the socket has ended", func() bool { return r.gateway.find(room) == nil })
	r.open("b")
}

// TestFastClient: who sends more than may be is held up, and loses nothing.
func TestFastClient(t *testing.T) {
	t.Parallel()
	const perSecond, n = 50, 60
	r := newRig(t, func(l *Limits) { l.Rate = perSecond })
	var order, want []string
	r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		order = append(order, up.Text)
		return protocol.SocketAck{Place: r.place}, nil
	}
	ws := r.open("a")
	began := time.Now()
	for i := range n {
		want = append(want, fmt.Sprint(i))
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(want[i])); err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, soon, "all are brought", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(order) == n
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.Join(order, " ") != strings.Join(want, " ") {
		t.Errorf("brought %q", order)
	}
	if took := time.Since(began); took < (n-perSecond-1)*time.Second/perSecond {
		t.Errorf("%d frames were taken in %s", n, took)
	}
}

// TestHeldClientIsNotDead: a client of which nothing is read cannot answer, and is not held for gone.
func TestHeldClientIsNotDead(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Dead, l.Waiting = 20*time.Millisecond, 1 })
	goOn := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(letGo)
	r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) {
		<-goOn
		return protocol.SocketAck{Place: r.place}, nil
	}
	ws := r.open("a")
	for range 3 {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
			t.Fatal(err)
		}
	}
	c := r.gateway.all()[0]
	natstest.Eventually(t, soon, "nothing is read", func() bool {
		c.in.mu.Lock()
		defer c.in.mu.Unlock()
		return c.in.room != nil
	})
	c.ping(t.Context())
	natstest.Eventually(t, soon, "the ping has no answer", func() bool { return !c.pinged.Load() })
	letGo()
	natstest.Eventually(t, soon, "all frames are taken", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.taken == 3
	})
}

// TestTooManyCalls: calls that are outside are as many as may be; one more is answered with an error.
func TestTooManyCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Calls = 2 })
	goOn := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(letGo)
	r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) {
		<-goOn
		return protocol.SocketAck{Answers: []protocol.FrameText{protocol.FrameText(up.Call.ID)}}, nil
	}
	ws := r.open("a")
	for i := range 3 {
		frame := fmt.Sprintf(`{"type":"rpc","id":"%d","method":"m","args":[]}`, i)
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, ws, `{"type":"rpc","id":"2","success":false,"error":"2 calls of the connection are not answered yet"}`)
	letGo()
	for range 2 {
		if got, err := read(t, ws); got != "0" && got != "1" {
			t.Errorf("frame %q, %v; want the answer", got, err)
		}
	}
}

// broken is a log that tells when a socket has broken.
type broken struct {
	slog.Handler
	told chan struct{}
}

func (broken) Enabled(context.Context, slog.Level) bool { return true }

func (b broken) Handle(_ context.Context, line slog.Record) error {
	if line.Message == "the socket broke" {
		b.told <- struct{}{}
	}
	return nil
}

func (b broken) WithAttrs([]slog.Attr) slog.Handler { return b }

// TestClientsThatLeaveBeforeTheyAreConnected: nobody who waits for the same agent waits for them, unless they have sent something.
func TestClientsThatLeaveBeforeTheyAreConnected(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	left := make(chan struct{}, 8)
	r.gateway.mu.Lock()
	r.gateway.log = slog.New(broken{told: left})
	r.gateway.mu.Unlock()
	enlisting, goOn := make(chan struct{}, 8), make(chan struct{})
	r.enlisting = func() { enlisting <- struct{}{}; <-goOn }
	brought := make(chan string, 1)
	r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) {
		brought <- up.Text
		return protocol.SocketAck{}, nil
	}
	r.dial("a")
	<-enlisting
	mute, brief := r.dial("mute"), r.dial("brief")
	if err := brief.Write(t.Context(), websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	for _, ws := range []*websocket.Conn{mute, brief} {
		_ = ws.CloseNow()
		<-left
	}
	close(goOn)
	if got := <-brought; got != "bye" {
		t.Errorf("brought is %q", got)
	}
	natstest.Eventually(t, soon, "who has sent nothing is gone", func() bool {
		r.gateway.mu.Lock()
		defer r.gateway.mu.Unlock()
		return r.gateway.links[room].users <= 2
	})
	if got := fmt.Sprint(r.stored()); got != "[0:1 0:2]" {
		t.Errorf("stored were %s, want those of two connections", got)
	}
}

// TestManyFramesThatCannotBeBrought: all clients may have one on its way when their agents are lost. The log tells of some, not of each.
func TestManyFramesThatCannotBeBrought(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var warnings atomic.Int64
	r.gateway.log = slog.New(counter{&warnings})
	r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) {
		return protocol.SocketAck{Unknown: true}, nil
	}
	const many = complaintsAtOnce + 20
	for i := range many {
		ws := r.open(fmt.Sprint(i))
		if err := ws.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		expectClose(t, ws, websocket.StatusServiceRestart, "does not know the connection")
	}
	if n := warnings.Load(); n < complaintsAtOnce || n >= many {
		t.Errorf("%d warnings for %d sockets, want %d and few more", n, many, complaintsAtOnce)
	}
}

// counter counts warnings.
type counter struct{ n *atomic.Int64 }

func (counter) Enabled(context.Context, slog.Level) bool { return true }

func (c counter) Handle(_ context.Context, line slog.Record) error {
	if line.Level >= slog.LevelWarn {
		c.n.Add(1)
	}
	return nil
}

func (c counter) WithAttrs([]slog.Attr) slog.Handler { return c }

func (c counter) WithGroup(string) slog.Handler { return c }
