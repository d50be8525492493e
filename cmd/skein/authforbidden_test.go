package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// victim is an instance of mill, target an agent of desk.
var (
	victim = protocol.Instance{Project: "mill", Workflow: "grind", ID: "vic"}
	target = protocol.Agent{Project: "desk", Class: "Desk", Name: "jo"}
)

// made makes the streams of projects, by the users that make them.
func (f *fort) made(projects ...string) {
	f.t.Helper()
	o := streams.Options{Replicas: len(f.names)}
	for _, name := range projects {
		host, runner := natstest.JetStream(f.t, f.connect(name+"/agent-host")), natstest.JetStream(f.t, f.connect(name+"/workflow-runner"))
		for _, err := range []error{
			streams.EnsureProjects(f.t.Context(), runner, o),
			streams.EnsureWorkflows(f.t.Context(), runner, name, 1, o),
			streams.RegisterWorkflows(f.t.Context(), runner, name, 1, map[string]string{"grind": "Grind"}),
			streams.EnsureAgents(f.t.Context(), host, name, o),
			streams.RegisterAgents(f.t.Context(), host, name, []string{"Desk"}),
		} {
			if err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

// refused reports whether the server refuses what was just said over a connection. It says so before it answers a ping.
func refused(t *testing.T, nc *nats.Conn, say func() error) bool {
	t.Helper()
	before := nc.LastError()
	if err := errors.Join(say(), nc.FlushTimeout(natstest.Patience)); err != nil {
		t.Fatal(err)
	}
	return nc.LastError() != before && errors.Is(nc.LastError(), nats.ErrPermissionViolation)
}

// TestForbidden: what a role is not for is refused, in one account and in the own one.
func TestForbidden(t *testing.T) {
	t.Parallel()
	for name, more := range map[string][]string{"one account": nil, "an account each": {"--accounts"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newFort(t, 1, more...).forbids()
		})
	}
}

// as is the user in a role, where subject belongs.
func (f *fort) as(user, subject string) string {
	switch {
	case !f.accounts || user != "scheduler":
		return user
	case strings.Contains(subject, "mill"):
		return "mill/scheduler"
	}
	return "desk/scheduler"
}

func (f *fort) forbids() {
	t := f.t
	f.made("desk", "mill", "spy")
	f.wasAllowed()
	foreign := []string{"spy/agent-host", "spy/workflow-runner", "spy/operator", "spy/viewer", "desk/viewer", "mill/viewer"}
	granted := []string{"desk/agent-host", "desk/workflow-runner", "desk/operator"}
	others := slices.Concat(foreign, granted)
	hosts := []string{"spy/agent-host", "mill/workflow-runner", "mill/operator", "desk/viewer", "scheduler"}
	mill, api := protocol.WorkflowsStream("mill", 0), "$JS.API."
	publishes := []struct {
		what    string
		subject string
		users   []string
	}{
		{"start a workflow of another project", victim.CreateSubject(), foreign},
		{"send an event to it", victim.EventSubject(), foreign},
		{"steer it", victim.ControlSubject(), foreign},
		{"nudge it", victim.NudgeSubject(), others},
		{"write to its log", victim.LogSubject(), append(others, "scheduler", "mill/operator", "mill/agent-host")},
		{"announce its end", victim.DoneSubject(), append(others, "scheduler", "mill/operator", "mill/agent-host")},
		{"arm its timers", victim.TimerSubject(7), append(others, "scheduler", "mill/operator", "mill/agent-host")},
		{"let its timers fire", victim.DueSubject(7), append(others, "mill/workflow-runner")},
		{"arm the clock", protocol.ClockSubject("desk", "Desk", "jo", "3.1.1"), append(others, "mill/workflow-runner")},
		{"let the clock fire", protocol.ClockDueSubject("desk", "Desk", "jo", "3.1.1"), append(others, "mill/workflow-runner")},
		{"write records of agents", protocol.KVSubject(protocol.AgentsBucket("desk"), "Desk.jo"), append(hosts, "desk/operator", "desk/workflow-runner")},
		{"write leases of hosts", protocol.KVSubject(protocol.HostsBucket("desk"), "h"), append(hosts, "desk/operator")},
		{"write dead letters", protocol.KVSubject(protocol.DeadBucket("desk"), "Desk.jo.1"), hosts},
		{"write schedules of agents", protocol.KVSubject(protocol.SchedulesBucket("desk"), "Desk.jo.1"), hosts[:4]},
		{"write schedules of workflows", protocol.KVSubject(protocol.SchedulesBucket("desk"), protocol.ScheduleKey(protocol.ClassCron, "fold", "c")), append(hosts[:4:4], "desk/agent-host")},
		{"register for another", protocol.KVSubject(protocol.BucketProjects, "mill"), append(others, "scheduler", "mill/operator")},
		{"take slots", protocol.KVSubject(protocol.SlotsBucket("mill"), "holders.grind"), append(others, "mill/operator", "mill/agent-host")},
		{"say that it cleans", protocol.KVSubject(protocol.BucketJanitors, "mill"), append(others, "mill/workflow-runner")},
		{"store large values without a grant", protocol.ObjectMetaSubject("mill", "x"), foreign},
		{"send mail without a grant", target.InboxSubject("spy"), []string{"spy/agent-host", "spy/workflow-runner", "spy/operator"}},
		{"send mail in another's name", target.InboxSubject("desk"), []string{"mill/workflow-runner", "mill/operator", "spy/agent-host"}},
		{"call agents in another's name", protocol.CallSubject("desk", "desk", "Desk"), []string{"mill/workflow-runner", "mill/operator", "spy/agent-host"}},
		{"bring requests to agents of another", target.RequestSubject(), append(hosts, "desk/operator")},
		{"bring answers to hosts of another", protocol.HostSubject("desk", "h"), append(hosts, "desk/operator")},
		{"bring messages to sockets of another", protocol.SocketsSubject("desk", "h"), append(hosts, "desk/operator")},
		{"stop runners of another", protocol.PokeSubject("mill"), append(others, "mill/operator")},
		{"hold up what agents write", protocol.QuiesceSubject("desk"), append(hosts, "desk/operator", "desk/agent-host", "desk/workflow-runner")},
		{"answer in another's place", protocol.UserInbox("mill_workflow-runner") + ".x", append(others, "mill/operator")},
		{"purge a log", api + "STREAM.PURGE." + mill, append(others, "mill/operator", "mill/agent-host")},
		{"delete from a log", api + "STREAM.MSG.DELETE." + mill, append(others, "mill/operator", "mill/agent-host")},
		{"purge the clock", api + "STREAM.PURGE." + protocol.StreamClock, append(others, "mill/workflow-runner")},
		{"purge the registry", api + "STREAM.PURGE." + protocol.KVStream(protocol.BucketProjects), append(others, "mill/workflow-runner", "scheduler")},
		{"delete a stream", api + "STREAM.DELETE." + mill, append(others, "mill/workflow-runner", "scheduler")},
		{"change a stream", api + "STREAM.UPDATE." + mill, append(others, "mill/workflow-runner", "scheduler")},
		{"make a stream of another", api + "STREAM.CREATE." + mill, append(others, "scheduler", "mill/operator", "mill/agent-host")},
		{"make any stream", api + "STREAM.CREATE.mine", append(others, "mill/workflow-runner", "scheduler")},
		{"copy a stream away", api + "STREAM.SNAPSHOT." + mill, append(others, "mill/workflow-runner", "scheduler")},
		{"depose leaders", api + "STREAM.LEADER.STEPDOWN." + mill, append(others, "mill/workflow-runner", "scheduler")},
		{"make a consumer", api + "CONSUMER.CREATE." + mill + ".mine", append(others, "scheduler", "mill/operator")},
		{"take wakes", api + "CONSUMER.MSG.NEXT." + mill + "." + protocol.ConsumerWakes(0), append(others, "scheduler", "mill/operator")},
		{"acknowledge wakes", protocol.AckPrefix + mill + "." + protocol.ConsumerWakes(0) + ".1.1.1.1.0", append(others, "scheduler", "mill/operator")},
		{"delete consumers", api + "CONSUMER.DELETE." + mill + "." + protocol.ConsumerWakes(0), append(others, "mill/workflow-runner", "scheduler")},
		{"read a log without a grant", api + "STREAM.MSG.GET." + mill, []string{"spy/agent-host", "spy/workflow-runner", "spy/viewer", "desk/viewer"}},
		{"read a log from a replica", api + "DIRECT.GET." + mill, []string{"spy/agent-host", "spy/workflow-runner", "spy/viewer", "desk/viewer"}},
		{"read mail", api + "STREAM.MSG.GET." + protocol.InboxStream("desk"), []string{"spy/agent-host", "mill/operator", "desk/workflow-runner"}},
		{"read records of agents", api + "STREAM.MSG.GET." + protocol.KVStream(protocol.AgentsBucket("desk")), hosts[:3]},
		{"change the servers", "$SYS.REQ.SERVER.X.RELOAD", append(others, "scheduler", "system")},
	}
	before := f.sequences()
	for _, row := range publishes {
		for _, user := range row.users {
			nc := f.reuse(f.as(user, row.subject))
			for _, subject := range slices.Compact([]string{row.subject, strings.ReplaceAll(row.subject, mill, protocol.WorkflowsStream("mill", 3))}) {
				if !refused(t, nc, func() error { return nc.Publish(subject, []byte(`{}`)) }) {
					t.Errorf("%s may %s: %s", user, row.what, subject)
				}
			}
		}
	}
	if after := f.sequences(); !slices.Equal(before, after) {
		t.Errorf("streams were at %v and are at %v", before, after)
	}
	for _, row := range []struct {
		what, subject string
		users         []string
	}{
		{"hear everything", ">", append(others, "scheduler", "system")},
		{"hear what is stored", protocol.WorkflowSubjects("mill"), []string{"spy/agent-host", "spy/workflow-runner", "spy/operator", "spy/viewer", "desk/agent-host", "desk/viewer", "scheduler"}},
		{"hear all answers", protocol.InboxPrefix + ".>", append(others, "mill/workflow-runner", "scheduler")},
		{"hear another's answers", protocol.UserInbox("mill_workflow-runner") + ".>", append(others, "mill/operator", "scheduler")},
		{"hear requests for agents", target.RequestSubject(), hosts},
		{"take calls of agents", protocol.CallSubjects("desk", "Desk"), hosts},
		{"take agents", protocol.ActivateSubject("desk", "Desk"), hosts},
		{"hear of ends without a grant", victim.EndedSubject(), []string{"spy/agent-host", "spy/viewer", "desk/viewer"}},
	} {
		for _, user := range row.users {
			nc := f.reuse(f.as(user, row.subject))
			if !refused(t, nc, func() error { _, err := nc.SubscribeSync(row.subject); return err }) {
				t.Errorf("%s may %s: %s", user, row.what, row.subject)
			}
		}
	}
}

// reuse returns the connection of a user that a test has already.
func (f *fort) reuse(user string) *nats.Conn {
	if f.conns[user] == nil {
		f.conns[user] = f.connect(user)
	}
	return f.conns[user]
}

// sequences are the newest ones of all streams.
func (f *fort) sequences() []uint64 {
	f.t.Helper()
	var all []uint64
	for _, project := range f.projects() {
		all = append(all, f.sequencesOf(project)...)
	}
	return all
}

// notStopped shows what docs/security.md says that permissions inside an account do not stop. Should one of these come to be
// refused, the page is to be changed, and may promise more. The cluster has three servers, and nobody works in spy.
func (f *fort) notStopped() {
	f.t.Helper()
	f.made("spy")
	// The server publishes an answer wherever whoever asks says.
	nc, bucket := f.reuse("spy/agent-host"), protocol.AgentsBucket("spy")
	key, forged := protocol.KVSubject(bucket, "Desk.a"), `{"forged":"log entry"}`
	natstest.Ask(f.t, "store a value", func(ctx context.Context) error {
		_, err := natstest.JetStream(f.t, nc).Publish(ctx, key, []byte(forged))
		return err
	})
	log, err := natstest.JetStream(f.t, f.reuse("mill/workflow-runner")).Stream(f.t.Context(), protocol.WorkflowsStream("mill", 0))
	if err != nil {
		f.t.Fatal(err)
	}
	natstest.Eventually(f.t, natstest.Patience, "the forged entry is in the log", func() bool {
		subject := "$JS.API.DIRECT.GET." + protocol.KVStream(bucket) + "." + key
		if refused(f.t, nc, func() error { return nc.PublishRequest(subject, victim.LogSubject(), nil) }) {
			f.t.Fatal("the request is refused")
		}
		m, err := log.GetLastMsgForSubject(f.t.Context(), victim.LogSubject())
		return err == nil && string(m.Data) == forged
	})
	// A header that fails when it is applied stops every replica of a stream.
	start := protocol.Instance{Project: "spy", Workflow: "grind", ID: "vic"}
	m := nats.NewMsg(start.CreateSubject())
	m.Header.Set(jetstream.ExpectedLastMsgIDHeader, "wrong")
	if answer, err := f.reuse("spy/operator").RequestMsg(m, natstest.Patience); err != nil || !strings.Contains(string(answer.Data), "10070") {
		f.t.Fatalf("answer %v, error %v", answer, err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Second)
	defer cancel()
	if _, err := natstest.JetStream(f.t, f.reuse("spy/workflow-runner")).Publish(ctx, start.LogSubject(), []byte("{}")); err == nil {
		f.t.Error("the stream lives")
	}
}
