package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestWorksWithLeastRights: with the users of skein auth, everything works, and nobody tries what it may not.
func TestWorksWithLeastRights(t *testing.T) {
	t.Parallel()
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprint("servers=", servers), func(t *testing.T) {
			t.Parallel()
			f := newFort(t, servers)
			f.work()
			if servers == 3 {
				f.notStopped()
			}
		})
		t.Run(fmt.Sprint("accounts/servers=", servers), func(t *testing.T) {
			t.Parallel()
			newFort(t, servers, "--accounts").work()
		})
	}
}

func (f *fort) work() {
	t, hosts := f.t, f.runAll()
	program := f.open("desk/operator", deskConfig)
	desks := agent.Bind[*desk]("Desk").In(program)
	cron, err := agent.Call(t.Context(), desks.Agent("jo"), (*desk).Start, "a")
	if err != nil {
		t.Fatal(err)
	}
	f.operate(cron)
	f.await(func() bool { return f.look(desks).Ticks > 1 }, "the cron fires again")
	if ok, err := agent.Call(t.Context(), desks.Agent("jo"), (*desk).Confirm, "a"); err != nil || !ok {
		t.Fatalf("confirm: %v, %v", ok, err)
	}
	f.await(func() bool { return f.look(desks).Done == 1 }, "the agent hears of the end of its workflow")
	if s := f.look(desks); s.Rung != 1 || s.Booked != len(large) {
		t.Errorf("state is %+v", s)
	}
	result, err := grindAt.In(program).Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := result.Result(t.Context()); err != nil || got != large {
		t.Errorf("result has %d bytes, error %v", len(got), err)
	}
	for _, host := range hosts { // one of them has not the agent
		f.visit(host)
	}
	f.cli("mill/viewer", "looked at", "doctor")
	f.cli("desk/viewer", "looked at", "doctor")
	f.cli("mill/viewer", "complete", "workflows", "watch", "grind", "a")
	if err := quiesce.Ask(t.Context(), f.admin("desk"), []string{"desk"}, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	f.await(func() bool { return strings.Contains(f.log.String(), "what agents write waits") }, "hosts hear that a backup is made")
	f.clean("mill", 4)
	f.cli("desk/operator", "jo", "agents", "inbox", "Desk", "jo")
	f.cli("desk/operator", "destroyed", "agents", "destroy", "Desk", "jo")
	f.wasAllowed()
	for _, user := range []string{"mill/workflow-runner", "desk/workflow-runner", "desk/agent-host", f.as("scheduler", "desk"), f.as("scheduler", "mill")} {
		f.isTold(user)
	}
}

// isTold checks that the servers tell a user when they write to disk. They may take longer than a process waits for that at its start.
func (f *fort) isTold(user string) {
	f.t.Helper()
	options := durability.Options{NC: f.reuse(user), Log: slog.New(slog.NewTextHandler(&f.log, nil)), Patience: natstest.Patience}
	if line := durability.Look(f.t.Context(), options, &durability.Streams{}).Line(); !strings.Contains(line, "sync_interval always") {
		f.t.Errorf("%s: %s", user, line)
	}
}

// await waits for something, but not if a server has refused what it needs.
func (f *fort) await(is func() bool, what string) {
	f.t.Helper()
	natstest.Eventually(f.t, natstest.Patience, what, func() bool {
		if f.wasAllowed(); f.t.Failed() {
			f.t.FailNow()
		}
		return is()
	})
}

func (f *fort) look(desks agent.Bound[*desk]) deskState {
	f.t.Helper()
	s, err := agent.Call(f.t.Context(), desks.Agent("jo"), (*desk).Look, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// wasAllowed checks that no server has refused anything to anybody so far.
func (f *fort) wasAllowed() {
	f.t.Helper()
	for line := range strings.Lines(f.log.String()) {
		if strings.Contains(strings.ToLower(line), "violation") {
			f.t.Error(line)
		}
	}
}

// visit reads an answer in parts from the agent, and talks over a socket.
func (f *fort) visit(host string) {
	f.t.Helper()
	response, err := http.Get("http://" + host + "/agents/desk/jo")
	if err != nil {
		f.t.Fatal(err)
	}
	body, err := io.ReadAll(bufio.NewReader(response.Body))
	if err != nil || response.Body.Close() != nil || string(body) != "0\n1\n2\n" {
		f.t.Errorf("%s answers %q, error %v", host, body, err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), natstest.Patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+host+"/agents/desk/jo", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	ws.SetReadLimit(4 << 20)
	defer func() { _ = ws.CloseNow() }()
	if err := ws.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		f.t.Fatal(err)
	}
	for {
		_, text, err := ws.Read(ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		if string(text) == "hello" {
			return
		}
	}
}

// operate runs what operators and viewers do while the workflow waits.
func (f *fort) operate(cron string) {
	f.t.Helper()
	schedule := "Desk/jo/" + cron
	f.await(func() bool {
		return strings.Contains(f.cli("desk/viewer", "", "dead-letters", "list", "--output", "json"), "it always fails")
	}, "a dead letter")
	f.await(func() bool { // its row follows the turn, too
		return strings.Contains(f.cli("desk/viewer", "", "schedules", "list"), schedule)
	}, "the cron is listed")
	f.cli("desk/operator", "paused", "schedules", "pause", schedule)
	f.cli("desk/operator", "resumed", "schedules", "resume", schedule)
	f.cli("desk/operator", "triggered", "schedules", "trigger", schedule)
	const mill = "mill/operator"
	f.await(func() bool { // the agent's turn was committed, what it starts in another project follows
		return strings.Contains(f.cli("mill/viewer", "", "workflows", "list", "grind", "--output", "json"), `"id":"a"`)
	}, "the workflow is started")
	f.cli("mill/viewer", "a", "workflows", "list", "grind")
	f.await(func() bool {
		return strings.Contains(f.cli("mill/viewer", "", "workflows", "describe", "grind", "a"), "rest")
	}, "the workflow runs")
	f.cli(mill, "", "workflows", "create", "grind", "--id", "b", "--params", `"`+large+`"`)
	f.cli(mill, "", "workflows", "pause", "grind", "b")
	f.cli(mill, "", "workflows", "resume", "grind", "b")
	f.cli(mill, "", "workflows", "restart", "grind", "b")
	f.cli(mill, "", "workflows", "send-event", "grind", "b", "confirmed", "--payload", `"yes"`)
	f.cli(mill, "", "workflows", "terminate", "grind", "b")
	f.cli(mill, "", "workflows", "export", "grind", "b")
	f.cli(mill, "", "workflows", "delete", "grind", "b")
	sift := regexp.MustCompile(`sift/cron-\w+`).FindString(f.cli("mill/viewer", "sift/cron-", "schedules", "list"))
	f.cli(mill, "triggered", "schedules", "trigger", sift)
	f.cli(mill, "", "schedules", "backfill", sift, "--from", "2026-11-01T00:00:00Z", "--until", "2026-11-01T00:00:02Z")
	f.await(func() bool {
		return strings.Contains(f.cli("mill/viewer", "", "workflows", "list", "sift", "--output", "json"), "cron")
	}, "the scheduler starts an instance")
}

// clean does what the janitor of a scheduler does, at once.
func (f *fort) clean(name string, shards int) {
	f.t.Helper()
	nc := f.connect(f.as("scheduler", name))
	store, err := journal.Open(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	js := natstest.JetStream(f.t, nc)
	settings := janitor.Settings{Age: time.Nanosecond, Margin: time.Nanosecond, Chunk: 10, Share: -1000}
	log := slog.New(slog.NewTextHandler(&f.log, nil))
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	j := janitor.New(janitor.Options{Store: store, JS: js, Log: log, ID: "test", Settings: settings, Every: 100 * time.Millisecond, Replicas: len(f.names)})
	go func() { ended <- j.Run(ctx) }()
	f.await(func() bool {
		state, err := store.State(f.t.Context(), protocol.WorkflowsStream(name, 0))
		for shard := 1; shard < shards && err == nil && state.First <= 1; shard++ {
			state, err = store.State(f.t.Context(), protocol.WorkflowsStream(name, shard))
		}
		return err == nil && state.First > 1
	}, "the log is cleaned")
	cancel()
	if err := <-ended; err != nil {
		f.t.Error(err)
	}
	var all []*janitor.Cleaner
	for shard := range shards {
		all = append(all, &janitor.Cleaner{
			Store: store, Floors: janitor.Consumers{JS: js}, Project: name, Shard: shard, Objects: objects.New(store), Log: log, Settings: settings,
		})
	}
	if _, err := janitor.Sweep(f.t.Context(), all); err != nil {
		f.t.Error(err)
	}
	f.lookAfter(store, js, name)
}

// lookAfter makes a round as a scheduler does, and sends the instances of a project what one may send.
func (f *fort) lookAfter(store *journal.Store, js jetstream.JetStream, name string) {
	f.t.Helper()
	row, err := streams.LookUp(f.t.Context(), js, name)
	if err != nil {
		f.t.Fatal(err)
	}
	if report, err := doctor.New(doctor.Options{
		Store: store, Project: *row, Repair: true, Patience: 20 * time.Second, // as skein doctor has
		Found: func(found doctor.Finding) error { f.t.Error(found); return nil },
	}).ExamineInstances(f.t.Context()); err != nil {
		f.t.Errorf("of %d instances looked at: %v", report.Instances, err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), natstest.Patience)
	defer cancel()
	nobody := protocol.Instance{Project: name, Workflow: "sift", ID: "nobody"}
	if _, err := store.Append(ctx, nobody.Stream(), nobody.NudgeSubject(), 0, []byte(`{"v":1,"runner":"doctor"}`)); err != nil {
		f.t.Error(err)
	}
	if _, err := store.Last(ctx, protocol.KVStream(protocol.SlotsBucket(name)), ">"); err != nil && !errors.Is(err, journal.ErrNotFound) {
		f.t.Error(err)
	}
}
