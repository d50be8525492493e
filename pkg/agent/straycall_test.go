package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// swallow takes what is sent to an agent's subject as a host that is frozen after it has accepted: it says so, and nothing
// else.
func (r *rig) swallow(t *testing.T, name string) (taken <-chan []byte) {
	t.Helper()
	requests := make(chan []byte, 10)
	sub, err := r.nc.Subscribe(agentNamed(name).RequestSubject(), func(m *nats.Msg) {
		requests <- m.Data
		_ = m.Respond([]byte(`{"v":1,"accepted":true}`))
	})
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { // one request is enough: then another host is asked
		requests <- <-requests
		_ = sub.Unsubscribe()
	}()
	return requests
}

// TestCopyOfACallTurnsUpLate: a call is repeated while a frozen host has a copy of it, and answered by another. When the
// first host goes on, its copy is not applied, although the caller has had its answer long ago.
func TestCopyOfACallTurnsUpLate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	taken := r.swallow(t, "jo")
	h := r.host(t, desks(nil), timings(func(t *timing) { t.rememberFor = 0 })) // only the record remembers
	caller := deskClass.In(r.program(t, project.Config{Name: testProject})).Agent("jo")
	n, err := Call(t.Context(), caller, (*desk).Add, 5, Timeout(soon))
	if n != 5 || err != nil {
		t.Fatalf("call = %d, %v", n, err)
	}
	for i := range 5 { // commits, which forget what is confirmed
		if n, err := Call(t.Context(), caller, (*desk).Add, 1); n != 6+i || err != nil {
			t.Fatalf("call = %d, %v", n, err)
		}
	}
	var copied protocol.Request
	if err := json.Unmarshal(<-taken, &copied); err != nil || copied.Call == nil {
		t.Fatalf("copy %+v, %v", copied, err)
	}
	copied.Activate = &protocol.Activate{Class: "Desk", Name: "jo"}
	if reply := r.send(t, copied); string(reply.Result) != "5" {
		t.Errorf("the copy was answered %+v, want the answer of the call", reply)
	}
	copied.ID, copied.Call.Until = "forgotten", time.Now().Add(-lingerFor/2-time.Second)
	if reply := r.send(t, copied); reply.Error == nil || reply.Error.Name != protocol.FailureTimeout {
		t.Errorf("a copy that comes after its caller has given up was answered %+v, want a refusal", reply)
	}
	h.expect(t, "/agents/desk/jo", 200, "10")
}
