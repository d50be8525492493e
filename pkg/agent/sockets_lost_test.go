package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// sureSoon tells gateways at once what they were sent.
func sureSoon(t *timing) { t.sureEvery = 20 * time.Millisecond }

// TestLastBatchIsLost: what an agent says to clients at another host is lost on its way, and the agent says nothing more. The client is
// told to connect again, and sees the true state.
func TestLastBatchIsLost(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"owner stays", "agent sleeps", "owner dies"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			options := []ClassOption{}
			if name == "agent sleeps" {
				options = append(options, IdleAfter(1))
			}
			classes := rooms(nil, options...)
			times := timings(func(t *timing) { quick(t); sureSoon(t) })
			if name == "owner dies" {
				times = timings(func(t *timing) { quick(t); t.sureEvery = time.Hour })
			}
			owner := r.host(t, classes, times)
			owner.call(t, http.MethodGet, roomPath, "")
			gate := r.host(t, desks(nil), timings(func(t *timing) { quick(t); sureSoon(t) }))
			far := gate.dial(t, roomPath)
			far.expect(identity("jo"))
			r.awaitBeats(t, gate, 5)
			heal := r.server.Lose(t, protocol.SocketsSubject(testProject, gatewayOf(gate)))
			if status, _ := owner.call(t, http.MethodPost, roomPath+"?say=lost", ""); status != http.StatusOK {
				t.Fatalf("POST = %d", status)
			}
			if name == "owner dies" {
				r.forgetBatches(t, "jo")
				r.host(t, classes, timings(func(t *timing) { quick(t); sureSoon(t) }))
				owner.kill(t)
			}
			far.expectClose(1012, "frames were lost")
			heal()
			if name == "agent sleeps" {
				natstest.Eventually(t, soon, "the agent sleeps", func() bool { return r.roomRecord(t, "jo").Owner == "" })
			}
			again := gate.dial(t, roomPath)
			if got, err := again.next(); err != nil || !strings.Contains(got, "cf_agent_identity") {
				t.Errorf("frame %s, %v; want that of a new connection", got, err)
			}
			if err := again.ws.CloseNow(); err != nil {
				t.Error(err)
			}
			natstest.Eventually(t, soon, "the agent is told", func() bool { return len(r.rows(t, protocol.ConnectionsBucket(testProject))) == 0 })
		})
	}
}

// TestLastBatchOfADestroyedAgentIsLost: no client is left with a socket to an agent that is no more.
func TestLastBatchOfADestroyedAgentIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	times := timings(func(t *timing) { quick(t); sureSoon(t) })
	owner := r.host(t, rooms(nil), times)
	owner.call(t, http.MethodGet, roomPath, "")
	gate := r.host(t, desks(nil), times)
	far := gate.dial(t, roomPath)
	far.expect(identity("jo"))
	r.awaitBeats(t, gate, 5)
	heal := r.server.Lose(t, protocol.SocketsSubject(testProject, gatewayOf(gate)))
	defer heal()
	p, err := project.Open(t.Context(), project.Config{Name: testProject}, project.Conn(r.nc))
	if err != nil {
		t.Fatal(err)
	}
	if err := Destroy(t.Context(), Bind[*room]("ChatRoom").In(p).Agent("jo")); err != nil {
		t.Fatal(err)
	}
	far.expectClose(1012, "") // that frames were lost, or that the agent does not know it: whoever is told first
}

// awaitBeats waits until a host has renewed its lease so often that it does not look at its sockets by itself any more.
func (r *rig) awaitBeats(t *testing.T, h *testHost, n uint64) {
	t.Helper()
	natstest.Eventually(t, soon, "the lease is renewed", func() bool {
		var row protocol.Host
		err := json.Unmarshal(r.row(t, protocol.HostsBucket(testProject), gatewayOf(h)), &row)
		return err == nil && row.Beat >= n
	})
}

// forgetBatches gives a room a turn that sends nothing, so that what it has sent before is in its record no more.
func (r *rig) forgetBatches(t *testing.T, name string) {
	t.Helper()
	p, err := project.Open(t.Context(), project.Config{Name: testProject}, project.Conn(r.nc))
	if err != nil {
		t.Fatal(err)
	}
	if err := Tell(t.Context(), Bind[*room]("ChatRoom").In(p).Agent(name), (*room).Heed, ""); err != nil {
		t.Fatal(err)
	}
	r.inboxEmpty(t)
	if found := r.roomRecord(t, name); len(found.Outbox) > 0 || found.Owner == "" {
		t.Fatalf("record %+v", found)
	}
}

// TestGatewayThatHasJustStarted: as long as it has a row it is told what it was sent, though nobody listens there yet and who tells it has not
// looked at the leases of others since it came.
func TestGatewayThatHasJustStarted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.idleHost(t)
	body, err := json.Marshal(protocol.Host{V: protocol.Version})
	if err != nil {
		t.Fatal(err)
	}
	row := h.peers.where.subject("gateway")
	sequence, err := r.store.Publish(t.Context(), row, nil, body)
	if err != nil {
		t.Fatal(err)
	}
	h.sure.note("gateway", roomNamed("jo"), protocol.SocketPlace{Life: 1, Since: 1, Number: 1})
	h.sure.tellAll(t.Context())
	if !h.sure.waits(roomNamed("jo")) {
		t.Error("a gateway that has a row is told no more")
	}
	if err := r.store.Purge(t.Context(), h.peers.where.stream, row, sequence+1); err != nil {
		t.Fatal(err)
	}
	h.sure.tellAll(t.Context())
	if h.sure.waits(roomNamed("jo")) {
		t.Error("a gateway that is gone is still to be told")
	}
}

// TestSentTo: a batch that its owner may not have sent before it died is not missed: whoever takes the agent sends it.
func TestSentTo(t *testing.T) {
	t.Parallel()
	place := func(number uint64) protocol.SocketPlace {
		return protocol.SocketPlace{Life: 1, Since: 2, Number: number}
	}
	batch := func(gateway string, p protocol.SocketPlace) protocol.Outgoing {
		return protocol.Outgoing{Kind: protocol.OutgoingFrames, Frames: &protocol.SocketBatch{Places: map[string]protocol.SocketPlace{gateway: p}}}
	}
	r := protocol.Record{Life: 1, Gateways: map[string]protocol.Gateway{"a": {Since: 2, Sent: 9}}}
	for name, test := range map[string]struct {
		outbox []protocol.Outgoing
		want   uint64
	}{
		"all has left":          {nil, 9},
		"something else waits":  {[]protocol.Outgoing{{Kind: protocol.OutgoingMail}}, 9},
		"two batches wait":      {[]protocol.Outgoing{batch("a", place(8)), batch("a", place(9))}, 7},
		"for another":           {[]protocol.Outgoing{batch("b", place(3))}, 9},
		"of a row that is gone": {[]protocol.Outgoing{batch("a", protocol.SocketPlace{Life: 1, Since: 1, Number: 4})}, 9},
	} {
		r.Outbox = test.outbox
		if got := sentTo(r, "a"); got != place(test.want) {
			t.Errorf("%s: sent is %+v, want number %d", name, got, test.want)
		}
	}
	if got := sentTo(r, "unknown"); got != (protocol.SocketPlace{}) {
		t.Errorf("to an unknown gateway was sent %+v", got)
	}
}

// TestEndsAtALostGatewayThatDoNotReturn: each connection has ended all the same, and the ends of the others are told.
func TestEndsAtALostGatewayThatDoNotReturn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	forever := make(chan struct{})
	said := make(chan error, 8)
	classes := rooms(func(r *room) {
		r.closed = func(ctx context.Context, r *room, c *Connection, _ Closed) error {
			if c.ID() != "c" {
				<-forever
			}
			return r.log(ctx, "closed "+c.ID())
		}
		r.failed = func(_ context.Context, _ *room, err error) error { said <- err; return nil }
	}, TurnLimit(2*time.Second))
	times := timings(func(t *timing) { quick(t); t.stuckAfter = 20 * time.Millisecond })
	r.host(t, classes, times)
	gate := r.host(t, desks(nil), times)
	t.Cleanup(func() { close(forever) })
	for _, id := range []string{"a", "b", "c"} {
		gate.dial(t, roomPath+"?_pk="+id).expect(identity("jo"))
	}
	gate.kill(t)
	for _, id := range []string{"a", "b"} {
		err := awaitTurn(t, "OnError is told", said)
		if failed, ok := errors.AsType[*ConnectionError](err); !ok || failed.Connection != id || !errors.Is(err, errStuck) {
			t.Errorf("OnError is told %v, want that OnClose of %s does not return", err, id)
		}
	}
	r.awaitLog(t, "jo", "closed c")
	natstest.Eventually(t, soon, "no row is left", func() bool { return len(r.rows(t, protocol.ConnectionsBucket(testProject))) == 0 })
	if found := r.roomRecord(t, "jo").Gateways[gatewayOf(gate)]; len(found.Open) > 0 || len(said) > 0 {
		t.Errorf("gateway %+v, want no open connection; %d further errors", found, len(said))
	}
}

// TestGatewayIsLostTwiceAtATime: while the end of a connection is outside, those of the others are told by whoever finds the gateway lost once
// more, and not again by the first.
func TestGatewayIsLostTwiceAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside, goOn := make(chan struct{}), make(chan struct{})
	r.host(t, rooms(func(r *room) {
		r.closed = func(ctx context.Context, r *room, c *Connection, _ Closed) error {
			if c.ID() == "a" {
				if err := Outside(ctx, func(ctx context.Context) error { close(outside); return await(ctx, goOn) }); err != nil {
					return err
				}
			}
			return r.log(ctx, "closed "+c.ID())
		}
	}))
	gate := r.host(t, desks(nil))
	for _, id := range []string{"a", "b"} {
		gate.dial(t, roomPath+"?_pk="+id).expect(identity("jo"))
	}
	lose := func(number uint64) *nats.Subscription {
		body, err := json.Marshal(protocol.Request{V: protocol.Version, Socket: &protocol.SocketUp{Kind: protocol.SocketLost, Gateway: gatewayOf(gate), Number: number}})
		if err != nil {
			t.Fatal(err)
		}
		inbox := r.nc.NewInbox()
		told, err := r.nc.SubscribeSync(inbox)
		if err == nil {
			err = r.nc.PublishRequest(roomNamed("jo").RequestSubject(), inbox, body)
		}
		if err != nil {
			t.Fatal(err)
		}
		return told
	}
	first := lose(1)
	awaitTurn(t, "the end of a is outside", outside)
	lose(2)
	r.awaitLog(t, "jo", "closed b")
	close(goOn)
	for done := false; !done; {
		m, err := first.NextMsg(soon)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := readReply(m)
		if err != nil || reply.Error != nil {
			t.Fatalf("reply %+v, %v", reply, err)
		}
		done = reply.Socket != nil && !reply.Socket.Outside
	}
	if got := r.roomLog(t, "jo"); !slices.Equal(got, []string{"closed b", "closed a"}) {
		t.Errorf("the room was told %q, want each end once", got)
	}
}

// TestEndsAtALostGatewayThatTakeLong: an agent whose OnClose takes long keeps no other agent from its ends, however many there are.
func TestEndsAtALostGatewayThatTakeLong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const many = takenAtATime + 1
	var met sync.WaitGroup
	met.Add(many)
	classes := rooms(func(r *room) {
		r.closed = func(ctx context.Context, r *room, c *Connection, _ Closed) error {
			met.Done()
			met.Wait()
			return r.log(ctx, "closed "+c.ID())
		}
	})
	times := timings(func(t *timing) { quick(t); t.bellWithin = 300 * time.Millisecond })
	r.host(t, classes, times)
	gate := r.host(t, desks(nil), times)
	for i := range many {
		name := fmt.Sprint(i)
		gate.dial(t, "/agents/chat-room/"+name+"?_pk=c").expect(identity(name))
	}
	gate.kill(t)
	for i := range many {
		r.awaitLog(t, fmt.Sprint(i), "closed c")
	}
	natstest.Eventually(t, soon, "no row is left", func() bool { return len(r.rows(t, protocol.ConnectionsBucket(testProject))) == 0 })
}
