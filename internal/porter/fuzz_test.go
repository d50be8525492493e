package porter_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/porter"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// wholeDoor serves all that there is at the door of project b, with one workflow w and one class C.
func wholeDoor(t testing.TB, nc *nats.Conn) *journal.Store {
	t.Helper()
	store, err := journal.Open(nc)
	if err == nil {
		err = streams.EnsureWorkflows(t.Context(), natstest.JetStream(t, nc), "b", 1, streams.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := porter.Open(porter.Config{
		Store: store, Objects: objects.New(store), Project: "b", Log: slog.New(slog.DiscardHandler),
		Registered: func(context.Context) (*protocol.Project, error) {
			return &protocol.Project{V: 1, Name: "b", Shards: 1, Workflows: map[string]protocol.RegisteredClass{"w": {Class: "W"}}}, nil
		},
		Workflows: &porter.Workflows{
			Ask:     func(context.Context, protocol.Ask) []byte { return []byte(`{"v":1}`) },
			Expects: func(context.Context, string, protocol.Ended) (bool, error) { return true, nil },
		},
		Notice: func(context.Context, string, protocol.Notify) error { return nil },
		Agents: &porter.Agents{
			Classes: []string{"C"},
			Allows:  func(string, string, bool) error { return nil },
			Mail:    func(context.Context, string, protocol.Agent, protocol.Mail) error { return nil },
			Call: func(context.Context, protocol.Agent, string, protocol.AgentCall) protocol.Reply {
				return protocol.Reply{}
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// doorSubjects are all places where project a may say something to project b.
func doorSubjects() (all []string) {
	door, news := protocol.Door{Owner: "b", Caller: "a"}, protocol.Door{News: true, Owner: "b", Caller: "a"}
	for _, op := range []string{
		protocol.DoorOpCreate, protocol.DoorOpEvent, protocol.DoorOpControl, protocol.DoorOpLook, protocol.DoorOpAwait, protocol.DoorOpAsk,
		protocol.DoorOpPut, protocol.DoorOpGet, protocol.DoorOpEnd, protocol.NewsOpEnded,
	} {
		all = append(all, door.WorkflowSubject("w", op), news.WorkflowSubject("w", op))
	}
	return append(all, door.RegistrySubject(), door.AgentSubject("C", protocol.DoorOpMail), door.AgentSubject("C", protocol.DoorOpCall),
		news.AgentSubject("C", protocol.NewsOpNotice))
}

// doorBodies are requests as they should be, and some that nobody should send.
func doorBodies(t testing.TB) (all [][]byte) {
	t.Helper()
	source := protocol.Source{Kind: "program", Project: "a"}
	parent := protocol.Parent{Project: "a", Workflow: "v", ID: "p", Incarnation: 1, Call: "=call/1"}
	ours := parent
	ours.Project, ours.Workflow, ours.ID = "b", "w", "x"
	tracker := protocol.Tracker{Project: "b", Class: "C", Name: "n"}
	for _, r := range []protocol.DoorRequest{
		{V: 1},
		{V: 1, ID: "x", Create: &protocol.Create{V: 1, Input: "in", Workflow: "w", ID: "x", Params: []byte(`1`), Source: source}},
		{V: 1, ID: "y", Create: &protocol.Create{V: 1, Input: parent.CreateInput(), Workflow: "w", ID: "y", Source: source, Parent: &parent}},
		{V: 1, ID: "z", Create: &protocol.Create{V: 1, Input: "in", Workflow: "w", ID: "z", Source: protocol.Source{Kind: "clock", Project: "b"}}},
		{V: 1, ID: "x", Event: &protocol.Event{V: 1, Input: "e", Type: "t", Payload: []byte(`"p"`)}},
		{V: 1, ID: "x", Event: &protocol.Event{V: 1, Input: "e", Type: "t", PayloadObject: &protocol.Object{Name: "w/x/in/00", Size: 1 << 40}}},
		{V: 1, ID: "x", Control: &protocol.Control{V: 1, Input: "c", Action: protocol.ActionPause, Source: source}},
		{V: 1, ID: "x", Incarnation: 1, Wait: 1}, {V: 1, ID: "y", Parent: &parent},
		{V: 1, ID: "x", Put: &protocol.DoorPut{Token: "in", Digest: strings.Repeat("00", 32), Size: 1}},
		{V: 1, ID: "x", Put: &protocol.DoorPut{Size: -1}}, {V: 1, Part: &protocol.DoorPart{Transfer: "t", From: -1}},
		{V: 1, ID: "x", Get: &protocol.DoorGet{Object: protocol.Object{Name: "w/x/in/00", Size: -1}, After: 1 << 63}},
		{V: 1, ID: "x", Ended: &protocol.Ended{Parent: ours, Done: protocol.Done{V: 1, Workflow: "v", ID: "p", Incarnation: 1, State: protocol.StateComplete}}},
		{V: 1, ID: "n", Mail: &protocol.Mail{V: 1, Source: "agent/k/1", Number: 1, Callback: "M", Payload: []byte(`1`)}},
		{V: 1, ID: "n", CallID: "1", Call: &protocol.AgentCall{Method: "M", Within: protocol.Duration(time.Second)}},
		{V: 1, Notice: &protocol.Notify{Tracker: tracker, Notice: protocol.WorkflowNotice{Project: "a", Workflow: "v", ID: "p"}}},
	} {
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, body)
	}
	return append(all, nil, []byte("{"), []byte("null"), []byte("[]"), []byte(`{"v":1e99}`), []byte("\xff\x00"), []byte(`{"v":1,"id":"x.*.>"}`),
		[]byte(`{"v":1,"id":"x","create":null,"event":{},"control":{"from":{}},"put":{},"get":{},"part":{},"mail":{},"call":{},"ended":{},"notice":{}}`),
		[]byte(strings.Repeat(`{"create":`, 20000)))
}

// FuzzDoor says anything anywhere at a door: it is answered once, what is not done leaves nothing, and what is done is an input
// of the one workflow, by the one who speaks.
func FuzzDoor(f *testing.F) {
	s := natstest.Start(f, natstest.Accounts(f, []string{"a", "b"}, "a:b", "b:a"))
	caller, store := s.Connect(f, natstest.User("a")), wholeDoor(f, s.Connect(f, natstest.User("b")))
	subjects := doorSubjects()
	for _, body := range doorBodies(f) {
		for at := range subjects {
			f.Add(uint8(at), body)
		}
	}
	f.Fuzz(func(t *testing.T, at uint8, body []byte) {
		if int64(len(body)) > caller.MaxPayload() {
			return
		}
		before := storedIn(t, store)
		subject := subjects[int(at)%len(subjects)]
		m, err := caller.Request(subject, body, natstest.Patience)
		var answer protocol.DoorAnswer
		if err == nil {
			err = json.Unmarshal(m.Data, &answer)
		}
		if err != nil || answer.V != protocol.Version {
			t.Fatalf("%s: answer %+v, %v", subject, answer, err)
		}
		after := storedIn(t, store)
		if answer.Error != nil && after != before {
			t.Fatalf("%s: %d messages are stored although it is said not to be done: %v", subject, after-before, answer.Error)
		}
		for sequence := before + 1; sequence <= after; sequence++ {
			checkStored(t, store, sequence)
		}
	})
}

// storedIn is how many messages the stream of the project has taken so far.
func storedIn(t testing.TB, store *journal.Store) uint64 {
	t.Helper()
	state, err := store.State(t.Context(), protocol.WorkflowsStream("b", 0))
	if err != nil {
		t.Fatal(err)
	}
	return state.Last
}

func checkStored(t testing.TB, store *journal.Store, sequence uint64) {
	t.Helper()
	m, err := store.NextFromLeader(t.Context(), protocol.WorkflowsStream("b", 0), "wf.b.>", sequence)
	if errors.Is(err, journal.ErrNotFound) {
		return // a newer one of its subject has taken its place
	}
	if err != nil {
		t.Fatal(err)
	}
	at, class, err := protocol.ParseInstanceSubject(m.Subject)
	var said struct{ Source protocol.Source }
	if err == nil {
		err = json.Unmarshal(m.Data, &said)
	}
	inputs := class == protocol.ClassCreate || class == protocol.ClassEvent || class == protocol.ClassControl
	if err != nil || !inputs || at.Workflow != "w" || class != protocol.ClassEvent && said.Source.Project != "a" {
		t.Errorf("stored at %s, as of %+v: %v", m.Subject, said.Source, err)
	}
}
