package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

const soon = natstest.Patience

var room = protocol.Agent{Project: "p", Class: "Room", Name: "jo"}

// rig is a gateway with a host that a test plays.
type rig struct {
	t       *testing.T
	busy    atomic.Bool
	gateway *Gateway
	url     string
	// bring plays the agent, for frames that are no connect.
	bring func(up protocol.SocketUp, u Underway) (protocol.SocketAck, error)

	requests sync.WaitGroup // under way

	// turn, if set, holds up what waits for turns until it is closed.
	turn chan struct{}

	// large holds large states back, unread is why they cannot be read.
	large  chan struct{}
	unread error

	mu     sync.Mutex // guards what follows
	place  protocol.SocketPlace
	closed []protocol.SocketUp
	taken  int
	// lost keeps the batches from coming.
	lost bool
	// enlisting, if set, is called while a connection is stored.
	enlisting func()
	// listed are the rows and how many connections of them were stored, refuse is why they are not.
	listed []string
	refuse error
}

func newRig(t *testing.T, change func(*Limits)) *rig {
	t.Helper()
	r := &rig{t: t, place: protocol.SocketPlace{Life: 1, Since: 1}}
	limits := DefaultLimits()
	limits.Gap, limits.Wave, limits.Read = 20*time.Millisecond, time.Millisecond, soon
	if change != nil {
		change(&limits)
	}
	r.gateway = New("here", r, slog.New(slog.DiscardHandler), limits)
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.requests.Add(1)
		defer r.requests.Done()
		if err := r.gateway.Accept(ctx, w, q, Client{Agent: room, ID: q.URL.Query().Get("_pk"), Request: &protocol.HTTPRequest{}}); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	r.url = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() {
		cancel()
		r.gateway.Wait()
		server.Close()
	})
	return r
}

// IsBusy is as the test has it.
func (r *rig) IsBusy() bool {
	if r.turn != nil {
		<-r.turn
	}
	return r.busy.Load()
}

// LargeState has one, when the test lets it.
func (r *rig) LargeState(ctx context.Context, _ protocol.Object) (json.RawMessage, error) {
	if r.large != nil {
		<-r.large
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return json.RawMessage(`"large"`), r.unread
}

// Enlist notes who is there.
func (r *rig) Enlist(_ context.Context, _ protocol.Agent, row int, ids map[uint64]string) error {
	if r.enlisting != nil {
		r.enlisting()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed = append(r.listed, fmt.Sprintf("%d:%d", row, len(ids)))
	return r.refuse
}

// Bring opens every connection, and plays the rest by the test. Calls are outside.
func (r *rig) Bring(ctx context.Context, agent protocol.Agent, up protocol.SocketUp, u Underway) (protocol.SocketAck, error) {
	if up.Kind == protocol.SocketCall {
		u.Outside()
	}
	switch up.Kind {
	case protocol.SocketConnect:
		r.mu.Lock()
		lost := r.lost
		r.mu.Unlock()
		place := r.next()
		if !lost {
			r.take(place, protocol.SocketFrame{Gateway: "here", Conn: up.Conn, Set: up.Connection})
		}
		return protocol.SocketAck{Place: place}, nil
	case protocol.SocketClosed:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = append(r.closed, up)
		if len(r.closed) == 1 {
			return protocol.SocketAck{}, errors.New("not yet")
		}
		return protocol.SocketAck{}, nil
	}
	r.mu.Lock()
	r.taken++
	r.mu.Unlock()
	return r.bring(up, u)
}

func (r *rig) next() protocol.SocketPlace {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.place.Number++
	return r.place
}

func (r *rig) take(place protocol.SocketPlace, frames ...protocol.SocketFrame) {
	r.gateway.Take(context.Background(), room, protocol.SocketDown{Place: place, Frames: frames, State: json.RawMessage(`7`), Revision: place.Number})
}

func say(text string) protocol.SocketFrame {
	return protocol.SocketFrame{Text: new(protocol.FrameText(text))}
}

func (r *rig) dial(id string) *websocket.Conn {
	r.t.Helper()
	ws, _, err := websocket.Dial(r.t.Context(), r.url+"/?_pk="+id, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	r.t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// open waits until a connection is.
func (r *rig) open(id string) *websocket.Conn {
	r.t.Helper()
	ws := r.dial(id)
	natstest.Eventually(r.t, soon, "the connection is open", func() bool {
		l := r.gateway.find(room)
		if l == nil {
			return false
		}
		for _, c := range l.all() {
			if c.client.ID == id && c.isOpen() {
				return true
			}
		}
		return false
	})
	return ws
}

func read(t *testing.T, ws *websocket.Conn) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	_, data, err := ws.Read(ctx)
	return string(data), err
}

func expect(t *testing.T, ws *websocket.Conn, want ...string) {
	t.Helper()
	for _, one := range want {
		if got, err := read(t, ws); got != one {
			t.Fatalf("frame %q, %v; want %q", got, err, one)
		}
	}
}

func expectClose(t *testing.T, ws *websocket.Conn, code websocket.StatusCode, reason string) {
	t.Helper()
	got, err := read(t, ws)
	if ended, _ := errors.AsType[websocket.CloseError](err); ended.Code != code || !strings.Contains(ended.Reason, reason) {
		t.Fatalf("frame %q, %v; want a close with %d %q", got, err, code, reason)
	}
}

// TestBatchesComeOnceAndInOrder: what comes again is left, whoever sends it.
func TestBatchesComeOnceAndInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a, b := r.open("a"), r.open("b")
	first, second := r.next(), r.next()
	r.take(first, say("1"), protocol.SocketFrame{State: true})
	r.take(first, say("1 again"))
	two := protocol.FrameText("2")
	r.take(second, say("2"), protocol.SocketFrame{Text: &two, Except: []string{"a"}})
	r.take(first, say("1 late"))
	expect(t, a, "1", `{"type":"cf_agent_state","state":7}`, "2")
	expect(t, b, "1", `{"type":"cf_agent_state","state":7}`, "2", "2")
	r.take(protocol.SocketPlace{Life: 1, Since: 0, Number: 99}, say("of an older row"))
	r.take(r.next(), say("3"))
	expect(t, a, "3")
	expect(t, b, "3")
	r.take(protocol.SocketPlace{Life: 1, Since: 5, Number: 1}) // the agent has forgotten those that were open
	expectClose(t, a, websocket.StatusServiceRestart, "frames were lost")
	expectClose(t, b, websocket.StatusServiceRestart, "frames were lost")
}

// TestCompare: a gateway that was away closes what its agent does not know any more, and all if something does not come.
func TestCompare(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a, b := r.open("a"), r.open("b")
	compare := func(sent protocol.SocketPlace, look func() (map[uint64]uint64, error)) error {
		return r.gateway.Compare(t.Context(), room, func() (protocol.SocketPlace, map[uint64]uint64, error) {
			open, err := look()
			return sent, open, err
		})
	}
	place := r.place
	if err := compare(place, func() (map[uint64]uint64, error) { return nil, errors.New("not now") }); err == nil {
		t.Error("the record could not be read, and nobody says so")
	}
	var c *websocket.Conn
	if err := compare(place, func() (map[uint64]uint64, error) {
		c = r.open("c") // the record that is read may be older than this one
		return map[uint64]uint64{2: 1}, nil
	}); err != nil {
		t.Error(err)
	}
	expectClose(t, a, websocket.StatusServiceRestart, "does not know the connection")
	r.take(r.next(), say("1"))
	expect(t, b, "1")
	expect(t, c, "1")
	if err := compare(r.next(), func() (map[uint64]uint64, error) { return map[uint64]uint64{2: 1, 3: 1}, nil }); err != nil {
		t.Error(err)
	}
	expectClose(t, b, websocket.StatusServiceRestart, "frames were lost")
	expectClose(t, c, websocket.StatusServiceRestart, "frames were lost")
	if agents := r.gateway.Agents(); len(agents) > 1 || len(agents) == 1 && agents[0] != room {
		t.Errorf("sockets are held to %v", agents)
	}
}

// TestMissedBatch: who has missed something is closed, who came later is not.
func TestMissedBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.open("a")
	r.next()
	b := r.open("b")
	expectClose(t, a, websocket.StatusServiceRestart, "frames were lost")
	r.take(r.next(), say("hello"))
	expect(t, b, "hello")
}

// TestFramesAfterALoss: what a client had sent before it hears that something was lost for it does not come to the agent any more: it would
// find the connection as it was before what was lost.
func TestFramesAfterALoss(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	goOn := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(letGo)
	r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) {
		<-goOn
		return protocol.SocketAck{Place: r.next()}, nil // what it has sent is lost
	}
	ws := r.open("a")
	var c *conn
	for _, c = range r.gateway.find(room).all() {
	}
	for _, text := range []string{"1", "2", "3"} {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, soon, "all are read", func() bool {
		c.in.mu.Lock()
		defer c.in.mu.Unlock()
		return c.in.count == 3
	})
	letGo()
	expectClose(t, ws, websocket.StatusServiceRestart, "frames were lost")
	natstest.Eventually(t, soon, "the agent is told that the socket has ended", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.closed) > 0
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken != 1 {
		t.Errorf("%d frames were brought, want the first one", r.taken)
	}
}

// TestLostWelcome: a connection that the agent has opened, and whose first frames are lost, is closed.
func TestLostWelcome(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.lost = true
	expectClose(t, r.dial("a"), websocket.StatusServiceRestart, "frames were lost")
}

// TestSlowClients: the newest state takes the place of older ones that wait; a client that takes too little else is closed.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Waiting, l.WaitingBytes = 8, 1<<30 })
	ws := r.open("a")
	large := strings.Repeat("x", 8<<20) // more than what lies between here and there takes
	r.take(r.next(), say(large))
	for range 100 {
		r.take(r.next(), protocol.SocketFrame{State: true})
	}
	last := r.next()
	r.take(last, say("after"))
	expect(t, ws, large, `{"type":"cf_agent_state","state":7}`, "after")
	for range 20 {
		r.take(r.next(), say(large))
	}
	for {
		_, err := read(t, ws)
		if err == nil {
			continue
		}
		if ended, _ := errors.AsType[websocket.CloseError](err); ended.Code != websocket.StatusTryAgainLater {
			t.Errorf("slow client: %v, want a close with 1013", err)
		}
		return
	}
}

// TestBackPressure: while the agent is busy, no more is read than may wait, and nothing is lost.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Waiting = 4 })
	goOn := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(letGo)
	var order []string
	r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) {
		<-goOn
		r.mu.Lock()
		defer r.mu.Unlock()
		order = append(order, up.Text)
		return protocol.SocketAck{Place: r.place}, nil
	}
	ws := r.open("a")
	var c *conn
	for _, c = range r.gateway.find(room).all() {
	}
	const n = 50
	var want []string
	for i := range n {
		text := fmt.Sprint(i)
		want = append(want, text)
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, soon, "as many wait as may", func() bool {
		c.in.mu.Lock()
		defer c.in.mu.Unlock()
		return c.in.count == 4 && c.in.room != nil
	})
	letGo()
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
}

// TestFrameThatCannotBeBrought: the socket is closed, and the agent told of its end until it knows.
func TestFrameThatCannotBeBrought(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ack  protocol.SocketAck
		err  error
		code websocket.StatusCode
	}{
		"fate unknown": {err: errors.New("no idea"), code: websocket.StatusServiceRestart},
		"no host":      {err: fmt.Errorf("%w", &Close{Code: 1013, Reason: "no host"}), code: websocket.StatusTryAgainLater},
		"unknown":      {ack: protocol.SocketAck{Unknown: true}, code: websocket.StatusServiceRestart},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) { return test.ack, test.err }
			ws := r.open("a")
			if err := ws.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
				t.Fatal(err)
			}
			expectClose(t, ws, test.code, "")
			natstest.Eventually(t, soon, "the agent knows", func() bool { return r.gateway.find(room) == nil })
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.closed) != 2 || r.closed[0].Number != 3 || r.closed[1].Number != 3 || r.closed[1].Close.Code != int(test.code) {
				t.Errorf("the agent was told %+v, want twice the end as frame 3", r.closed)
			}
		})
	}
}

// TestEnlisting: a connection is known to be there before it is opened, and until it has ended.
func TestEnlisting(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a, b := r.open("a"), r.open("b")
	for _, ws := range []*websocket.Conn{a, b} {
		if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
	}
	natstest.Eventually(t, soon, "both have ended", func() bool { return r.gateway.find(room) == nil })
	r.mu.Lock()
	if fmt.Sprint(r.listed) != "[0:1 0:2 0:0]" {
		t.Errorf("stored were %v, want a row with 1 connection, then 2, and none at the end", r.listed)
	}
	r.refuse = errors.New("no")
	r.mu.Unlock()
	expectClose(t, r.dial("c"), websocket.StatusServiceRestart, "")
}

// TestFrameWithTheHandshake: what a client has sent before it knows that it has a socket is not lost.
func TestFrameWithTheHandshake(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	brought := make(chan string, 2)
	r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) {
		brought <- up.Text
		return protocol.SocketAck{}, nil
	}
	tcp, err := net.Dial("tcp", strings.TrimPrefix(r.url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	long := strings.Repeat("x", 100)
	frames := "\x81\x82\x00\x00\x00\x00hi" + "\x81\xe4\x00\x00\x00\x00" + long
	if _, err := fmt.Fprint(tcp, "GET /?_pk=a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", frames); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hi", long} {
		select {
		case got := <-brought:
			if got != want {
				t.Errorf("brought %q, want %q", got, want)
			}
		case <-time.After(soon):
			t.Fatalf("not in time: %q is brought", want)
		}
	}
}

// TestRequestEnds: a socket keeps nothing busy that its request has needed.
func TestRequestEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open("a")
	r.requests.Wait() // else this never ends
	if len(r.gateway.all()) != 1 {
		t.Error("the socket has ended with its request")
	}
}

// TestRows: many connections are in several rows; one that has room again is used again, and one that is empty is taken away, once.
func TestRows(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.PerRow = 2 })
	open := map[string]*websocket.Conn{}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		open[id] = r.open(id)
	}
	end := func(id string) {
		if err := open[id].Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Error(err)
		}
		natstest.Eventually(t, soon, id+" has ended", func() bool {
			return !slices.ContainsFunc(r.gateway.all(), func(c *conn) bool { return c.client.ID == id })
		})
	}
	end("b")
	r.open("f")
	end("c")
	end("d")
	natstest.Eventually(t, soon, "the row of both is taken away", func() bool { return slices.Contains(r.stored(), "1:0") })
	r.open("g")
	r.open("h")
	if got, want := fmt.Sprint(r.stored()), "[0:1 0:2 1:1 1:2 2:1 0:2 1:0 1:1 1:2]"; got != want {
		t.Errorf("stored were %v, want %v", got, want)
	}
	l := r.gateway.find(room)
	l.mu.Lock()
	gone := &row{number: 1, ids: map[uint64]string{}}
	l.mu.Unlock()
	if err := l.enlist(t.Context(), gone); err != nil || len(r.stored()) != 9 {
		t.Errorf("a row that was taken away before: %v, stored %v", err, r.stored())
	}
}

// TestRowThatCannotBeTakenAway is taken away later: who looks after the sockets of a lost host would find it, but not that of one that ends.
func TestRowThatCannotBeTakenAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ws := r.open("a")
	refuse := func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refuse = err
	}
	refuse(errors.New("no"))
	if err := ws.CloseNow(); err != nil {
		t.Error(err)
	}
	natstest.Eventually(t, soon, "it could not be stored", func() bool { return slices.Contains(r.stored(), "0:0") })
	refuse(nil)
	natstest.Eventually(t, soon, "nothing is left", func() bool { return r.gateway.find(room) == nil })
	if stored := r.stored(); stored[len(stored)-1] != "0:0" || len(stored) < 3 {
		t.Errorf("stored were %v, want an empty row until that has succeeded", stored)
	}
}

// stored are the rows that were.
func (r *rig) stored() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.listed)
}

// TestPings: a client that answers stays, one that does not is gone.
func TestPings(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Ping, l.Dead = 30*time.Millisecond, 5*time.Second }) // a busy machine answers late
	r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) { return protocol.SocketAck{}, nil }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { r.gateway.Run(ctx) })
	defer running.Wait()
	defer cancel()
	alive := r.open("alive").CloseRead(t.Context()) // it reads, so it answers
	r.open("mute")
	natstest.Eventually(t, soon, "the mute one is gone", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.closed) > 0
	})
	left := len(r.gateway.all())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed[0].Close.Code != int(websocket.StatusAbnormalClosure) || left == 0 || alive.Err() != nil {
		t.Errorf("closed %+v, %d are left, the other has ended: %v", r.closed[0].Close, left, alive.Err())
	}
}

// TestClientsMayAskWhetherTheyAreConnected: the answer comes from here, also while the agent takes its time.
func TestClientsMayAskWhetherTheyAreConnected(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	busy := make(chan struct{})
	r.bring = func(protocol.SocketUp, Underway) (protocol.SocketAck, error) {
		<-busy
		return protocol.SocketAck{}, nil
	}
	defer close(busy)
	c := r.open("a")
	for _, frame := range []string{"a message", `{"type":"skein_ping"}`} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != `{"type":"skein_pong"}` {
		t.Errorf("answered with %s, %v", got, err)
	}
}

// TestDrain: sockets are closed with 1001, and no more are taken.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.open("a")
	drained := make(chan bool)
	go func() { drained <- r.gateway.Drain(t.Context()) }()
	expectClose(t, a, websocket.StatusGoingAway, "shutting down")
	if !<-drained {
		t.Error("not all agents know")
	}
	if _, response, err := websocket.Dial(t.Context(), r.url, nil); response == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("dial while the host stops: %v, %v; want 503", response, err)
	}
}

// TestEndByThisSide: the agent hears of the code with which this side has closed a socket, also if nobody reads frames when the client
// answers. If it does not answer, the socket has broken.
func TestEndByThisSide(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		answers bool
		want    protocol.SocketClose
	}{
		{"the client answers", true, protocol.SocketClose{Code: 4001, Reason: "enough", Clean: true}},
		{"the client is gone", false, protocol.SocketClose{Code: 1006, Reason: "enough"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(l *Limits) { l.Waiting = 1 })
			begun, goOn := make(chan struct{}, 1), make(chan struct{})
			r.bring = func(up protocol.SocketUp, _ Underway) (protocol.SocketAck, error) {
				select {
				case begun <- struct{}{}:
				default:
				}
				<-goOn
				return protocol.SocketAck{}, nil
			}
			a := r.open("a")
			for range 2 { // the second one holds up who reads
				if err := a.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
					t.Fatal(err)
				}
			}
			<-begun
			if !row.answers {
				_ = a.CloseNow()
			}
			r.take(r.next(), protocol.SocketFrame{Gateway: "here", Conn: 1, Close: &protocol.SocketClose{Code: 4001, Reason: "enough"}})
			if row.answers {
				expectClose(t, a, 4001, "enough")
			}
			c := r.gateway.find(room).all()[0]
			<-c.shut
			close(goOn)
			natstest.Eventually(t, soon, "the agent is told", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.closed) > 0
			})
			r.mu.Lock()
			defer r.mu.Unlock()
			if got := *r.closed[0].Close; got != row.want {
				t.Errorf("the agent is told %+v, want %+v", got, row.want)
			}
		})
	}
}

// TestDrainOfThoseOnTheirWay: who was let in before the host stops, and waits for its turn to connect, is closed as all are.
func TestDrainOfThoseOnTheirWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	enlisting, goOn := make(chan struct{}, 8), make(chan struct{})
	r.enlisting = func() { enlisting <- struct{}{}; <-goOn }
	a := r.dial("a")
	<-enlisting
	b := r.dial("b")
	natstest.Eventually(t, soon, "both are let in", func() bool {
		r.gateway.mu.Lock()
		defer r.gateway.mu.Unlock()
		return r.gateway.links[room].users == 2
	})
	drained := make(chan bool, 1)
	go func() { drained <- r.gateway.Drain(t.Context()) }()
	expectClose(t, a, websocket.StatusGoingAway, "come back at another")
	r.gateway.closeAll(t.Context()) // what Drain does, to its end
	close(goOn)
	expectClose(t, b, websocket.StatusGoingAway, "come back at another")
	if !<-drained {
		t.Error("not all agents know")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, up := range r.closed {
		if up.Conn != 1 {
			t.Errorf("the agent was told of the end of connection %d, of which it knows nothing", up.Conn)
		}
	}
}

// TestTooManyConnections: one more than may be to an agent is refused, until one has ended.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.PerAgent = 2 })
	a := r.open("a")
	r.open("b")
	if _, response, err := websocket.Dial(t.Context(), r.url, nil); response == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("dial = %v, %v; want 503", response, err)
	}
	if err := a.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, soon, "another can be opened", func() bool {
		ws, _, err := websocket.Dial(t.Context(), r.url+"/?_pk=c", nil)
		if err == nil {
			t.Cleanup(func() { _ = ws.CloseNow() })
		}
		return err == nil
	})
}

// TestWaves: the sockets are not all closed at once.
func TestWaves(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(l *Limits) { l.Waves, l.Wave = 3, time.Hour })
	var all []*websocket.Conn
	for i := range 9 {
		all = append(all, r.open(fmt.Sprint(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan bool, 1)
	go func() { drained <- r.gateway.Drain(ctx) }()
	for _, n := range []int{2, 5, 8} { // with the numbers 3, 6 and 9
		expectClose(t, all[n], websocket.StatusGoingAway, "shutting down")
	}
	natstest.Eventually(t, soon, "the first wave has ended", func() bool { return len(r.gateway.all()) == 6 })
	cancel() // the grace is over: the others follow at once
	for _, n := range []int{0, 1, 3, 4, 6, 7} {
		expectClose(t, all[n], websocket.StatusGoingAway, "shutting down")
	}
	<-drained
}

// TestAttached: an owner is told of all connections, page by page.
func TestAttached(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	if !r.gateway.Attach(room, 0).None {
		t.Error("there are connections")
	}
	for i := range 3 {
		r.open(fmt.Sprint(i))
	}
	for _, c := range r.gateway.find(room).all() {
		c.link.mu.Lock()
		c.set.Identity = json.RawMessage(`"` + strings.Repeat("x", maxAttached/2) + `"`)
		c.link.mu.Unlock()
	}
	var ids []string
	pages := 0
	for after := uint64(0); ; pages++ {
		page := r.gateway.Attach(room, after)
		for _, one := range page.Connections {
			ids, after = append(ids, one.ID), one.Conn
		}
		if page.Place != r.place {
			t.Errorf("place %+v, want %+v", page.Place, r.place)
		}
		if !page.More {
			break
		}
	}
	if strings.Join(ids, "") != "012" || pages != 2 {
		t.Errorf("connections %q on %d pages", ids, pages+1)
	}
}
