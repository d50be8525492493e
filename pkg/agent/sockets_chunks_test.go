package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/skein-run/skein/internal/gateway"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// Tail answers in parts, as the test wants.
func (r *room) Tail(ctx context.Context, out *Chunks[string], n int) (string, error) {
	return r.tail(ctx, r, out, n)
}

// Pour answers in parts that no JSON is, and has no result.
func (r *room) Pour(ctx context.Context, out *Chunks[any], text string) error {
	if err := out.Send(ctx, text); err != nil {
		return err
	}
	return out.Send(ctx, func() {})
}

func rpcChunk(id, result string) string {
	return fmt.Sprintf(`{"type":"rpc","id":%q,"success":true,"result":%s,"done":false}`, id, result)
}

// TestChunks: what a method sends in parts comes in order, after what it has sent before, and before what it sends later.
func TestChunks(t *testing.T) {
	t.Parallel()
	prepare := func(r *room, goOn chan struct{}) {
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], n int) (string, error) {
			if n == 0 {
				return "nothing", nil
			}
			if n < 0 {
				return "", errors.Join(r.log(ctx, "kept"), out.Send(ctx, "one"), r.log(ctx, "dropped"), errors.New("no more"))
			}
			for i := range n {
				if _, err := r.AddTo(ctx, 1, ""); err != nil {
					return "", err
				}
				if err := out.Send(ctx, fmt.Sprint("in ", i)); err != nil {
					return "", err
				}
			}
			err := Outside(ctx, func(ctx context.Context) error {
				if err := out.Send(ctx, "out"); err != nil {
					return err
				}
				return await(ctx, goOn)
			})
			return "end", errors.Join(err, Broadcast(ctx, Text("before the end")))
		}
	}
	eachRoom(t, func(t *testing.T, start startRoom) {
		goOn := make(chan struct{})
		r, gate := start(func(r *room) { prepare(r, goOn) })
		c := gate.dial(t, roomPath)
		c.expect(identity("jo"))
		c.send(rpc("1", "tail", `[2]`))
		c.expect(state(`{"n":1}`), rpcChunk("1", `"in 0"`), state(`{"n":2}`), rpcChunk("1", `"in 1"`), rpcChunk("1", `"out"`))
		c.send(rpc("2", "count", `[]`)) // the call is outside
		c.expect(rpcDone("2", "2"))
		goOn <- struct{}{}
		c.expect("before the end", rpcDone("1", `"end"`))
		c.send(rpc("1", "tail", `[0]`))
		c.expect(rpcDone("1", `"nothing"`))
		c.send(rpc("1", "tail", `[-1]`))
		c.expect(state(`{"n":2,"log":["kept"]}`), rpcChunk("1", `"one"`), rpcError("1", "no more"))
		c.send(rpc("1", "pour", `["a"]`))
		c.expect(rpcChunk("1", `"a"`), rpcError("1", "encode chunk of type func(): json: unsupported type: func()"))
		c.send(rpc("1", "tail", `[]`))
		c.expect(rpcError("1", "Method tail takes 1 argument (a whole number of 64 bits), got 0"))
		r.awaitLog(t, "jo", "kept")
	})
}

// TestChunkLimits: a chunk of more than a frame is refused, smaller ones go on; many large ones come whole.
func TestChunkLimits(t *testing.T) {
	t.Parallel()
	prepare := func(r *room) {
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], n int) (string, error) {
			if err := out.Send(ctx, strings.Repeat("x", 512<<10)); err == nil {
				return "", errors.New("a frame over the limit was sent")
			}
			for i := range n {
				if err := out.Send(ctx, fmt.Sprint(i)+strings.Repeat(`"`, 200_000)); err != nil {
					return "", err
				}
			}
			return "", out.Send(ctx, strings.Repeat("x", 512<<10))
		}
	}
	bothRooms(t, prepare, func(t *testing.T, _ *rig, gate *testHost) {
		c := gate.dial(t, roomPath)
		c.expect(identity("jo"))
		c.send(rpc("1", "tail", `[20]`))
		for i := range 20 {
			c.expect(rpcChunk("1", `"`+fmt.Sprint(i)+strings.Repeat(`\"`, 200_000)+`"`))
		}
		c.expect(rpcError("1", `frames of agent "jo" for clients have 524351 bytes in one turn, at most 524288 are allowed`))
	})
}

// TestChunksForWhoLeaves: the context of the method ends when its client has gone, also before the first chunk.
func TestChunksForWhoLeaves(t *testing.T) {
	t.Parallel()
	prepare := func(r *room, said chan error) {
		r.closed = func(context.Context, *room, *Connection, Closed) error { return nil }
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], n int) (string, error) {
			said <- nil
			wait := func(inner context.Context) error {
				for i := range n {
					if err := out.Send(inner, fmt.Sprint(i)); err != nil {
						return err
					}
				}
				<-inner.Done()
				return nil
			}
			if n < 0 {
				_ = wait(ctx)
			} else if err := Outside(ctx, wait); err != nil { // it left before the last chunk was known to have come
				said <- err
				return "", err
			}
			said <- errors.Join(context.Cause(ctx), out.Send(context.WithoutCancel(ctx), "late"))
			return "", nil
		}
	}
	eachRoom(t, func(t *testing.T, start startRoom) {
		said := make(chan error, 10)
		_, gate := start(func(r *room) { prepare(r, said) }, toldAtOnce)
		for _, n := range []int{0, 2, -1} {
			c := gate.dial(t, roomPath)
			c.expect(identity("jo"))
			c.send(rpc("1", "tail", fmt.Sprintf(`[%d]`, n)))
			_ = awaitTurn(t, "the method has begun", said)
			for i := range n {
				c.expect(rpcChunk("1", fmt.Sprintf(`"%d"`, i)))
			}
			if err := c.ws.CloseNow(); err != nil {
				t.Fatal(err)
			}
			if err := awaitTurn(t, "the method knows", said); !errors.Is(err, ErrClientGone) {
				t.Errorf("the method ended with %v", err)
			}
		}
	})
}

// TestChunksForSlowClients: the method waits for its client, which misses nothing, and is not closed for that.
func TestChunksForSlowClients(t *testing.T) {
	t.Parallel()
	const n, size = 80, 256 << 10 // more than all buffers on the way hold
	prepare := func(r *room, sent *atomic.Int64) {
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], _ int) (string, error) {
			return "end", Outside(ctx, func(ctx context.Context) error {
				for i := range n {
					if err := out.Send(ctx, fmt.Sprint(i, strings.Repeat(" ", size))); err != nil {
						return err
					}
					sent.Add(1)
				}
				return nil
			})
		}
	}
	eachRoom(t, func(t *testing.T, start startRoom) {
		var sent atomic.Int64
		_, gate := start(func(r *room) { prepare(r, &sent) })
		c := gate.dial(t, roomPath)
		c.expect(identity("jo"))
		c.send(rpc("1", "tail", `[0]`))
		last, same := int64(0), 0
		natstest.Eventually(t, soon, "the method waits", func() bool {
			now := sent.Load()
			if same++; now != last || now == 0 {
				last, same = now, 0
			}
			return same > 20
		})
		if last == n {
			t.Error("all was sent though nothing was read")
		}
		for range 200 { // nearly as many as may wait, and the chunks do not count
			if status, _ := gate.call(t, http.MethodPost, roomPath+"?say=x", ""); status != http.StatusOK {
				t.Fatal(status)
			}
		}
		for i := range n {
			got := ""
			for got = "x"; got == "x"; {
				var err error
				if got, err = c.next(); err != nil {
					t.Fatal(err)
				}
			}
			if !strings.HasPrefix(got, fmt.Sprintf(`{"type":"rpc","id":"1","success":true,"result":"%d `, i)) {
				t.Fatalf("chunk %d is %.80s", i, got)
			}
		}
	})
}

// TestChunksOfAKilledHost: the client has what was sent, once, and then an error; the call is not begun anew, and the socket stays.
func TestChunksOfAKilledHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var begun atomic.Int64
	classes := rooms(func(r *room) {
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], n int) (string, error) {
			begun.Add(1)
			return "", Outside(ctx, func(ctx context.Context) error {
				for i := range n {
					if err := out.Send(ctx, fmt.Sprint(i)); err != nil {
						return err
					}
				}
				<-ctx.Done()
				return nil
			})
		}
	})
	gate := r.host(t, desks(nil), timings(quick))
	owner := r.host(t, classes, timings(quick))
	c := gate.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send(rpc("1", "tail", `[3]`))
	c.expect(rpcChunk("1", `"0"`), rpcChunk("1", `"1"`), rpcChunk("1", `"2"`))
	r.host(t, classes, timings(quick))
	owner.kill(t)
	c.expect(rpcError("1", "the call was applied, its result is lost"))
	c.send(rpc("2", "count", `[]`))
	c.expect(rpcDone("2", "0"))
	if begun.Load() != 1 {
		t.Errorf("the method was begun %d times", begun.Load())
	}
}

// TestChunksEndWithTheirHost: at its shutdown at once, so that it is not held up; the socket goes on at another owner.
func TestChunksEndWithTheirHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := rooms(func(r *room) {
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], _ int) (string, error) {
			return "", Outside(ctx, func(ctx context.Context) error {
				if err := out.Send(ctx, "one"); err != nil {
					return err
				}
				<-ctx.Done()
				return context.Cause(ctx)
			})
		}
	})
	gate := r.host(t, desks(nil))
	owner := r.host(t, classes)
	c := gate.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send(rpc("1", "tail", `[1]`))
	c.expect(rpcChunk("1", `"one"`))
	r.host(t, classes)
	if err := owner.stop(); err != nil {
		t.Error(err)
	}
	c.expect(rpcError("1", ErrShutdown.Error()))
	c.send(rpc("2", "count", `[]`))
	c.expect(rpcDone("2", "0"))
}

// TestChunksOfAKilledGateway: the method learns that nobody takes its chunks.
func TestChunksOfAKilledGateway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	said := make(chan error, 1)
	classes := rooms(func(r *room) {
		r.tail = func(ctx context.Context, r *room, out *Chunks[string], _ int) (string, error) {
			return "", Outside(ctx, func(ctx context.Context) error {
				if err := out.Send(ctx, "one"); err != nil {
					return err
				}
				<-ctx.Done()
				said <- context.Cause(ctx)
				return nil
			})
		}
	})
	impatient := timings(func(t *timing) { quick(t); t.acceptEvery /= 10 })
	gate, _ := r.host(t, desks(nil), impatient), r.host(t, classes, impatient)
	c := gate.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send(rpc("1", "tail", `[1]`))
	c.expect(rpcChunk("1", `"one"`))
	gate.kill(t)
	if err := awaitTurn(t, "the method knows", said); !errors.Is(err, ErrClientGone) {
		t.Errorf("the method ended with %v", err)
	}
}

// TestChunksAreLost on their way: whoever passes them on asks for them again, and its client gets each once.
func TestChunksAreLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	words := r.hear(t, protocol.HostSubject(testProject, "owner"))
	var got []string
	gate := &host{name: testProject, nc: r.nc, times: defaultTiming(), log: slog.New(slog.DiscardHandler)}
	e := gate.newFrameErrand(roomNamed("jo"), protocol.SocketUp{Gateway: "here", Conn: 7, Number: 2, Call: &protocol.SocketCalled{ID: "1"}},
		gateway.Underway{Chunk: func(text []byte, _ protocol.SocketPlace) { got = append(got, string(text)) }})
	defer e.parts.end(true)
	hear := func(reply protocol.Reply) {
		t.Helper()
		if err := e.heard(reply); err != nil {
			t.Fatal(err)
		}
	}
	part := func(n int) protocol.Reply {
		return protocol.Reply{Stream: &protocol.StreamPart{Number: n, Data: fmt.Append(nil, n)}}
	}
	asksFor := func(taken int) {
		t.Helper()
		for {
			m := awaitTurn(t, fmt.Sprintf("chunk %d is asked for", taken+1), words)
			var word protocol.Request
			if err := json.Unmarshal(m.Data, &word); err != nil || word.ID != e.parts.id {
				t.Fatalf("%s, %v", m.Data, err)
			}
			if word.Word.Missing && word.Word.Taken == taken {
				return
			}
		}
	}
	hear(protocol.Reply{Accepted: true, Owner: "owner", Sent: 1}) // and the first is lost
	asksFor(0)
	hear(part(1))
	hear(part(3))
	asksFor(1)
	for _, n := range []int{1, 2, 2, 3} {
		hear(part(n))
	}
	if text := strings.Join(got, ""); text != "123" || !e.isWhole(part(4)) || e.isWhole(part(5)) {
		t.Errorf("passed on %q, whole with the next: %v, with one after that: %v", text, e.isWhole(part(4)), e.isWhole(part(5)))
	}
}

type misplaced struct{ Base[int] }

func (m *misplaced) Late(context.Context, int, *Chunks[int]) error { return nil }
func (m *misplaced) ByValue(context.Context, Chunks[int]) error    { return nil }
func (m *misplaced) Fine(context.Context, *Chunks[int]) error      { return nil }

// TestChunksAreForClients: other callers and misplaced parameters are refused.
func TestChunksAreForClients(t *testing.T) {
	t.Parallel()
	make := func() *misplaced { return &misplaced{} }
	for _, test := range []struct {
		option ClassOption
		want   string
	}{
		{Clients((*misplaced).Fine), ""},
		{Clients((*misplaced).Late), "method Late has a parameter *agent.Chunks[int]; a *agent.Chunks is wanted, as the first one after the context"},
		{Clients((*misplaced).ByValue), "method ByValue has a parameter agent.Chunks[int]"},
		{Callable((*misplaced).Fine), "method Fine has the signature"},
	} {
		err := Define("Misplaced", make, test.option).Err()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("Define: %v, want %q", err, test.want)
		}
	}
	if err := (&Chunks[int]{}).Send(t.Context(), 1); !errors.Is(err, ErrNoTurn) {
		t.Errorf("Send out of a call: %v", err)
	}
}
