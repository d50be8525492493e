package protocol_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

func TestChecks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1100)
	tests := []struct {
		name  string
		check func(string) error
		in    string
		want  string // empty: allowed
	}{
		{"project", protocol.CheckProject, "flight-desk", ""},
		{"project with every kind of character", protocol.CheckProject, "_Az09-", ""},
		{"longest project", protocol.CheckProject, long[:64], ""},
		{"empty project", protocol.CheckProject, "", `invalid name: project is empty`},
		{"project too long", protocol.CheckProject, "p" + long[:64],
			`invalid name: project "p` + long[:64] + `": is 65 bytes long, at most 64 are allowed`},
		{"project with a dot", protocol.CheckProject, "a.b",
			`invalid name: project "a.b": '.' at byte 1; allowed are letters, digits, "_" and (not first) "-"`},
		{"project that starts with a dash", protocol.CheckProject, "-a",
			`invalid name: project "-a": '-' at byte 0; allowed are letters, digits, "_" and (not first) "-"`},
		{"project with a wildcard", protocol.CheckProject, "*",
			`invalid name: project "*": '*' at byte 0; allowed are letters, digits, "_" and (not first) "-"`},
		{"project with an umlaut", protocol.CheckProject, "zürich",
			`invalid name: project "zürich": 'ü' at byte 1; allowed are letters, digits, "_" and (not first) "-"`},
		{"project with a line end", protocol.CheckProject, "a\n",
			`invalid name: project "a\n": '\n' at byte 1; allowed are letters, digits, "_" and (not first) "-"`},
		{"workflow", protocol.CheckWorkflow, "booking_mail", ""},
		{"workflow too long", protocol.CheckWorkflow, long[:65],
			`invalid name: workflow "` + long[:65] + `": is 65 bytes long, at most 64 are allowed`},
		{"workflow with a space", protocol.CheckWorkflow, "a b",
			`invalid name: workflow "a b": ' ' at byte 1; allowed are letters, digits, "_" and (not first) "-"`},
		{"longest instance id", protocol.CheckInstance, long[:100], ""},
		{"instance id too long", protocol.CheckInstance, long[:101],
			`invalid name: instance id "` + long[:101] + `": is 101 bytes long, at most 100 are allowed`},
		{"empty instance id", protocol.CheckInstance, "", `invalid name: instance id is empty`},
		{"instance id with an escape", protocol.CheckInstance, "a=40",
			`invalid name: instance id "a=40": '=' at byte 1; allowed are letters, digits, "_" and (not first) "-"`},
		{"event type", protocol.CheckEventType, "confirmed", ""},
		{"event type with a gt", protocol.CheckEventType, ">",
			`invalid name: event type ">": '>' at byte 0; allowed are letters, digits, "_" and (not first) "-"`},
		{"event type too long", protocol.CheckEventType, long[:101],
			`invalid name: event type "` + long[:101] + `": is 101 bytes long, at most 100 are allowed`},
		{"class", protocol.CheckClass, "FlightDesk", ""},
		{"empty class", protocol.CheckClass, "", `invalid name: class is empty`},
		{"class too long", protocol.CheckClass, long[:65],
			`invalid name: class "` + long[:65] + `": is 65 bytes long, at most 64 are allowed`},
		{"agent like a mail address", protocol.CheckAgent, "jo.doe+x@example.com", ""},
		{"agent of any text", protocol.CheckAgent, "a b\x00*.>ü", ""},
		{"longest agent", protocol.CheckAgent, long[:1024], ""},
		{"empty agent", protocol.CheckAgent, "", `invalid name: agent is empty`},
		{"agent too long", protocol.CheckAgent, long[:1025],
			`invalid name: agent "` + long[:1025] + `": is 1025 bytes long, at most 1024 are allowed`},
		{"agent that JSON cannot hold", protocol.CheckAgent, "a\xffb",
			`invalid name: agent "a\xffb": is not UTF-8 at byte 1`},
		{"step", protocol.CheckStep, "send e-mail (1/2) ü", ""},
		{"empty step", protocol.CheckStep, "", `invalid name: step is empty`},
		{"step too long", protocol.CheckStep, long[:257],
			`invalid name: step "` + long[:257] + `": is 257 bytes long, at most 256 are allowed`},
		{"step with a tab", protocol.CheckStep, "a\tb",
			`invalid name: step "a\tb": has a control character at byte 1`},
		{"step with a delete character", protocol.CheckStep, "ab\x7f",
			`invalid name: step "ab\x7f": has a control character at byte 2`},
		{"step with a C1 control", protocol.CheckStep, "a\u0085",
			`invalid name: step "a\u0085": has a control character at byte 1`},
		{"step that JSON cannot hold", protocol.CheckStep, "ab\xc3",
			`invalid name: step "ab\xc3": is not UTF-8 at byte 2`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wantError(t, tt.check(tt.in), tt.want)
		})
	}
}

// wantError compares the text of an error about a name; an empty want is no error.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("error\n got %s\nwant %s", got, want)
	}
	if err != nil && !errors.Is(err, protocol.ErrName) {
		t.Errorf("%v is no ErrName", err)
	}
}

// TestNameErrorTellsLimitAndName: programs need not read the text.
func TestNameErrorTellsLimitAndName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 101)
	for name, err := range map[string]error{
		"": protocol.CheckInstance(""), long: protocol.CheckNewInstance(long), "batch": protocol.CheckNewInstance("batch"), "-a": protocol.CheckInstance("-a"),
	} {
		e, ok := errors.AsType[*protocol.NameError](err)
		if !ok || e.What != "instance id" || e.Name != name || e.Limit != protocol.MaxInstanceID || e.Reason == "" {
			t.Errorf("%q: %#v", name, err)
		}
	}
}

func TestEscape(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"plain", "Az09-_", "Az09-_"},
		{"empty", "", "="},
		{"mail address", "jo@example.com", "jo=40example=2Ecom"},
		{"wildcards", "*>", "=2A=3E"},
		{"its own sign", "=", "=3D"},
		{"more than ASCII", "ü", "=C3=BC"},
		{"bytes that are no text", "\x00\xff", "=00=FF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := protocol.Escape(tt.in); got != tt.want {
				t.Errorf("Escape(%q) = %q, want %q", tt.in, got, tt.want)
			}
			if got, err := protocol.Unescape(tt.want); got != tt.in || err != nil {
				t.Errorf("Unescape(%q) = %q, %v, want %q", tt.want, got, err, tt.in)
			}
		})
	}
}

func TestUnescapeRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"empty", "", `invalid name: empty token`},
		{"dot", "a.b", `invalid name: token "a.b": '.' at byte 1`},
		{"cut short", "a=4", `invalid name: token "a=4": '=' at byte 1`},
		{"lower-case digits", "=c3", `invalid name: token "=c3": no hex digits after byte 0`},
		{"no digits", "=GG", `invalid name: token "=GG": no hex digits after byte 0`},
		{"escaped without need", "=41", `invalid name: token "=41": 'A' must not be escaped`},
		{"empty text beside others", "a=", `invalid name: token "a=": '=' at byte 1`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := protocol.Unescape(tt.in)
			wantError(t, err, tt.want)
		})
	}
}

func TestNamesOfStreamsAndBuckets(t *testing.T) {
	t.Parallel()
	tests := []struct{ got, want string }{
		{protocol.WorkflowsStream("p", 0), "WORKFLOWS_p"},
		{protocol.WorkflowsStream("p", 3), "WORKFLOWS_p=3"},
		{protocol.WorkflowsStream("p_3", 0), "WORKFLOWS_p_3"},
		{protocol.TimersStream("p"), "TIMERS_p"},
		{protocol.InboxStream("p"), "INBOX_p"},
		{protocol.AgentsBucket("p"), "AGENTS_p"},
		{protocol.SchedulesBucket("p"), "SCHEDULES_p"},
		{protocol.HostsBucket("p"), "HOSTS_p"},
		{protocol.ConnectionsBucket("p"), "CONNECTIONS_p"},
		{protocol.ConnectionsKey("h", "Room", "jo@x", 0), "h.Room.jo=40x"},
		{protocol.ConnectionsKey("h", "Room", "jo@x", 12), "h.Room.jo=40x.12"},
		{protocol.FurtherConnectionsKeys("h", "Room", "jo@x"), "h.Room.jo=40x.*"},
		{protocol.ConnectionsKeys("h"), "h.>"},
		{protocol.DeadBucket("p"), "DEAD_p"},
		{protocol.KVStream("B"), "KV_B"},
		{protocol.KVSubject("B", "k.l"), "$KV.B.k.l"},
		{protocol.AgentKey("Desk", "a@b"), "Desk.a=40b"},
		{protocol.ScheduleKey("Desk", "a@b", "s 1"), "Desk.a=40b.s=201"},
		{protocol.DeadKey("Desk", "a@b", "7.2.1"), "Desk.a=40b.7=2E2=2E1"},
		{protocol.WorkflowSubjects("p"), "wf.p.>"},
		{protocol.ShardSubjects("p", 3), "wf.p.3.>"},
		{protocol.InputSubjects("p", 3), "wf.p.3.in.>"},
		{protocol.TimerSubjects("p"), "timer.p.>"},
		{protocol.DueSubjects("p"), "timer.p.*.*.*.*.due"},
		{protocol.PokeSubject("p"), "poke.p"},
		{protocol.AskSubject("p"), "ask.p"},
		{protocol.InboxSubjects("p"), "inbox.p.>"},
		{protocol.ActivateSubject("p", "Desk"), "activate.p.Desk"},
		{protocol.HostSubject("p", "h1"), "host.p.h1"},
		{protocol.BodySubject("p", "h1"), "body.p.h1"},
		{protocol.ClockSubject("p", "Desk", "a", "s"), "clock.at.p.Desk.a.s"},
		{protocol.ClockDueSubject("p", "Desk", "a", "s"), "clock.due.p.Desk.a.s"},
		{protocol.ScheduleSource("s"), "schedule/s"},
		{protocol.OutgoingID(7, 2, 0), "7.2.0"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestSubjectsOfAnInstance(t *testing.T) {
	t.Parallel()
	i := protocol.Instance{Project: "mail", Shard: 2, Workflow: "booking", ID: "u-7"}
	tests := []struct{ got, want string }{
		{i.String(), "mail/booking/u-7"},
		{i.CreateSubject(), "wf.mail.2.in.booking.u-7.create"},
		{i.EventSubject(), "wf.mail.2.in.booking.u-7.event"},
		{i.InputsSubject(), "wf.mail.2.in.booking.u-7.*"},
		{i.ControlSubject(), "wf.mail.2.ctl.booking.u-7"},
		{i.LogSubject(), "wf.mail.2.log.booking.u-7"},
		{i.DoneSubject(), "wf.mail.2.done.booking.u-7"},
		{i.TimerSubject(12), "timer.mail.2.booking.u-7.12.at"},
		{i.DueSubject(12), "timer.mail.2.booking.u-7.12.due"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestSubjectsOfAnAgent(t *testing.T) {
	t.Parallel()
	a := protocol.Agent{Project: "desk", Class: "Flights", Name: "jo@x"}
	tests := []struct{ got, want string }{
		{a.String(), "desk/Flights/jo@x"},
		{a.InboxSubject("mail"), "inbox.desk.mail.Flights.jo=40x"},
		{a.MailSubject(), "inbox.desk.*.Flights.jo=40x"},
		{a.RequestSubject(), "agent.desk.Flights.jo=40x"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestParsersRefuse(t *testing.T) {
	t.Parallel()
	instance := func(s string) error { _, _, err := protocol.ParseInstanceSubject(s); return err }
	due := func(s string) error { _, _, err := protocol.ParseDueSubject(s); return err }
	armed := func(s string) error { _, _, err := protocol.ParseTimerSubject(s); return err }
	place := func(s string) error { _, err := protocol.ParseSlotWaitKey("p", s); return err }
	inbox := func(s string) error { _, _, err := protocol.ParseInboxSubject(s); return err }
	clock := func(s string) error { _, _, err := protocol.ParseClockDueSubject(s); return err }
	agentKey := func(s string) error { _, _, err := protocol.ParseAgentKey(s); return err }
	deadKey := func(s string) error { _, _, _, err := protocol.ParseDeadKey(s); return err }
	scheduleKey := func(s string) error { _, _, _, err := protocol.ParseScheduleKey(s); return err }
	tests := []struct {
		name, in string
		parse    func(string) error
	}{
		{"instance: other prefix", "xx.p.0.log.w.i", instance},
		{"instance: cut short", "wf.p.0.log.w", instance},
		{"instance: input without kind", "wf.p.0.in.w.i", instance},
		{"instance: unknown input", "wf.p.0.in.w.i.other", instance},
		{"instance: log with a token more", "wf.p.0.log.w.i.create", instance},
		{"instance: unknown class", "wf.p.0.new.w.i", instance},
		{"instance: shard with a leading zero", "wf.p.00.log.w.i", instance},
		{"instance: shard with a sign", "wf.p.-1.log.w.i", instance},
		{"instance: shard out of range", "wf.p.99999999.log.w.i", instance},
		{"instance: empty project", "wf..0.log.w.i", instance},
		{"instance: bad id", "wf.p.0.log.w.a=40", instance},
		{"due: timer that is not due", "timer.p.0.w.i.4.at", due},
		{"armed: timer that is due", "timer.p.0.w.i.4.due", armed},
		{"place: cut short", "waiting.w.0", place},
		{"place: row of holders", "holders.w", place},
		{"place: bad id", "waiting.w.0.a=40", place},
		{"due: park that is no number", "timer.p.0.w.i.x.due", due},
		{"due: bad workflow", "timer.p.0.*.i.4.due", due},
		{"inbox: cut short", "inbox.p.q", inbox},
		{"inbox: wildcard sender", "inbox.p.*.Desk.a", inbox},
		{"inbox: name with a token more", "inbox.p.q.Desk.a.b", inbox},
		{"clock: not due", "clock.at.p.Desk.a.s", clock},
		{"clock: without schedule", "clock.due.p.Desk.a", clock},
		{"clock: bad project", "clock.due.*.Desk.a.s", clock},
		{"agent key: without name", "Desk", agentKey},
		{"agent key: bad class", "a=40.b", agentKey},
		{"agent key: empty name", "Desk.", agentKey},
		{"schedule key: without id", "Desk", scheduleKey},
		{"schedule key: bad id", "Desk.a.=4", scheduleKey},
		{"schedule key: of a workflow, without id", "=workflow.digest", scheduleKey},
		{"schedule key: of a bad workflow", "=workflow.a=40.s", scheduleKey},
		{"schedule key: of a workflow, with a token more", "=workflow.digest.s.t", scheduleKey},
		{"dead key: of a workflow", "=workflow.digest.s", deadKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := tt.parse(tt.in); !errors.Is(err, protocol.ErrName) {
				t.Errorf("%q: %v, want ErrName", tt.in, err)
			}
		})
	}
}
