package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestSocketsOutliveTheHostOfTheirAgent: two clients at one host talk through an agent at others, which are killed in the middle, again
// and again. Sockets stay open; no frame is lost or doubled, and all come in order.
func TestSocketsOutliveTheHostOfTheirAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := rooms(func(r *room) {
		r.message = func(ctx context.Context, r *room, _ *Connection, m Message) error {
			if err := r.log(ctx, m.Text); err != nil {
				return err
			}
			return Broadcast(ctx, Text(m.Text))
		}
	})
	gate := r.host(t, desks(nil), timings(quick)) // it has no rooms
	const kills, each = 3, 40
	owner := r.host(t, classes, timings(quick))
	a, b := gate.dial(t, roomPath+"?_pk=a"), gate.dial(t, roomPath+"?_pk=b")
	a.expect(identity("jo"))
	b.expect(identity("jo"))
	heard := make(chan []string, 2)
	for _, c := range []*socketClient{a, b} {
		go func() { heard <- c.hear(t.Context(), kills*each) }()
	}
	n := 0
	for range kills {
		heir := r.host(t, classes, timings(quick))
		for i := range each {
			if i == each/2 {
				owner.kill(t)
			}
			n++
			a.send(fmt.Sprint(n))
		}
		owner = heir
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i+1))
	}
	for range 2 {
		got := awaitTurn(t, "a client has heard all", heard)
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("heard %q, want each once and in order", got)
		}
	}
	r.awaitLog(t, "jo", want...)
}

// hear collects the messages that a client gets, without states, until there are so many. A frame that cannot be read ends it.
func (c *socketClient) hear(ctx context.Context, n int) (heard []string) {
	for len(heard) < n {
		_, data, err := c.ws.Read(ctx)
		if err != nil {
			return append(heard, err.Error())
		}
		if !json.Valid(data) || data[0] != '{' {
			heard = append(heard, string(data))
		}
	}
	return heard
}

// TestCallWhoseResultIsLost: a call that went outside and whose host dies is told to be applied, and is not applied again.
func TestCallWhoseResultIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside := make(chan struct{}, 8)
	goOn := make(chan struct{})
	prepare := func(r *room) {
		r.wait = func(ctx context.Context) error { outside <- struct{}{}; return await(ctx, goOn) }
	}
	gate := r.host(t, desks(nil), timings(quick))
	owner := r.host(t, rooms(prepare), timings(quick))
	c := gate.dial(t, roomPath)
	c.expect(identity("jo"))
	c.send(rpc("1", "long", `[]`))
	awaitTurn(t, "the call is outside", outside)
	heir := r.host(t, rooms(prepare), timings(quick))
	owner.kill(t)
	c.expect(rpcError("1", "the call was applied, its result is lost"))
	c.send(rpc("2", "count", `[]`))
	c.expect(rpcDone("2", "0"))
	if len(outside) != 0 {
		t.Error("the call was begun anew")
	}
	close(goOn)
	natstest.Eventually(t, soon, "the heir owns the agent", func() bool { return r.roomRecord(t, "jo").Owner != "" })
	if err := heir.stop(); err != nil {
		t.Error(err)
	}
}

// TestGatewayDies: each of its sockets gets its OnClose, once, whether the owner of the agent knew of them or died with it.
func TestGatewayDies(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"alone", "with the owner", "while the agent sleeps"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			options := []ClassOption{}
			if name == "while the agent sleeps" {
				options = append(options, IdleAfter(1))
			}
			classes := rooms(func(r *room) {
				r.closed = func(ctx context.Context, r *room, c *Connection, how Closed) error {
					if err := r.log(ctx, fmt.Sprintf("%s %d %v", c.ID(), how.Code, how.Clean)); err != nil {
						return err
					}
					if c.ID() == "b" {
						return errors.New("no luck") // it has ended all the same
					}
					return nil
				}
			}, options...)
			owner, gate := r.host(t, classes, timings(quick)), r.host(t, desks(nil), timings(quick))
			for _, id := range []string{"a", "b", "c"} {
				gate.dial(t, roomPath+"?_pk="+id).expect(identity("jo"))
			}
			gone := gate.dial(t, roomPath+"?_pk=gone")
			gone.expect(identity("jo"))
			if err := gone.ws.Close(1000, ""); err != nil {
				t.Fatal(err)
			}
			r.awaitLog(t, "jo", "gone 1000 true")
			witness := r.host(t, classes, timings(quick))
			gate.kill(t)
			if name == "with the owner" {
				owner.kill(t)
			}
			r.awaitLog(t, "jo", "gone 1000 true", "a 1006 false", "c 1006 false")
			natstest.Eventually(t, soon, "nothing is left of the gateway", func() bool {
				return len(r.rows(t, protocol.ConnectionsBucket(testProject))) == 0 && len(r.roomRecord(t, "jo").Gateways[gatewayOf(gate)].Open) == 0
			})
			c := witness.dial(t, roomPath+"?_pk=a")
			c.expect(identityBefore("jo"), state(`{"n":0,"log":["gone 1000 true","a 1006 false","c 1006 false"]}`))
			if err := c.ws.Close(1000, ""); err != nil {
				t.Fatal(err)
			}
			r.awaitLog(t, "jo", "gone 1000 true", "a 1006 false", "c 1006 false", "a 1000 true")
			natstest.Eventually(t, soon, "no row is left", func() bool { return len(r.rows(t, protocol.ConnectionsBucket(testProject))) == 0 })
		})
	}
}

// TestManyRowsOfAGateway: connections are told to have ended whichever row they are in.
func TestManyRowsOfAGateway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := rooms(nil)
	owner, gate := r.host(t, classes, timings(quick)), r.host(t, desks(nil), timings(quick))
	for _, id := range []string{"a", "b", "c"} {
		gate.dial(t, roomPath+"?_pk="+id).expect(identity("jo"))
	}
	rows := bucketOf(protocol.ConnectionsBucket(testProject))
	for number, ids := range []map[uint64]string{{1: "a"}, {2: "b"}, {3: "c"}} {
		body, err := json.Marshal(protocol.SocketRow{V: protocol.Version, Class: "ChatRoom", Name: "jo", IDs: ids})
		if err != nil {
			t.Fatal(err)
		}
		subject := rows.subject(protocol.ConnectionsKey(gatewayOf(gate), "ChatRoom", "jo", number))
		if _, err := r.store.Publish(t.Context(), subject, nil, body); err != nil {
			t.Fatal(err)
		}
	}
	r.host(t, classes, timings(quick))
	gate.kill(t)
	owner.kill(t) // who comes next knows the connections from the rows only
	r.awaitLog(t, "jo", "closed a", "closed b", "closed c")
	natstest.Eventually(t, soon, "no row is left", func() bool { return len(r.rows(t, protocol.ConnectionsBucket(testProject))) == 0 })
}

// TestManySocketsOfLostGateway: each gets its OnClose, and the agent is there for others between them.
func TestManySocketsOfLostGateway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ending, goOn := make(chan struct{}, 8), make(chan struct{})
	classes := rooms(func(r *room) {
		r.message = func(ctx context.Context, r *room, c *Connection, m Message) error {
			return errors.Join(r.log(ctx, m.Text), c.Send(ctx, m))
		}
		r.closed = func(ctx context.Context, r *room, c *Connection, _ Closed) error {
			if c.ID() == "0" {
				ending <- struct{}{}
				if err := await(ctx, goOn); err != nil {
					return err
				}
			}
			return r.log(ctx, "closed "+c.ID())
		}
	})
	owner, lost := r.host(t, classes, timings(quick)), r.host(t, desks(nil), timings(quick))
	const many = lostAtATime + 6
	var ends []string
	for i := range many {
		id := fmt.Sprint(i)
		lost.dial(t, roomPath+"?_pk="+id).expect(identity("jo"))
		ends = append(ends, "closed "+id)
	}
	b := owner.dial(t, roomPath+"?silent")
	lost.kill(t)
	awaitTurn(t, "the first end is told", ending)
	b.send("meanwhile") // so that somebody waits, however slow this test is
	close(goOn)
	var log []string
	for len(log) == 0 || log[len(log)-1] != "after" {
		text := "meanwhile"
		if slices.Contains(log, ends[many-1]) {
			text = "after"
		}
		b.send(text)
		for next := ""; next != text; {
			next, _ = b.next()
		}
		log = r.roomLog(t, "jo")
	}
	closed := slices.DeleteFunc(slices.Clone(log), func(text string) bool { return !strings.HasPrefix(text, "closed") })
	if !slices.Equal(closed, ends) {
		t.Errorf("ends: %q, want each once", closed)
	}
	first, last := slices.Index(log, ends[0]), slices.Index(log, ends[many-1])
	if last-first == many-1 {
		t.Errorf("nobody else had a turn while %d ends were told", many)
	}
}

// TestConnectionsOfLostGateway: a new owner that can ask a gateway no more leaves its connections out of the list, and tells of their ends by
// their ids all the same.
func TestConnectionsOfLostGateway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := rooms(func(r *room) {
		r.message = func(ctx context.Context, r *room, c *Connection, _ Message) error {
			all, err := Connections(ctx)
			var ids []string
			for _, one := range all {
				ids = append(ids, one.ID())
				err = errors.Join(err, one.SetReadonly(ctx, true))
			}
			slices.Sort(ids)
			return errors.Join(err, c.Send(ctx, Text(fmt.Sprintf("%q", ids))))
		}
	})
	owner := r.host(t, classes, timings(quick))
	lost, gate := r.host(t, desks(nil), timings(quick)), r.host(t, desks(nil), timings(quick))
	lost.dial(t, roomPath+"?_pk=a").expect(identity("jo"))
	b := gate.dial(t, roomPath+"?_pk=b")
	b.expect(identity("jo"))
	b.send("list")
	b.expect(`["a" "b"]`)
	r.host(t, classes, timings(quick))
	lost.kill(t)
	owner.kill(t)
	b.send("list")
	b.expect(`["b"]`)
	r.awaitLog(t, "jo", "closed a")
}

// gatewayOf is the id of a host, from its log.
func gatewayOf(h *testHost) string {
	_, rest, _ := strings.Cut(h.log.line("taking requests"), "host=")
	id, _, _ := strings.Cut(rest, " ")
	return id
}
