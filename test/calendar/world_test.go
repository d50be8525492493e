package calendar

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	project  = "almanac"
	class    = "Desk"
	name     = "jo"
	workflow = "digest"
)

// world is a NATS server and a scheduler that are there only while something is to happen: at rest, a server costs half a
// second of CPU per day of the calendar, a scheduler seven. Stopped, both cost nothing, and what is armed waits on disk.
type world struct {
	dir string

	server    *server.Server
	nc        *nats.Conn
	js        jetstream.JetStream
	store     *journal.Store
	stopRun   context.CancelFunc
	scheduled chan error
}

// open starts the server. Nothing listens: a connection is a pipe in memory, whose waits the bubble understands.
func (w *world) open(t *testing.T) {
	t.Helper()
	var err error
	w.server, err = server.NewServer(&server.Options{
		ServerName: "calendar", DontListen: true, JetStream: true, StoreDir: w.dir, NoSigs: true, NoLog: true, NoSystemAccount: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.server.Start()
	if !w.server.ReadyForConnections(time.Minute) {
		t.Fatal("the server takes no connections")
	}
	if w.nc, err = nats.Connect("", nats.InProcessServer(w.server)); err != nil {
		t.Fatal(err)
	}
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	if w.store, err = journal.Open(w.nc); err != nil {
		t.Fatal(err)
	}
}

func (w *world) close(t *testing.T) {
	t.Helper()
	if err := w.store.Close(); err != nil {
		t.Error(err)
	}
	w.nc.Close()
	w.server.Shutdown()
	w.server.WaitForShutdown()
}

// schedule starts a scheduler, and waits until it is ready.
func (w *world) schedule(t *testing.T) {
	t.Helper()
	health := process.NewHealth()
	s := scheduler.New(scheduler.Options{
		NC: w.nc, JS: w.js, Log: slog.New(slog.DiscardHandler), Health: health,
		CleanEvery: 365 * 24 * time.Hour, // nothing runs the instances, so nothing can be cleaned
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.stopRun, w.scheduled = cancel, make(chan error, 1)
	go func() { w.scheduled <- s.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); !health.Readiness().Ready; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the scheduler is not ready: %+v", health.Readiness())
		}
	}
}

func (w *world) unschedule(t *testing.T) {
	t.Helper()
	w.stopRun()
	if err := <-w.scheduled; err != nil {
		t.Errorf("scheduler: %v", err)
	}
}

// register makes what the project's hosts and runners make, and their rows.
func (w *world) register(t *testing.T, rows []protocol.Schedule) {
	t.Helper()
	ctx, opts := t.Context(), streams.Options{}
	if err := errors.Join(
		streams.EnsureProjects(ctx, w.js, opts),
		streams.EnsureAgents(ctx, w.js, project, opts),
		streams.EnsureWorkflows(ctx, w.js, project, 1, opts),
		streams.RegisterAgents(ctx, w.js, project, []string{class}),
		streams.RegisterWorkflows(ctx, w.js, project, 1, map[string]string{workflow: "Digest"}),
		streams.RegisterSchedules(ctx, w.js, project),
	); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		body, err := json.Marshal(row)
		if err == nil {
			subject := protocol.KVSubject(protocol.SchedulesBucket(project), protocol.ScheduleKey(row.Class, row.Name, row.ID))
			_, err = w.store.Publish(ctx, subject, nil, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// delivery is a firing that has come to whom it is for.
type delivery struct {
	planned, actual time.Time
	last            bool
}

// deliveries are all mail of the agent and all instances, by schedule, in the order in which they came.
func (w *world) deliveries(t *testing.T) map[string][]delivery {
	t.Helper()
	all := map[string][]delivery{}
	agent := protocol.Agent{Project: project, Class: class, Name: name}
	for _, data := range w.messages(t, protocol.InboxStream(project), agent.InboxSubject(project)) {
		var mail protocol.Mail
		if err := json.Unmarshal(data, &mail); err != nil {
			t.Fatal(err)
		}
		all[mail.Source] = append(all[mail.Source], delivery{planned: *mail.Planned, actual: mail.Sent, last: mail.Last})
	}
	for _, data := range w.messages(t, protocol.WorkflowsStream(project, 0), protocol.CreateSubjects(project, workflow)) {
		var create protocol.Create
		if err := json.Unmarshal(data, &create); err != nil {
			t.Fatal(err)
		}
		all[create.Source.Name] = append(all[create.Source.Name], delivery{planned: create.Schedule.Planned, actual: create.Created})
	}
	return all
}

func (w *world) messages(t *testing.T, stream, subject string) (bodies [][]byte) {
	t.Helper()
	for from, more := uint64(1), true; more; {
		var page []journal.Message
		var err error
		if page, more, err = w.store.Page(t.Context(), stream, subject, from, 100); err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			bodies = append(bodies, m.Data)
			from = m.Sequence + 1
		}
	}
	return bodies
}
