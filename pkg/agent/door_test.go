package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

const shopProject = "shop"

// newAccountRigs is a server on which each of some projects has an account of its own, and a look into each.
func newAccountRigs(t *testing.T, projects []string, grants ...string) map[string]*rig {
	t.Helper()
	s := natstest.Start(t, natstest.Accounts(t, projects, grants...))
	rigs := map[string]*rig{}
	for _, name := range projects {
		r := &rig{server: s}
		r.connect = func(t testing.TB, options ...nats.Option) *nats.Conn {
			return s.Connect(t, append(options, natstest.User(name))...)
		}
		r.nc = r.connect(t)
		r.js = natstest.JetStream(t, r.nc)
		var err error
		if r.store, err = journal.Open(r.nc); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(streams.EnsureProjects(t.Context(), r.js, streams.Options{}), streams.EnsureAgents(t.Context(), r.js, name, streams.Options{})); err != nil {
			t.Fatal(err)
		}
		rigs[name] = r
	}
	return rigs
}

// inShop makes a host one of the shop, which knows the desks of the other project.
func inShop(_ *HostService, c *project.Config) { *c = shopConfig(c.Settings) }

func shopConfig(s project.Settings) project.Config {
	return project.Config{Name: shopProject, Settings: s, Agents: []project.Agent{
		{ClassName: "Desk", Binding: "DESKS", ScriptName: testProject}, {ClassName: "Dessk", ScriptName: testProject},
	}}
}

var foreignDesk = Bind[*desk]("DESKS")

func (r *rig) shop(t *testing.T) *project.Project {
	t.Helper()
	return r.program(t, shopConfig(project.Settings{}))
}

// taken is how many messages the streams of the agents of the project have taken.
func (r *rig) taken(t *testing.T) (n uint64) {
	t.Helper()
	for _, name := range []string{protocol.InboxStream(testProject), protocol.KVStream(protocol.AgentsBucket(testProject))} {
		state, err := r.store.State(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		n += state.Last
	}
	return n
}

// TestAgentsOfAnotherAccount are told and called as those of one's own account are: in order, once, with large arguments and answers.
func TestAgentsOfAnotherAccount(t *testing.T) {
	t.Parallel()
	rigs := newAccountRigs(t, []string{testProject, shopProject}, shopProject+":"+testProject)
	owner, caller := rigs[testProject], rigs[shopProject]
	echo := desks(func(d *desk) {
		d.ask = func(_ context.Context, _ *desk, text string) (string, error) {
			if text == "fail" {
				return "", &Error{Name: "Full", Message: "no seats"}
			}
			return text, nil
		}
	}, Callable((*desk).Note, (*desk).Add, (*desk).Ask))
	owner.host(t, echo)
	owner.host(t, echo)
	h := caller.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			for i := range 3 {
				if err := Tell(q.Context(), foreignDesk.Agent("jo"), (*desk).Note, fmt.Sprintf("%s %d", q.URL.Query().Get("n"), i)); err != nil {
					return err
				}
			}
			n, err := Call(q.Context(), foreignDesk.Agent("ann"), (*desk).Add, 2)
			if err != nil {
				return err
			}
			return Outside(q.Context(), func(ctx context.Context) error {
				m, err := Call(ctx, foreignDesk.Agent("ann"), (*desk).Add, 5)
				_, _ = fmt.Fprint(w, n, m)
				return err
			})
		}
	}), inShop)
	for i, want := range []string{"2 7", "9 14"} {
		if status, body := h.call(t, http.MethodPost, fmt.Sprintf("/agents/desk/x?n=%d", i), ""); status != http.StatusOK || body != want {
			t.Errorf("POST %d = %d %s, want %s", i, status, body, want)
		}
	}
	owner.tells(t, "jo", "0 0", "0 1", "0 2", "1 0", "1 1", "1 2")
	p := caller.shop(t)
	for range 3 {
		if err := Tell(t.Context(), foreignDesk.In(p).Agent("kim"), (*desk).Note, "once", ID("order-7")); err != nil {
			t.Fatal(err)
		}
		if n, err := Call(t.Context(), foreignDesk.In(p).Agent("pat"), (*desk).Add, 3, ID("sum-7")); n != 3 || err != nil {
			t.Errorf("Call with an id = %d, %v; want 3 each time", n, err)
		}
	}
	owner.inboxEmpty(t)
	owner.tells(t, "kim", "once")
	large := strings.Repeat("x", protocol.MaxPayload-2)
	if text, err := Call(t.Context(), foreignDesk.In(p).Agent("lou"), (*desk).Ask, large); text != large || err != nil {
		t.Errorf("a large answer: %d bytes, %v", len(text), err)
	}
	_, err := Call(t.Context(), foreignDesk.In(p).Agent("lou"), (*desk).Ask, "fail")
	if failed, ok := errors.AsType[*CallError](err); !ok || failed.Name != "Full" || !strings.Contains(failed.Message, "no seats") {
		t.Errorf("an error of the method: %v", err)
	}
}

// TestBindingsToAnotherAccount: a host that starts asks at the door whether its bindings lead somewhere.
func TestBindingsToAnotherAccount(t *testing.T) {
	t.Parallel()
	rigs := newAccountRigs(t, []string{testProject, shopProject}, shopProject+":"+testProject)
	owner, caller := rigs[testProject], rigs[shopProject]
	if err := streams.RegisterWorkflows(t.Context(), owner.js, testProject, 1, map[string]string{"there": "Onboarding"}); err != nil {
		t.Fatal(err)
	}
	owner.host(t, desks(nil))
	h := caller.host(t, desks(nil, Uses(binding("THERE"), binding("LACKING"), binding("NOBODY"))), func(_ *HostService, c *project.Config) {
		*c = shopConfig(c.Settings)
		c.Workflows = []project.Workflow{
			{Name: "there", Binding: "THERE", ClassName: "Onboarding", ScriptName: testProject},
			{Name: "lacking", Binding: "LACKING", ClassName: "Onboarding", ScriptName: testProject},
			{Name: "there", Binding: "NOBODY", ClassName: "Onboarding", ScriptName: "nobody"},
		}
	})
	for _, test := range []struct {
		message, binding string
		want             bool
	}{
		{"binding leads to a workflow that its project has not registered yet", "LACKING", true},
		{"binding leads to a project that nobody has registered yet", "NOBODY", true},
		{"binding leads to a workflow that its project has not registered yet", "THERE", false},
		{"binding leads to a project that nobody has registered yet", "THERE", false},
	} {
		if got := h.log.has(fmt.Sprintf("level=WARN msg=%q project=%s class=Desk binding=%s ", test.message, shopProject, test.binding)); got != test.want {
			t.Errorf("%q for binding %s: %v, want %v", test.message, test.binding, got, test.want)
		}
	}
}

// TestCallsAtTheDoorThatAreRefused: what is not callable, or not there, is an error that says so.
func TestCallsAtTheDoorThatAreRefused(t *testing.T) {
	t.Parallel()
	rigs := newAccountRigs(t, []string{testProject, shopProject, "till"}, shopProject+":"+testProject)
	owner := rigs[testProject]
	owner.host(t, desks(nil, Callable((*desk).Note)))
	p := rigs[shopProject].shop(t)
	before := owner.taken(t)
	_, err := Call(t.Context(), foreignDesk.In(p).Agent("jo"), (*desk).Add, 1)
	if failed, ok := errors.AsType[*CallError](err); !ok || !strings.Contains(failed.Message, "agent.Callable would allow it") {
		t.Errorf("Call of what is not callable: %v", err)
	}
	err = Tell(t.Context(), foreignDesk.In(p).Agent("jo"), (*desk).Fail, "x")
	if err == nil || !strings.Contains(err.Error(), "agent.Callable would allow it") {
		t.Errorf("Tell of what is not callable: %v", err)
	}
	till := rigs["till"].program(t, project.Config{Name: "till", Agents: []project.Agent{{ClassName: "Desk", Binding: "DESKS", ScriptName: testProject}}})
	_, err = Call(t.Context(), foreignDesk.In(till).Agent("jo"), (*desk).Add, 1, Timeout(time.Second))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Call without a grant: %v", err)
	}
	if after := owner.taken(t); after != before {
		t.Errorf("%d messages are stored for what was refused", after-before)
	}
	err = Exec(t.Context(), Bind[*desk]("Dessk").In(p).Agent("jo"), (*desk).Note, "x")
	if unknown, ok := errors.AsType[*NoClassError](err); !ok || fmt.Sprint(unknown.Classes) != "[Desk]" {
		t.Errorf("Exec with an unknown class: %v", err)
	}
}

// TestDoorThatIsAway delays only what goes through it: the agent works on, other mail arrives, and then the rest does, in order and once.
func TestDoorThatIsAway(t *testing.T) {
	t.Parallel()
	rigs := newAccountRigs(t, []string{testProject, shopProject}, shopProject+":"+testProject)
	owner, caller := rigs[testProject], rigs[shopProject]
	h := caller.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if q.Method == http.MethodGet {
				_, err := io.WriteString(w, strings.Join(d.State().Log, " "))
				return err
			}
			text := q.URL.Query().Get("n")
			return errors.Join(Tell(q.Context(), foreignDesk.Agent("jo"), (*desk).Note, text), Tell(q.Context(), deskClass.Agent("near"), (*desk).Note, text))
		}
	}), inShop)
	for i := range 3 {
		h.post(t, fmt.Sprintf("/agents/desk/x?n=%d", i))
	}
	natstest.Eventually(t, soon, "other mail arrives", func() bool {
		_, body := h.call(t, http.MethodGet, "/agents/desk/near", "")
		return body == "0 1 2"
	})
	owner.host(t, desks(nil, Callable((*desk).Note)))
	owner.tells(t, "jo", "0", "1", "2")
	owner.inboxEmpty(t)
}

// TestDoorWhoseHostIsKilled, after it has stored what was said and before it has answered: it is said again, and applied once.
func TestDoorWhoseHostIsKilled(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(context.Context, *project.Project) error{
		"mail": func(ctx context.Context, p *project.Project) error {
			return Tell(ctx, foreignDesk.In(p).Agent("jo"), (*desk).Note, "once")
		},
		"call": func(ctx context.Context, p *project.Project) error {
			n, err := Call(ctx, foreignDesk.In(p).Agent("jo"), (*desk).Add, 7, Timeout(soon))
			if err == nil && n != 7 {
				err = fmt.Errorf("the call returned %d, want 7", n)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rigs := newAccountRigs(t, []string{testProject, shopProject}, shopProject+":"+testProject)
			owner := rigs[testProject]
			url := strings.Replace(owner.server.URL(), "nats://", "nats://"+testProject+":"+testProject+"@", 1)
			victim := owner.process(t, url, testsignal.PorterStored)
			p := rigs[shopProject].shop(t)
			said := make(chan error, 1)
			go func() { said <- say(t.Context(), p) }()
			victim.await(t, "testsignal: "+testsignal.PorterStored)
			victim.kill()
			owner.process(t, url, "")
			if err := <-said; err != nil {
				t.Error(err)
			}
			owner.inboxEmpty(t)
			want := map[string]string{"mail": `{"Count":0,"Log":["once"]}`, "call": `{"Count":7,"Log":null}`}[name]
			record := owner.awaitRecord(t, "jo", "has it", func(p protocol.Record) bool { return p.State != nil })
			if string(record.State) != want {
				t.Errorf("state %s, want %s", record.State, want)
			}
		})
	}
}

// TestTrackedWorkflowOfAnotherAccount tells what becomes of it in order and once, also if its agent's hosts are away meanwhile.
func TestTrackedWorkflowOfAnotherAccount(t *testing.T) {
	t.Parallel()
	rigs := newAccountRigs(t, []string{testProject, "email-workflows"}, testProject+":email-workflows")
	owner, caller := rigs["email-workflows"], rigs[testProject]
	owner.emailRunner(t)
	p := caller.program(t, emailConfig())
	natstest.Eventually(t, soon, "the runner serves its door", func() bool {
		known, err := p.AskDoor(t.Context(), "email-workflows")
		return err == nil && known.Workflows["EMAIL"] != ""
	})
	h := caller.host(t, clerks(nil), withEmail)
	h.post(t, "/agents/desk/jo?id=a&do=progress+event+wait+progress")
	caller.tells(t, "jo", "a progress 0", "a seat 1")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	i, err := email.In(p).Get(t.Context(), "a")
	if err == nil {
		err = i.SendEvent(t.Context(), "go", 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	caller.host(t, clerks(nil), withEmail)
	caller.tells(t, "jo", "a progress 0", "a seat 1", "a progress 3", "a complete 28")
	caller.inboxEmpty(t)
}

func emailConfig() project.Config {
	c := project.Config{Name: testProject}
	withEmail(nil, &c)
	return c
}

// TestHostileRequestsAtTheDoor of agents are refused, and leave nothing.
func TestHostileRequestsAtTheDoor(t *testing.T) {
	t.Parallel()
	rigs := newAccountRigs(t, []string{testProject, shopProject}, shopProject+":"+testProject)
	owner, caller := rigs[testProject], rigs[shopProject]
	owner.host(t, desks(nil, Callable((*desk).Note)))
	at := protocol.Door{Owner: testProject, Caller: shopProject}
	source := protocol.Agent{Project: shopProject, Class: "Cart", Name: "c"}.TellSource(1)
	mail := func(change func(*protocol.Mail)) protocol.DoorRequest {
		m := protocol.Mail{V: 1, Source: source, Number: 1, Callback: "Note", Payload: []byte(`"x"`)}
		change(&m)
		return protocol.DoorRequest{V: 1, ID: "jo", Mail: &m}
	}
	call := func(change func(*protocol.AgentCall)) protocol.DoorRequest {
		c := protocol.AgentCall{From: testProject, Method: "Note", Payload: []byte(`"x"`), Within: protocol.Duration(time.Second)}
		change(&c)
		return protocol.DoorRequest{V: 1, ID: "jo", CallID: "c1", Call: &c}
	}
	now := time.Now()
	before := owner.taken(t)
	for _, hostile := range []struct {
		name, op string
		request  protocol.DoorRequest
	}{
		{"no mail", protocol.DoorOpMail, protocol.DoorRequest{V: 1, ID: "jo"}},
		{"no agent", protocol.DoorOpMail, protocol.DoorRequest{V: 1, Mail: mail(func(*protocol.Mail) {}).Mail}},
		{"mail of a newer program", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.V = 99 })},
		{"mail as of a schedule", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Source = protocol.ScheduleSource("s") })},
		{"mail as of the queue", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Source = protocol.SourceQueue })},
		{"mail with a life", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Life = 1 })},
		{"mail of a schedule", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Schedule, m.Planned, m.Last = "s", &now, true })},
		{"a notice as mail", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Notice = &protocol.WorkflowNotice{} })},
		{"its own retries", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Retry = &protocol.Retry{} })},
		{"no number", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Number = 0 })},
		{"a key of another source", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Key, m.Number = "k", 0 })},
		{"a long source", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Source = "agent/" + strings.Repeat("x", 300) + "/1" })},
		{"what is not callable", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Callback = "Fail" })},
		{"what is not there", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Callback = "Nothing" })},
		{"a payload that is too large", protocol.DoorOpMail, mail(func(m *protocol.Mail) { m.Payload = []byte(`"` + strings.Repeat("x", protocol.MaxPayload) + `"`) })},
		{"a call of what is not callable, as of the project itself", protocol.DoorOpCall, call(func(c *protocol.AgentCall) { c.Method = "Add" })},
		{"the end of an agent", protocol.DoorOpCall, call(func(c *protocol.AgentCall) { c.Method, c.Destroy = "", 1 })},
		{"the end of an agent with a method", protocol.DoorOpCall, call(func(c *protocol.AgentCall) { c.Destroy, c.Terminate = 1, true })},
		{"a call without an end", protocol.DoorOpCall, call(func(c *protocol.AgentCall) { c.Within = protocol.Duration(365 * 24 * time.Hour) })},
		{"a chain that is too long", protocol.DoorOpCall, call(func(c *protocol.AgentCall) { c.Chain = make([]protocol.CallLink, 1000) })},
		{"another op", "destroy", protocol.DoorRequest{V: 1, ID: "jo"}},
	} {
		body, err := json.Marshal(hostile.request)
		if err != nil {
			t.Fatal(err)
		}
		m, err := caller.nc.RequestWithContext(t.Context(), at.AgentSubject("Desk", hostile.op), body)
		var answer protocol.DoorAnswer
		if err == nil {
			err = json.Unmarshal(m.Data, &answer)
		}
		if err != nil || answer.Error == nil || answer.Error.Name != protocol.FailureRefused || answer.Reply != nil {
			t.Errorf("%s: %+v, %v; want it refused", hostile.name, answer, err)
		}
	}
	good, err := json.Marshal(mail(func(*protocol.Mail) {}))
	if err != nil {
		t.Fatal(err)
	}
	// What begins the mail of a stream's own, and what wants its answer somewhere in the account, is not even answered.
	header := &nats.Msg{Subject: at.AgentSubject("Desk", protocol.DoorOpMail), Data: good, Header: nats.Header{"Nats-Rollup": {"all"}}}
	ctx, cancel := context.WithTimeout(t.Context(), quickPause)
	defer cancel()
	if m, err := caller.nc.RequestMsgWithContext(ctx, header); err == nil {
		t.Errorf("a header for the stream: %s", m.Data)
	}
	if err := owner.nc.PublishRequest(at.AgentSubject("Desk", protocol.DoorOpMail), owner.nc.NewRespInbox(), good); err != nil {
		t.Fatal(err)
	}
	doors := door.Open(caller.nc, shopProject, func(context.Context, string) (bool, error) { return false, nil })
	if _, err := doors.Do(t.Context(), at, at.AgentSubject("Desk", protocol.DoorOpMail), protocol.DoorRequest{ID: "kim", Mail: mail(func(*protocol.Mail) {}).Mail}); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
	owner.tells(t, "kim", "x")
	if record, exists := owner.record(t, "jo"); exists {
		t.Errorf("what was refused has left %+v", record)
	}
	state, err := owner.store.State(t.Context(), protocol.InboxStream(testProject))
	if err != nil || state.Last != 1 {
		t.Errorf("%d messages were put into inboxes, want that for kim (%d before); %v", state.Last, before, err)
	}
}
