package agent

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestCallIsAnsweredByTwoMessages: that it is accepted, and its answer; in between only that the agent is busy with another.
func TestCallIsAnsweredByTwoMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, desks(nil), timings(func(t *timing) { t.acceptEvery = time.Minute }))
	answers, err := r.nc.SubscribeSync(r.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	request := protocol.Request{V: protocol.Version, Activate: &protocol.Activate{Class: "Desk", Name: "jo"},
		Call: &protocol.AgentCall{From: testProject, Method: "Add", Payload: json.RawMessage(`1`), Within: protocol.Duration(soon)}}
	for i, subject := range []string{protocol.CallSubject(testProject, testProject, "Desk"), agentNamed("jo").RequestSubject()} {
		request.ID = subject
		body, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.nc.PublishRequest(subject, answers.Subject, body); err != nil {
			t.Fatal(err)
		}
		accepted := 0
		for end := false; !end; {
			m, err := answers.NextMsg(soon)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := readReply(m)
			switch {
			case err != nil:
				t.Fatal(err)
			case !reply.Accepted:
				end = true
			case reply.Busy == "":
				accepted++
			}
			if end && string(reply.Result) != strconv.Itoa(i+1) {
				t.Errorf("answer %+v on %s", reply, subject)
			}
		}
		if accepted != 1 {
			t.Errorf("the call on %s was said to be accepted %d times", subject, accepted)
		}
	}
}
