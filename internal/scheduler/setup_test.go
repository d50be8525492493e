package scheduler_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"
	_ "time/tzdata" // rows name time zones

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// serverEnv makes the test program a scheduler on the server that it names, so that tests can kill a real process.
const serverEnv = "SKEIN_SCHEDULER_TEST_SERVER"

func TestMain(m *testing.M) {
	if url := os.Getenv(serverEnv); url != "" {
		cmd := process.Command(process.Spec{Use: "scheduler", Run: func(ctx context.Context, env *process.Env) error {
			return scheduler.New(scheduler.Options{NC: env.NC, JS: env.JS, Log: env.Log, Health: env.Health}).Run(ctx)
		}})
		cmd.SetArgs([]string{"--nats-url", url})
		process.Main(cmd)
	}
	natstest.Parallel(6)
	os.Exit(m.Run())
}

const (
	project = "flight-desk"
	class   = "Desk"
	name    = "jo@example.com"
	wait    = natstest.Patience
)

// world is a server with one project, as its agent hosts make it.
type world struct {
	server   *natstest.Server // nil in a cluster
	dial     func(testing.TB, ...nats.Option) *nats.Conn
	replicas int
	js       jetstream.JetStream
	store    *journal.Store
	log      *logBuffer
}

func setup(t *testing.T) *world {
	t.Helper()
	server := natstest.Start(t)
	w := &world{server: server, dial: server.Connect, replicas: 1, log: new(logBuffer)}
	w.open(t)
	return w
}

func setupCluster(t *testing.T) (*world, *natstest.Cluster) {
	t.Helper()
	cluster := natstest.StartCluster(t, 3)
	w := &world{dial: cluster.Connect, replicas: 3, log: new(logBuffer)}
	w.open(t)
	return w, cluster
}

func (w *world) open(t *testing.T) {
	t.Helper()
	nc := w.dial(t)
	w.js = natstest.JetStream(t, nc)
	var err error
	if w.store, err = journal.Open(nc); err != nil {
		t.Fatal(err)
	}
	w.registerProject(t, project)
}

func (w *world) registerProject(t *testing.T, name string) {
	t.Helper()
	opts := streams.Options{Replicas: w.replicas}
	for what, err := range map[string]error{
		"registry": streams.EnsureProjects(t.Context(), w.js, opts),
		"agents":   streams.EnsureAgents(t.Context(), w.js, name, opts),
		"row":      streams.RegisterAgents(t.Context(), w.js, name, []string{class}),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) has(s string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.text.Bytes(), []byte(s))
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// running is a scheduler in a goroutine.
type running struct {
	*scheduler.Scheduler
	health *process.Health
	cancel context.CancelFunc
	done   chan error
}

// start starts a scheduler with a connection of its own and waits until it is ready.
func (w *world) start(t *testing.T) *running { return w.startAt(t, time.Now) }

func (w *world) startAt(t *testing.T, now func() time.Time) *running {
	t.Helper()
	return w.startWith(t, func(o *scheduler.Options) { o.Now = now })
}

func (w *world) startWith(t *testing.T, change func(*scheduler.Options)) *running {
	t.Helper()
	nc := w.dial(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	health := process.NewHealth()
	opts := scheduler.Options{NC: nc, JS: js, Log: w.log.logger(), Health: health, Replicas: w.replicas}
	change(&opts)
	s := scheduler.New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Scheduler: s, health: health, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() { r.stop(t) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the schedulers:\n%s", w.log)
		}
	})
	natstest.Eventually(t, wait, "scheduler is ready", func() bool { return health.Readiness().Ready })
	return r
}

// stop stops the scheduler, once, and fails if it does not end well.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err, ok := <-r.done:
		if ok && err != nil {
			t.Errorf("scheduler ended with %v", err)
		}
		if ok {
			close(r.done)
		}
	case <-time.After(wait):
		t.Fatal("scheduler does not stop")
	}
}

// schedule is a row of the test's agent; change makes it what the test needs.
func schedule(id string, change func(*protocol.Schedule)) protocol.Schedule {
	s := protocol.Schedule{
		V: protocol.Version, ID: id, Class: class, Name: name, Life: 7, Callback: "Check",
		Payload: json.RawMessage(`{"n":1}`), Created: time.Now().UTC(),
	}
	change(&s)
	return s
}

func at(id string, moment time.Time) protocol.Schedule {
	return schedule(id, func(s *protocol.Schedule) { s.Kind, s.At = protocol.ScheduleDate, &moment })
}

func after(id string, delay time.Duration) protocol.Schedule {
	return schedule(id, func(s *protocol.Schedule) { s.Kind, s.At = protocol.ScheduleDelay, new(s.Created.Add(delay)) })
}

func cron(id, line string) protocol.Schedule {
	return schedule(id, func(s *protocol.Schedule) { s.Kind, s.Cron = protocol.ScheduleCron, line })
}

func rowSubject(project, id string) string {
	return protocol.KVSubject(protocol.SchedulesBucket(project), protocol.ScheduleKey(class, name, id))
}

// put stores a row as an agent host does.
func (w *world) put(t *testing.T, s protocol.Schedule) uint64 {
	t.Helper()
	body, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return w.putRaw(t, s.ID, body)
}

func (w *world) putRaw(t *testing.T, id string, body []byte) uint64 {
	t.Helper()
	revision, err := w.store.Publish(t.Context(), rowSubject(project, id), nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func (w *world) delete(t *testing.T, id string) {
	t.Helper()
	header := nats.Header{protocol.HeaderKVOperation: {protocol.KVDelete}}
	if _, err := w.store.Publish(t.Context(), rowSubject(project, id), header, nil); err != nil {
		t.Fatal(err)
	}
}

// mails returns the inbox of the test's agent, in the order of arrival.
func (w *world) mails(t *testing.T, project string) []protocol.Mail {
	t.Helper()
	subject := protocol.Agent{Project: project, Class: class, Name: name}.InboxSubject(project)
	var mails []protocol.Mail
	for from, more := uint64(1), true; more; {
		var page []journal.Message
		var err error
		if page, more, err = w.store.Page(t.Context(), protocol.InboxStream(project), subject, from, 100); err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			var mail protocol.Mail
			if err := json.Unmarshal(m.Data, &mail); err != nil {
				t.Fatal(err)
			}
			mails = append(mails, mail)
			from = m.Sequence + 1
		}
	}
	return mails
}

// mail puts mail into the inbox of the test's agent, as a scheduler does.
func (w *world) mail(t *testing.T, mail protocol.Mail) {
	t.Helper()
	body, err := json.Marshal(mail)
	if err == nil {
		_, err = w.store.Publish(t.Context(), protocol.Agent{Project: project, Class: class, Name: name}.InboxSubject(project), nil, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// awaitMails waits until the inbox has n mails or more.
func (w *world) awaitMails(t *testing.T, n int) []protocol.Mail {
	t.Helper()
	var mails []protocol.Mail
	natstest.Eventually(t, wait, fmt.Sprintf("%d mails", n), func() bool {
		mails = w.mails(t, project)
		return len(mails) >= n
	})
	return mails
}

// once leaves of each firing the copy that came last: what is published again, as its acknowledgement came late, is stored again,
// and a firing whose handling broke off is mailed again.
func once(mails []protocol.Mail) (firings []protocol.Mail) {
	newest := map[string]int{} // by source
	for _, m := range mails {
		if i, ok := newest[m.Source]; ok && firings[i].Number == m.Number {
			firings[i] = m
			continue
		}
		newest[m.Source] = len(firings)
		firings = append(firings, m)
	}
	return firings
}

// awaitFirings waits until n moments or more have been mailed.
func (w *world) awaitFirings(t *testing.T, n int) []protocol.Mail {
	t.Helper()
	var firings []protocol.Mail
	natstest.Eventually(t, wait, fmt.Sprintf("%d firings", n), func() bool {
		firings = once(w.mails(t, project))
		return len(firings) >= n
	})
	return firings
}

// messages counts what a stream holds.
func (w *world) messages(t *testing.T, stream string) uint64 {
	t.Helper()
	var s jetstream.Stream
	natstest.Ask(t, "how much "+stream+" holds", func(ctx context.Context) (err error) {
		s, err = w.js.Stream(ctx, stream)
		return err
	})
	return s.CachedInfo().State.Msgs
}

// awaitNothingLeft waits until neither rows nor markers nor moments are left, and everything is acked.
func (w *world) awaitNothingLeft(t *testing.T) {
	t.Helper()
	rows := protocol.KVStream(protocol.SchedulesBucket(project))
	natstest.Eventually(t, wait, "no row, no marker and no moment is left", func() bool {
		return w.messages(t, rows) == 0 && w.messages(t, protocol.StreamClock) == 0 && w.unacked(t, rows, protocol.ConsumerScheduler) == 0
	})
}

func (w *world) unacked(t *testing.T, stream, consumer string) int {
	t.Helper()
	var c jetstream.Consumer
	natstest.Ask(t, "what waits in "+stream, func(ctx context.Context) (err error) {
		c, err = w.js.Consumer(ctx, stream, consumer)
		return err
	})
	info := c.CachedInfo()
	return info.NumAckPending + int(info.NumPending)
}

// armed returns what is armed for a schedule, nil if nothing is.
func (w *world) armed(t *testing.T, id string) *protocol.Tick {
	t.Helper()
	m, err := w.store.Last(t.Context(), protocol.StreamClock, protocol.ClockSubject(project, class, name, id))
	if err != nil || len(m.Data) == 0 {
		return nil
	}
	tick := new(protocol.Tick)
	if err := json.Unmarshal(m.Data, tick); err != nil {
		t.Fatal(err)
	}
	return tick
}

// awaitNext waits until something is armed, whatever it is.
func (w *world) awaitNext(t *testing.T, id string) *protocol.Tick {
	t.Helper()
	var tick *protocol.Tick
	natstest.Eventually(t, wait, id+" is armed", func() bool {
		tick = w.armed(t, id)
		return tick != nil
	})
	return tick
}

func (w *world) awaitArmed(t *testing.T, id string, revision uint64) {
	t.Helper()
	natstest.Eventually(t, wait, fmt.Sprintf("revision %d of %s is armed", revision, id), func() bool {
		tick := w.armed(t, id)
		return tick != nil && tick.Revision == revision
	})
}

// putArmed puts a row that fires once and waits until it is armed, or its moment has come, on a machine that is so slow: then
// nothing may be armed any more.
func (w *world) putArmed(t *testing.T, row protocol.Schedule) {
	t.Helper()
	revision := w.put(t, row)
	natstest.Eventually(t, wait, row.ID+" is armed", func() bool {
		tick := w.armed(t, row.ID)
		return tick != nil && tick.Revision == revision || !time.Now().Before(*row.At)
	})
}
