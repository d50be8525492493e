package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/protocol"
)

// hear subscribes to requests, which the test takes from a channel.
func (r *rig) hear(t *testing.T, subject string) <-chan *nats.Msg {
	t.Helper()
	heard := make(chan *nats.Msg, 100)
	sub, err := r.nc.ChanSubscribe(subject, heard)
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return heard
}

// TestPartsOfAnAnswerAreLost on their way: whoever passes it on asks for them again, also if nothing comes after them, and
// its client gets each once.
func TestPartsOfAnAnswerAreLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	requests, words := r.hear(t, agentNamed("jo").RequestSubject()), r.hear(t, protocol.HostSubject(testProject, "owner"))
	// The test plays the owner, and may be slow to say something: then it is not to be held for gone.
	gate := r.host(t, desks(nil), timings(func(t *timing) { t.acceptWithin, t.acceptLost = soon, soon }))
	answer := make(chan string, 1)
	go func() {
		status, body, err := gate.tryCall(t.Context(), http.MethodGet, "/agents/desk/jo", "")
		answer <- fmt.Sprint(status, " ", body, " ", err)
	}()
	request := <-requests
	say := func(replies ...string) {
		for _, reply := range replies {
			if err := request.Respond([]byte(reply)); err != nil {
				t.Error(err)
			}
		}
	}
	const first, second = `{"v":1,"http":{"status":200},"stream":{"number":1,"data":"MQ==","host":"owner"}}`, `{"v":1,"stream":{"number":2,"data":"Mg=="}}`
	const third, end = `{"v":1,"stream":{"number":3,"data":"Mw=="}}`, `{"v":1,"stream":{"number":4,"end":true}}`
	awaitMissing := func(taken int) {
		t.Helper()
		for {
			select {
			case m := <-words:
				var word protocol.Request
				if err := json.Unmarshal(m.Data, &word); err != nil || word.Word == nil {
					t.Fatalf("%s, %v", m.Data, err)
				}
				if word.Word.Missing && word.Word.Taken == taken {
					return
				}
			case <-time.After(soon):
				t.Fatalf("nobody asks for part %d", taken+1)
			}
		}
	}
	say(`{"v":1,"accepted":true,"sent":1}`) // and the first part is lost
	request = <-requests                    // so that the answer is asked for again
	say(`{"v":1,"accepted":true}`, first, third)
	awaitMissing(1)
	say(second, `{"v":1,"accepted":true,"sent":3}`) // and the third is lost
	awaitMissing(2)
	say(second, third, third, end)
	if got := <-answer; got != "200 123 <nil>" {
		t.Errorf("the client got %s", got)
	}
}

// TestPartsAreSentAgain by the agent's host, until they are taken, and it says how many it has sent.
func TestPartsAreSentAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	goOn := make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = onPost(func(_ *desk, w http.ResponseWriter, _ *http.Request) error {
			for range 3 {
				fmt.Fprint(w, "x")
				w.(http.Flusher).Flush()
			}
			<-goOn
			return nil
		})
	}), timings(func(t *timing) { t.acceptEvery = 50 * time.Millisecond }))
	defer close(goOn)
	h.expect(t, "/agents/desk/jo", 200, "0")
	inbox := r.nc.NewInbox()
	replies := r.hear(t, inbox)
	publish := func(subject string, request protocol.Request) {
		t.Helper()
		body, err := json.Marshal(request)
		if err == nil {
			err = r.nc.PublishRequest(subject, inbox, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	await := func(what string, wanted func(protocol.Reply) bool) protocol.Reply {
		t.Helper()
		for {
			select {
			case m := <-replies:
				if reply, err := readReply(m); err != nil || wanted(reply) {
					return reply
				}
			case <-time.After(soon):
				t.Fatalf("missing: %s", what)
			}
		}
	}
	part := func(n int) func(protocol.Reply) bool {
		return func(reply protocol.Reply) bool { return reply.Stream != nil && reply.Stream.Number == n }
	}
	publish(agentNamed("jo").RequestSubject(), protocol.Request{V: protocol.Version, ID: "once",
		HTTP: &protocol.HTTPRequest{Method: http.MethodPost, URL: "/agents/desk/jo"}})
	owner := await("the first part", part(1)).Stream.Host
	await("the third part", part(3))
	await("how many were sent", func(reply protocol.Reply) bool { return reply.Accepted && reply.Sent == 3 })
	publish(protocol.HostSubject(testProject, owner), protocol.Request{V: protocol.Version, ID: "once", Word: &protocol.StreamWord{Taken: 1, Missing: true}})
	if again := await("a part again", func(reply protocol.Reply) bool { return reply.Stream != nil }); again.Stream.Number != 2 {
		t.Errorf("part %d came again, want those after the first", again.Stream.Number)
	}
	await("the third part again", part(3))
}
