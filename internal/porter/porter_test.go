package porter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// TestHostileRequests: what a caller may not want is refused, said in the log, and stores nothing; what is not from another account
// is not heard.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Accounts(t, []string{"a", "b"}, "a:b"))
	owner, caller := s.Connect(t, natstest.User("b")), s.Connect(t, natstest.User("a"))
	js := natstest.JetStream(t, owner)
	store, err := journal.Open(owner)
	if err == nil {
		err = streams.EnsureWorkflows(t.Context(), js, "b", 1, streams.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	p, err := porter.Open(porter.Config{
		Store: store, Objects: objects.New(store), Project: "b", Log: slog.New(slog.NewTextHandler(&log, nil)),
		Registered: func(context.Context) (*protocol.Project, error) {
			return &protocol.Project{V: 1, Name: "b", Shards: 1, Workflows: map[string]protocol.RegisteredClass{"w": {Class: "W"}}}, nil
		},
		Workflows: &porter.Workflows{},
	})
	if err != nil {
		t.Fatal(err)
	}
	door := protocol.Door{Owner: "b", Caller: "a"}
	create := func(change func(*protocol.Create)) protocol.DoorRequest {
		c := protocol.Create{V: 1, Input: "in-1", Workflow: "w", ID: "x", Created: time.Now(), Source: protocol.Source{Kind: "program", Project: "a"}}
		change(&c)
		return protocol.DoorRequest{V: 1, ID: "x", Create: &c}
	}
	for name, r := range map[string]struct {
		op      string
		request any
		header  nats.Header
	}{
		"another's source":   {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Source.Project = "c" }), nil},
		"of the scheduler":   {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Input = "cron/s/1" }), nil},
		"another's parent":   {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Parent = &protocol.Parent{Project: "b"} }), nil},
		"another's tracker":  {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Tracker = &protocol.Tracker{Project: "b", Class: "C", Name: "n"} }), nil},
		"carried":            {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Carried = 7 }), nil},
		"reserved id":        {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.ID = "latest" }), nil},
		"no such value":      {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.ParamsObject = &protocol.Object{Name: "w/x/in-1/00", Size: 1} }), nil},
		"too large":          {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Params = json.RawMessage(`"` + strings.Repeat("x", 200<<10) + `"`) }), nil},
		"another workflow":   {protocol.DoorOpCreate, create(func(c *protocol.Create) { c.Workflow = "v" }), nil},
		"newer":              {protocol.DoorOpCreate, protocol.DoorRequest{V: 2}, nil},
		"nothing":            {protocol.DoorOpCreate, protocol.DoorRequest{V: 1, ID: "x"}, nil},
		"bad id":             {protocol.DoorOpLook, protocol.DoorRequest{V: 1, ID: "x.log"}, nil},
		"no JSON":            {protocol.DoorOpCreate, "{", nil},
		"unknown op":         {"compact", protocol.DoorRequest{V: 1, ID: "x"}, nil},
		"news at the door":   {protocol.NewsOpEnded, protocol.DoorRequest{V: 1, ID: "x"}, nil},
		"a value's name":     {protocol.DoorOpGet, protocol.DoorRequest{V: 1, ID: "x", Get: &protocol.DoorGet{Object: protocol.Object{Name: "v/x/1/00"}}}, nil},
		"a value's size":     {protocol.DoorOpPut, protocol.DoorRequest{V: 1, ID: "x", Put: &protocol.DoorPut{Token: "1", Digest: strings.Repeat("00", 32), Size: 1 << 40}}, nil},
		"the killing header": {protocol.DoorOpCreate, create(func(*protocol.Create) {}), nats.Header{"Nats-Expected-Last-Msg-Id": {"zzz"}}},
		"a schedule":         {protocol.DoorOpCreate, create(func(*protocol.Create) {}), nats.Header{protocol.HeaderSchedule: {"@at 2030-01-01T00:00:00Z"}}},
	} {
		body, ok := fmt.Append(nil, r.request), false
		if _, ok = r.request.(protocol.DoorRequest); ok {
			if body, err = json.Marshal(r.request); err != nil {
				t.Fatal(err)
			}
		}
		within := natstest.Patience
		if r.header != nil {
			within = 300 * time.Millisecond // nobody is to answer
		}
		m, err := caller.RequestMsg(&nats.Msg{Subject: door.WorkflowSubject("w", r.op), Header: r.header, Data: body}, within)
		if r.header != nil {
			if err == nil {
				t.Errorf("%s: it is answered: %s", name, m.Data)
			}
			continue
		}
		var answer protocol.DoorAnswer
		if err == nil {
			err = json.Unmarshal(m.Data, &answer)
		}
		if err != nil || answer.Error == nil || answer.Error.Name != protocol.FailureRefused && answer.Error.Name != protocol.FailureNoValue {
			t.Errorf("%s: answer %+v, %v", name, answer.Error, err)
		}
	}
	// As if from the account itself, and with the log of an instance as the place for the answer.
	victim := protocol.Instance{Project: "b", Workflow: "w", ID: "x"}
	good, _ := json.Marshal(create(func(*protocol.Create) {}))
	if err := errors.Join(owner.PublishRequest(door.WorkflowSubject("w", protocol.DoorOpCreate), victim.LogSubject(), good), owner.Flush()); err != nil {
		t.Fatal(err)
	}
	// Another's name is no subject of the caller's.
	if _, err := caller.Request(protocol.Door{Owner: "b", Caller: "c"}.WorkflowSubject("w", protocol.DoorOpCreate), good, 300*time.Millisecond); err == nil {
		t.Error("a forged caller is answered")
	}
	// The reply that the caller names is one of its own account.
	if err := caller.PublishRequest(door.WorkflowSubject("w", protocol.DoorOpLook), victim.LogSubject(), []byte(`{"v":1,"id":"x"}`)); err != nil {
		t.Fatal(err)
	}
	// What is answered comes after all that is not.
	for _, subject := range []string{door.WorkflowSubject("w", protocol.DoorOpLook), door.RegistrySubject()} {
		if _, err := caller.Request(subject, []byte(`{"v":1,"id":"x"}`), natstest.Patience); err != nil {
			t.Error(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	state, err := store.State(t.Context(), victim.Stream())
	if err != nil || state.Messages != 0 {
		t.Errorf("%d messages are stored, %v", state.Messages, err)
	}
	if refused := strings.Count(log.String(), "is refused"); refused < 12 || !strings.Contains(log.String(), "Nats-Expected-Last-Msg-Id") {
		t.Errorf("%d refusals in the log:\n%s", refused, log.String())
	}
}
