package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestTwoHostsRaceForOneAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hosts := []*testHost{r.host(t, desks(nil)), r.host(t, desks(nil))}
	const each = 20
	var mu sync.Mutex
	answers := map[string]int{}
	var callers sync.WaitGroup
	for _, h := range hosts {
		for range each {
			callers.Go(func() {
				status, body, err := h.tryCall(t.Context(), http.MethodPost, "/agents/desk/jo", "")
				mu.Lock()
				defer mu.Unlock()
				if err != nil || status != 200 {
					t.Errorf("POST = %d %q, %v", status, body, err)
				}
				answers[body]++
			})
		}
	}
	callers.Wait()
	for n := 1; n <= each*len(hosts); n++ {
		if answers[fmt.Sprint(n)] != 1 {
			t.Errorf("%d was answered %d times, want once", n, answers[fmt.Sprint(n)])
		}
	}
	record, _ := r.record(t, "jo")
	if record.Turn != each*uint64(len(hosts)) || record.Owner == "" {
		t.Errorf("record %+v, want one owner and %d turns", record, each*len(hosts))
	}
}

func TestKilledHostIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.host(t, desks(nil)), r.host(t, desks(nil))
	first.call(t, http.MethodPost, "/agents/desk/jo", "")
	second.call(t, http.MethodPost, "/agents/desk/jo", "")
	before, _ := r.record(t, "jo")
	first.kill(t)
	second.expect(t, "/agents/desk/jo", 200, "2")
	after, _ := r.record(t, "jo")
	if after.Owner == before.Owner || after.Epoch <= before.Epoch || after.Life != before.Life {
		t.Errorf("owner %s, epoch %d, life %d; before %s, %d, %d: want another owner, a higher epoch, the same life",
			after.Owner, after.Epoch, after.Life, before.Owner, before.Epoch, before.Life)
	}
}

// silentForGood is after how many renewals of its own a host holds another for gone that has none, in tests where that must not be: never.
const silentForGood = 1 << 30

// fakeHost is a host as others see it: a lease, and a subject that swallows everything, as that of a frozen process.
func (r *rig) fakeHost(t *testing.T, id string) {
	t.Helper()
	sub, err := r.nc.Subscribe(protocol.HostSubject(testProject, id), func(*nats.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	r.putHost(t, protocol.Host{V: protocol.Version, ID: id, Beat: 1})
}

func (r *rig) putHost(t *testing.T, row protocol.Host) {
	t.Helper()
	r.put(t, protocol.HostsBucket(testProject), row.ID, row)
}

func (r *rig) put(t *testing.T, bucketName, key string, value any) uint64 {
	t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	sequence, err := r.store.Publish(t.Context(), bucketOf(bucketName).subject(key), nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

// own stores a record of a desk that another host owns.
func (r *rig) own(t *testing.T, name, owner string, outbox ...protocol.Outgoing) {
	t.Helper()
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", name), protocol.Record{
		V: protocol.Version, Class: "Desk", Name: name, Owner: owner, Turn: 1, Commit: owner + name,
		State: json.RawMessage(`{"Count":5}`), Outbox: outbox,
	})
}

func TestFrozenHostIsReplacedWhenItsLeaseEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fakeHost(t, "frozen")
	r.own(t, "jo", "frozen")
	unheard, err := r.nc.SubscribeSync(agentNamed("jo").RequestSubject())
	if err != nil {
		t.Fatal(err)
	}
	h := r.host(t, desks(nil), timings(quick), timings(func(t *timing) { t.leaseEvery, t.acceptWithin = 4*t.leaseEvery, t.leaseEvery }))
	h.expect(t, "/agents/desk/jo", 200, "5")
	if n, _, err := unheard.Pending(); err != nil || n != 1 {
		t.Errorf("the agent's own subject was asked %d times (%v), want once: its owner is silent", n, err)
	}
	natstest.Eventually(t, soon, "the row of the frozen host is removed", func() bool {
		return r.row(t, protocol.HostsBucket(testProject), "frozen") == nil
	})
}

func TestHostThatRenewsItsLeaseKeepsItsAgents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fakeHost(t, "slow")
	r.own(t, "jo", "slow")
	stop := make(chan struct{})
	var renewals sync.WaitGroup
	renewals.Go(func() {
		for beat := uint64(2); ; beat++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				r.putHost(t, protocol.Host{V: protocol.Version, ID: "slow", Beat: beat})
			}
		}
	})
	defer renewals.Wait()
	defer close(stop)
	h := r.host(t, desks(nil), timings(func(t *timing) {
		t.leaseEvery, t.leaseFor = time.Second, 4*time.Second // a busy machine holds up the renewals, too
		t.findWithin = 8 * time.Second
	}))
	if status, body := h.call(t, http.MethodGet, "/agents/desk/jo", ""); status != 502 || !strings.Contains(body, "FateUnknown") {
		t.Errorf("GET = %d %s, want 502 FateUnknown: the owner lives, has the request, and may serve it", status, body)
	}
	if record, _ := r.record(t, "jo"); record.Owner != "slow" {
		t.Errorf("owner %q, want the host that renews its lease", record.Owner)
	}
}

func TestRefusedCommitDropsTheAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method != http.MethodPut {
				return count(d, w, r)
			}
			if err := d.SetState(r.Context(), deskState{Count: 7}); err != nil {
				return err
			}
			close(inTurn)
			<-goOn
			return nil
		}
	}), timings(func(t *timing) { t.findWithin, t.leaseMisses = 3*time.Second, silentForGood }))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	r.fakeHost(t, "other")
	var put sync.WaitGroup
	put.Go(func() {
		status, body, err := h.tryCall(t.Context(), http.MethodPut, "/agents/desk/jo", "")
		if err != nil || status != 503 || !strings.Contains(body, "OwnershipLost") {
			t.Errorf("PUT whose commit is refused = %d %s, %v; want 503 OwnershipLost", status, body, err)
		}
	})
	<-inTurn
	r.own(t, "jo", "other")
	close(goOn)
	put.Wait()
	if record, _ := r.record(t, "jo"); record.Owner != "other" || string(record.State) != `{"Count":5}` {
		t.Errorf("record %+v, want that of the other host", record)
	}
	if status, _ := h.call(t, http.MethodGet, "/agents/desk/jo", ""); status != 502 {
		t.Errorf("GET of an agent of another host that is silent = %d, want 502: it may serve it yet", status)
	}
}

func TestDoubtedHostChecksItsAgents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var h *testHost
	inTurn := make(chan struct{})
	h = r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method != http.MethodPut {
				return count(d, w, r)
			}
			close(inTurn)
			<-r.Context().Done()
			if cause := context.Cause(r.Context()); !errors.Is(cause, ErrLostOwnership) {
				t.Errorf("cause %v, want ErrLostOwnership", cause)
			}
			return context.Cause(r.Context())
		}
	}), timings(quick))
	h.call(t, http.MethodPost, "/agents/desk/kept", "")
	h.call(t, http.MethodPost, "/agents/desk/lost", "")
	kept, _ := r.record(t, "kept")
	var put sync.WaitGroup
	put.Go(func() {
		if status, body, err := h.tryCall(t.Context(), http.MethodPut, "/agents/desk/lost", ""); err != nil || status != 503 {
			t.Errorf("PUT = %d %s, %v; want 503", status, body, err)
		}
	})
	<-inTurn
	r.fakeHost(t, "other")
	r.own(t, "lost", "other")
	r.putHost(t, protocol.Host{V: protocol.Version, ID: kept.Owner, Doubted: "other"})
	put.Wait()
	h.expect(t, "/agents/desk/kept", 200, "1")
	natstest.Eventually(t, soon, "the host holds a lease again", func() bool {
		var row protocol.Host
		raw := r.row(t, protocol.HostsBucket(testProject), kept.Owner)
		return json.Unmarshal(raw, &row) == nil && row.Doubted == "" && row.Beat > 0
	})
	if after, _ := r.record(t, "kept"); after.Epoch != kept.Epoch {
		t.Errorf("epoch %d of the agent that nobody took, want %d still", after.Epoch, kept.Epoch)
	}
}

func TestOutboxOfDeadOwnerIsCarriedOut(t *testing.T) {
	t.Parallel()
	target := protocol.OutgoingTarget{Project: "email-workflows", Workflow: "EMAIL", ID: "u7"}
	create := protocol.Create{V: protocol.Version, Input: "in1", Workflow: "EMAIL", ID: "u7"}
	outbox := []protocol.Outgoing{
		{ID: "1.1.1", Kind: protocol.OutgoingCreate, Instance: &target, Create: &create},
		{ID: "1.1.2", Kind: protocol.OutgoingSchedule, Schedule: &protocol.Schedule{V: protocol.Version, ID: "s1", Class: "Desk", Name: "jo"}},
		{ID: "1.1.3", Kind: protocol.OutgoingEvent, Instance: &target, Event: &protocol.Event{V: protocol.Version, Input: "in2", Type: "confirmed"}},
	}
	for _, test := range []struct {
		name string
		ask  bool // a caller comes; else only the lease ends
	}{{"when a caller comes", true}, {"when its lease ends", false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.workflows(t, "email-workflows")
			r.own(t, "jo", "dead", outbox...)
			if !test.ask {
				r.putHost(t, protocol.Host{V: protocol.Version, ID: "dead", Beat: 9})
			}
			h := r.host(t, desks(nil), timings(quick))
			if test.ask {
				h.expect(t, "/agents/desk/jo", 200, "5")
			}
			instance := protocol.Instance{Project: "email-workflows", Workflow: "EMAIL", ID: "u7"}
			natstest.Eventually(t, soon, "everything is carried out", func() bool {
				b, err := r.store.LastOfMany(t.Context(), protocol.WorkflowsStream("email-workflows", 0), []string{instance.InputsSubject()})
				return err == nil && len(b.Messages) == 2 &&
					r.row(t, protocol.SchedulesBucket(testProject), protocol.ScheduleKey("Desk", "jo", "s1")) != nil
			})
			natstest.Eventually(t, soon, "the row of the dead host is gone", func() bool {
				return r.row(t, protocol.HostsBucket(testProject), "dead") == nil
			})
		})
	}
}

// TestMailInTheHandsOfDeadOwnersIsApplied: nobody calls the agents, and the bells of their mail do not ring again for long.
// What never stored anything is taken away.
func TestMailInTheHandsOfDeadOwnersIsApplied(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	consumer, err := r.js.Consumer(t.Context(), protocol.InboxStream(testProject), protocol.ConsumerDoorbell)
	if err != nil {
		t.Fatal(err)
	}
	config := consumer.CachedInfo().Config
	config.AckWait = time.Hour
	if _, err := r.js.UpdateConsumer(t.Context(), protocol.InboxStream(testProject), config); err != nil {
		t.Fatal(err)
	}
	names := []string{"jo", "mo"}
	for _, name := range names {
		r.putHost(t, protocol.Host{V: protocol.Version, ID: "dead-" + name, Beat: 9})
		r.own(t, name, "dead-"+name)
		r.mail(t, name, testProject, protocol.Mail{Source: "agent/Desk/al", Number: 1, Callback: "Note", Payload: json.RawMessage(`"hello"`)})
		if _, err := consumer.Next(jetstream.FetchMaxWait(soon)); err != nil {
			t.Fatal(err)
		}
	}
	blank := protocol.Record{V: protocol.Version, Class: "Desk", Name: "blank", Owner: "dead-jo", Commit: "taken"}
	r.put(t, protocol.AgentsBucket(testProject), protocol.AgentKey("Desk", "blank"), blank)
	r.host(t, desks(nil), timings(quick))
	for _, name := range names {
		r.awaitRecord(t, name, "its mail is applied", func(now protocol.Record) bool { return string(now.State) == `{"Count":5,"Log":["hello"]}` })
		natstest.Eventually(t, soon, "the row of its dead host is gone", func() bool {
			return r.row(t, protocol.HostsBucket(testProject), "dead-"+name) == nil
		})
	}
	if r, found := r.record(t, "blank"); found {
		t.Errorf("record %+v of an agent that has stored nothing is left", r)
	}
}

func TestShutdownFinishesTurnsAndHandsOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan struct{}), make(chan struct{})
	first := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			close(inTurn)
			<-goOn
			return count(d, w, r)
		}
	}))
	second := r.host(t, desks(nil))
	var post sync.WaitGroup
	post.Go(func() {
		if status, body, err := first.tryCall(t.Context(), http.MethodPost, "/agents/desk/jo", ""); err != nil || status != 200 || body != "1" {
			t.Errorf("POST during the shutdown = %d %q, %v; want 200", status, body, err)
		}
	})
	<-inTurn
	stopped := make(chan error, 1)
	go func() { stopped <- first.stop() }()
	natstest.Eventually(t, soon, "the host takes no new connections", func() bool {
		c, err := net.DialTimeout("tcp", first.service.Addr().String(), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(goOn)
	post.Wait()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	second.expect(t, "/agents/desk/jo", 200, "1")
}

func TestAgentsOutliveARestartOfNATS(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	r.server.Restart(t)
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", ""); status != 200 || body != "2" {
		t.Errorf("POST after the restart = %d %q, want 200 \"2\"", status, body)
	}
}

func TestRequestIsRelayedWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	classes := desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPut {
				_, err := w.Write(make([]byte, maxRelayed+1))
				return err
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			if err := d.Update(r.Context(), func(s *deskState) error { s.Count++; return nil }); err != nil {
				return err
			}
			w.Header().Set("X-Seen", r.Header.Get("X-Sent"))
			w.WriteHeader(http.StatusTeapot)
			_, err = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
			return err
		}
	})
	first, second := r.host(t, classes), r.host(t, classes)
	path := "/agents/desk/jo@example.com/trips/a%2Fb?day=1"
	for _, h := range []*testHost{first, second} {
		if status, body := h.call(t, http.MethodPost, path, "hello"); status != http.StatusTeapot || body != "POST "+path+" hello" {
			t.Errorf("POST = %d %q", status, body)
		}
	}
	record, _ := r.record(t, "jo@example.com")
	if string(record.State) != `{"Count":2,"Log":null}` {
		t.Errorf("state %s, want both requests in one agent", record.State)
	}
	large := strings.Repeat("x", maxRelayed+1)
	for _, h := range []*testHost{first, second} {
		if status, body := h.call(t, http.MethodPost, path, large); status != http.StatusTeapot || body != "POST "+path+" "+large {
			t.Errorf("large POST = %d, %d bytes; want it served", status, len(body))
		}
		if status, body := h.call(t, http.MethodPut, path, ""); status != http.StatusOK || len(body) != maxRelayed+1 {
			t.Errorf("large answer = %d, %d bytes; want all of it", status, len(body))
		}
	}
}

func TestRequestThatComesTwiceIsServedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil))
	h.expect(t, "/agents/desk/jo", 200, "0")
	request, err := json.Marshal(protocol.Request{V: protocol.Version, ID: "once",
		HTTP: &protocol.HTTPRequest{Method: http.MethodPost, URL: "/agents/desk/jo"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		inbox := r.nc.NewInbox()
		answers, err := r.nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.nc.PublishRequest(agentNamed("jo").RequestSubject(), inbox, request); err != nil {
			t.Fatal(err)
		}
		var reply protocol.Reply
		for reply = (protocol.Reply{Accepted: true}); reply.Accepted; {
			m, err := answers.NextMsg(soon)
			if err != nil {
				t.Fatal(err)
			}
			reply = protocol.Reply{}
			if err := json.Unmarshal(m.Data, &reply); err != nil {
				t.Fatal(err)
			}
		}
		if reply.HTTP == nil || string(reply.HTTP.Body) != "1" {
			t.Errorf("answer %+v, want that of the first time", reply)
		}
	}
}

func TestOnlyInboxesAreAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil))
	h.expect(t, "/agents/desk/jo", 200, "0")
	forged := agentNamed("jo").InboxSubject(testProject)
	for _, subject := range []string{agentNamed("jo").RequestSubject(), protocol.ActivateSubject(testProject, "Desk")} {
		if err := r.nc.PublishRequest(subject, forged, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		// An answer to this one comes after any answer to the one before.
		if _, err := r.nc.Request(subject, []byte("{}"), soon); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := r.store.Last(t.Context(), protocol.InboxStream(testProject), forged); !isNotFound(err) {
		t.Errorf("a host wrote an answer where a client told it to: %v, %v", m, err)
	}
}

func TestAgentThatWasTakenDuringAReconnectIsNotServed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil), timings(func(t *timing) { t.findWithin, t.leaseMisses = 3*time.Second, silentForGood }))
	h.call(t, http.MethodPost, "/agents/desk/jo", "")
	r.server.Restart(t)
	natstest.Eventually(t, soon, "both are connected again", func() bool { return h.nc.IsConnected() && r.nc.IsConnected() })
	r.fakeHost(t, "other")
	r.own(t, "jo", "other")
	if status, body := h.call(t, http.MethodGet, "/agents/desk/jo", ""); status != 502 {
		t.Errorf("GET = %d %s, want 502: the agent is another host's, which may serve it yet", status, body)
	}
}
