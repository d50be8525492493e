package agent

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

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
	far.expectClose(1012, "frames were lost")
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
