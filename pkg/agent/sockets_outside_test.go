package agent

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
)

// awaitApplied waits until the record says of the first connection of a room which frame was applied last, or that it is not open (0).
func (r *rig) awaitApplied(t *testing.T, gate *testHost, want uint64) {
	t.Helper()
	natstest.Eventually(t, soon, "the mark of the connection is right", func() bool {
		applied, _ := r.roomRecord(t, "jo").Gateways[gatewayOf(gate)].Open.Applied(1)
		return applied == want
	})
}

// TestFramesPassOneThatIsOutside: when a turn comes back from outside, and is stored, its frame is not the last one that was applied, if others
// have passed it: else those would be applied again if the host died.
func TestFramesPassOneThatIsOutside(t *testing.T) {
	t.Parallel()
	goOn := map[string]chan struct{}{"1": make(chan struct{}), "2": make(chan struct{})}
	r := newRig(t)
	h := r.host(t, rooms(func(r *room) {
		r.message = func(ctx context.Context, r *room, _ *Connection, m Message) error {
			if err := Outside(ctx, func(ctx context.Context) error { return await(ctx, goOn[m.Text]) }); err != nil {
				return err
			}
			return r.log(ctx, m.Text)
		}
	}))
	c := h.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send("1")
	c.send("2")
	r.awaitApplied(t, h, 3)
	goOn["1"] <- struct{}{}
	r.awaitLog(t, "jo", "1")
	r.awaitApplied(t, h, 3)
	goOn["2"] <- struct{}{}
	r.awaitLog(t, "jo", "1", "2")
	r.awaitApplied(t, h, 3)
}

// TestOutsideBehindASlowClient: frames pass a call that is outside although its client does not take the chunks that were sent before.
func TestOutsideBehindASlowClient(t *testing.T) {
	t.Parallel()
	said := make(chan string, 10)
	r := newRig(t)
	h := r.host(t, rooms(func(r *room) {
		r.closed = func(context.Context, *room, *Connection, Closed) error { return nil }
		r.tail = func(ctx context.Context, _ *room, out *Chunks[string], n int) (string, error) {
			for full := false; !full; {
				brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
				full = out.Send(brief, strings.Repeat("x", n)) != nil
				cancel()
			}
			return "", Outside(ctx, func(ctx context.Context) error {
				said <- "outside"
				<-ctx.Done()
				return nil
			})
		}
		r.message = func(_ context.Context, _ *room, _ *Connection, m Message) error { said <- m.Text; return nil }
	}))
	c := h.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send(rpc("1", "tail", `[100000]`))
	c.send("meanwhile")
	for _, want := range []string{"outside", "meanwhile"} {
		if got := awaitTurn(t, want, said); got != want {
			t.Errorf("the room says %q, want %q", got, want)
		}
	}
}

// TestSocketEndsWhileATurnIsOutside: the turn does not open the connection again when it comes back and is stored.
func TestSocketEndsWhileATurnIsOutside(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"OnConnect", "OnMessage"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			goOn := make(chan struct{})
			stay := func(ctx context.Context, r *room, c *Connection) error {
				if err := Outside(ctx, func(ctx context.Context) error { return await(ctx, goOn) }); err != nil {
					return err
				}
				if err := c.SetState(ctx, "late"); err != nil {
					return err
				}
				return r.log(ctx, "back")
			}
			r := newRig(t)
			h := r.host(t, rooms(func(r *room) {
				if hook == "OnConnect" {
					r.connect = func(ctx context.Context, r *room, c *Connection, _ *http.Request) error { return stay(ctx, r, c) }
				}
				r.message = func(ctx context.Context, r *room, c *Connection, _ Message) error { return stay(ctx, r, c) }
			}))
			c := h.dial(t, roomPath+"?_pk=c")
			c.expect(identity("jo"))
			if hook == "OnMessage" {
				c.send("stay")
				r.awaitApplied(t, h, 2)
			}
			if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
			r.awaitLog(t, "jo", "closed c")
			goOn <- struct{}{}
			r.awaitLog(t, "jo", "closed c", "back")
			if found := r.roomRecord(t, "jo").Gateways[gatewayOf(h)]; len(found.Open) > 0 {
				t.Errorf("gateway %+v, want no open connection", found)
			}
		})
	}
}

// TestConnectFailsAfterSave: a connection that OnConnect has opened early, by Save, and refused then, has its end as any other.
func TestConnectFailsAfterSave(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, rooms(func(r *room) {
		r.connect = func(ctx context.Context, r *room, _ *Connection, _ *http.Request) error {
			if err := r.log(ctx, "opened"); err != nil {
				return err
			}
			if err := Save(ctx); err != nil {
				return err
			}
			return &Error{Status: http.StatusForbidden, Message: "not you"}
		}
	}))
	c := h.dial(t, roomPath+"?_pk=c")
	c.expect(identityBefore("jo"), state(`{"n":0,"log":["opened"]}`))
	c.expectClose(1008, "not you")
	r.awaitLog(t, "jo", "opened", "closed c")
}

// TestOnCloseDoesNotReturn: the connection has ended all the same, and the agent goes on.
func TestOnCloseDoesNotReturn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	forever := make(chan struct{})
	said := make(chan error, 8)
	h := r.host(t, rooms(func(r *room) {
		r.closed = func(context.Context, *room, *Connection, Closed) error { <-forever; return nil }
		r.failed = func(_ context.Context, _ *room, err error) error { said <- err; return nil }
	}, TurnLimit(2*time.Second)), timings(func(t *timing) { t.stuckAfter = 20 * time.Millisecond }))
	t.Cleanup(func() { close(forever) })
	c := h.dial(t, roomPath+"?_pk=c")
	c.expect(identity("jo"))
	if err := c.ws.CloseNow(); err != nil {
		t.Error(err)
	}
	if err := awaitTurn(t, "OnError is told", said); !errors.Is(err, errStuck) {
		t.Errorf("OnError is told %v", err)
	}
	r.awaitApplied(t, h, 0)
	h.dial(t, roomPath).expect(identity("jo"))
}
