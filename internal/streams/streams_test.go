package streams_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

func setup(t *testing.T) jetstream.JetStream {
	t.Helper()
	return newJetStream(t, natstest.Start(t).Connect(t))
}

func newJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js := natstest.JetStream(t, nc)
	return js
}

func ensureAll(ctx context.Context, js jetstream.JetStream, opts streams.Options) error {
	return errors.Join(
		streams.EnsureProjects(ctx, js, opts),
		streams.EnsureClock(ctx, js, opts),
		streams.EnsureWorkflows(ctx, js, "shop", 2, opts),
		streams.EnsureAgents(ctx, js, "shop", opts),
	)
}

// streamFacts are what the protocol needs of a stream, written out as the server reports it.
type streamFacts struct {
	subject                string
	retention              jetstream.RetentionPolicy
	discard                jetstream.DiscardPolicy
	perSubject             int64
	duplicates             time.Duration
	direct, denyDelete     bool
	rollup, ttl, schedules bool
	// never is true if the stream allows atomic batches, fast batches or counters, or denies purges.
	never     bool
	consumers string
}

func TestEverythingIsMadeAsDesigned(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := ensureAll(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	const limits, work = jetstream.LimitsPolicy, jetstream.WorkQueuePolicy
	const ms100, min2 = 100 * time.Millisecond, 2 * time.Minute
	bucket := func(name string, consumers ...string) streamFacts {
		return streamFacts{subject: "$KV." + name + ".>", retention: limits, perSubject: 1, direct: true, denyDelete: true,
			rollup: true, consumers: strings.Join(consumers, " "), discard: jetstream.DiscardNew, duplicates: min2}
	}
	projects := bucket("PROJECTS")
	projects.direct = false
	schedules := bucket("SCHEDULES_shop", "scheduler")
	schedules.denyDelete = false
	want := map[string]streamFacts{
		"WORKFLOWS_shop": {subject: "wf.shop.0.>", retention: limits, perSubject: -1, direct: true,
			consumers: "controls wakes", duplicates: ms100},
		"WORKFLOWS_shop=1": {subject: "wf.shop.1.>", retention: limits, perSubject: -1, direct: true,
			consumers: "controls-1 wakes-1", duplicates: ms100},
		"TIMERS_shop": {subject: "timer.shop.>", retention: work, perSubject: -1, direct: true, rollup: true, ttl: true,
			schedules: true, consumers: "due", duplicates: ms100},
		"OBJ_OBJECTS_shop": {subject: "$O.OBJECTS_shop.C.> $O.OBJECTS_shop.M.>", retention: limits, perSubject: -1, direct: true,
			rollup: true, duplicates: ms100, discard: jetstream.DiscardNew},
		"INBOX_shop": {subject: "inbox.shop.>", retention: work, perSubject: 10_000, discard: jetstream.DiscardNew, direct: true,
			consumers: "doorbell", duplicates: ms100},
		"CLOCK": {subject: "clock.>", retention: work, perSubject: -1, direct: true, rollup: true, ttl: true,
			schedules: true, consumers: "clock", duplicates: ms100},
		"KV_AGENTS_shop":      bucket("AGENTS_shop"),
		"KV_SCHEDULES_shop":   schedules,
		"KV_HOSTS_shop":       bucket("HOSTS_shop"),
		"KV_DEAD_shop":        bucket("DEAD_shop"),
		"KV_CONNECTIONS_shop": bucket("CONNECTIONS_shop"),
		"KV_SLOTS_shop":       bucket("SLOTS_shop"),
		"KV_PROJECTS":         projects,
	}
	for info := range js.ListStreams(t.Context()).Info() {
		name, c := info.Config.Name, info.Config
		facts, ok := want[name]
		delete(want, name)
		if !ok {
			t.Errorf("stream %s was not asked for", name)
			continue
		}
		got := streamFacts{subject: strings.Join(c.Subjects, " "), retention: c.Retention, perSubject: c.MaxMsgsPerSubject,
			direct: c.AllowDirect, denyDelete: c.DenyDelete, rollup: c.AllowRollup, ttl: c.AllowMsgTTL,
			schedules: c.AllowMsgSchedules, consumers: consumerNames(t, js, name), discard: c.Discard, duplicates: c.Duplicates,
			never: c.AllowAtomicPublish || c.AllowBatchPublish || c.AllowMsgCounter || c.DenyPurge}
		if got != facts {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, facts)
		}
		if c.Storage != jetstream.FileStorage || c.MaxAge != 0 || c.MaxMsgs != -1 || c.MaxBytes != -1 ||
			c.Compression != jetstream.NoCompression || c.Replicas != 1 {
			t.Errorf("%s has limits, compression, replicas or storage that were not asked for: %+v", name, c)
		}
	}
	for name := range want {
		t.Errorf("stream %s is missing", name)
	}
}

func consumerNames(t *testing.T, js jetstream.JetStream, stream string) string {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range s.ConsumerNames(t.Context()).Name() {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestConsumers(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := ensureAll(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		stream, name, filter string
		ackWait              time.Duration
		pending              int
	}{
		{"WORKFLOWS_shop", "wakes", "wf.shop.0.in.>", 5 * time.Second, 100_000},
		{"WORKFLOWS_shop=1", "wakes-1", "wf.shop.1.in.>", 5 * time.Second, 100_000},
		{"WORKFLOWS_shop", "controls", "wf.shop.0.ctl.>", 5 * time.Second, 100_000},
		{"WORKFLOWS_shop=1", "controls-1", "wf.shop.1.ctl.>", 5 * time.Second, 100_000},
		{"TIMERS_shop", "due", "timer.shop.*.*.*.*.due", 5 * time.Second, 100_000},
		{"INBOX_shop", "doorbell", "", 15 * time.Second, -1},
		{"KV_SCHEDULES_shop", "scheduler", "$KV.SCHEDULES_shop.>", 10 * time.Second, 10_000},
		{"CLOCK", "clock", "clock.due.>", 10 * time.Second, 10_000},
	} {
		t.Run(row.stream+"/"+row.name, func(t *testing.T) {
			c, err := js.Consumer(t.Context(), row.stream, row.name)
			if err != nil {
				t.Fatal(err)
			}
			got := c.CachedInfo().Config
			if got.FilterSubject != row.filter || got.AckWait != row.ackWait || got.MaxAckPending != row.pending {
				t.Errorf("filter %q, ack_wait %s, max_ack_pending %d", got.FilterSubject, got.AckWait, got.MaxAckPending)
			}
			if got.Durable != row.name || got.AckPolicy != jetstream.AckExplicitPolicy || got.MaxDeliver != -1 ||
				got.DeliverPolicy != jetstream.DeliverAllPolicy || got.MemoryStorage || got.Replicas > 1 {
				t.Errorf("config %+v", got)
			}
		})
	}
}

func TestManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	var g errgroup.Group
	for range 8 {
		js := newJetStream(t, s.Connect(t))
		g.Go(func() error { return ensureAll(t.Context(), js, streams.Options{}) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWaitsForTheServer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js := newJetStream(t, s.Connect(t))
	s.Stop(t)
	done := make(chan error, 1)
	go func() { done <- ensureAll(t.Context(), js, streams.Options{}) }()
	select {
	case err := <-done:
		t.Fatalf("did not wait for the server: %v", err)
	case <-time.After(300 * time.Millisecond): // enough to fail in
	}
	s.Start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestConsumerIsFoundLater: a runner that starts while a server does, or a cluster elects a leader, must not give up.
func TestConsumerIsFoundLater(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js := newJetStream(t, s.Connect(t))
	if err := streams.EnsureClock(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	done := make(chan error, 1)
	go func() {
		c, err := streams.Consumer(t.Context(), js, protocol.StreamClock, protocol.ConsumerClock)
		if err == nil && c.CachedInfo().Name != protocol.ConsumerClock {
			err = errors.New("found another")
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("did not wait for the server: %v", err)
	case <-time.After(300 * time.Millisecond): // enough to fail in
	}
	s.Start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := streams.Consumer(t.Context(), js, protocol.StreamClock, "none"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a consumer that nobody made: %v", err)
	}
}

func TestStopsWithTheContext(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js := newJetStream(t, s.Connect(t))
	s.Stop(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("told to stop")
	time.AfterFunc(200*time.Millisecond, func() { cancel(reason) })
	err := streams.EnsureClock(ctx, js, streams.Options{})
	if !errors.Is(err, reason) || !strings.Contains(err.Error(), `"CLOCK"`) {
		t.Fatalf("error is %v", err)
	}
}

func TestReplicasWithoutCluster(t *testing.T) {
	t.Parallel()
	err := streams.EnsureClock(t.Context(), setup(t), streams.Options{Replicas: 3})
	if err == nil || !strings.Contains(err.Error(), "non-clustered") {
		t.Fatalf("error is %v", err)
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		change  func(*jetstream.StreamConfig)
		setting string
		found   string
	}{
		{"retention", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy; c.AllowDirect = true }, "retention", "WorkQueue"},
		{"subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"wf.shop.0.>"} }, "subjects", `["wf.shop.0.>"]`},
		{"max age", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, "max_age", "1h0m0s"},
		{"number", func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 }, "max_msgs", "1000"},
		{"memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage", "Memory"},
		{"acknowledged before it is written", func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }, "persist_mode", "Async"},
		{"schedules", func(c *jetstream.StreamConfig) {
			c.AllowMsgSchedules = true
			c.AllowRollup = true
			c.AllowMsgTTL = true
		}, "allow_msg_schedules", "true"},
		{"delete denied", func(c *jetstream.StreamConfig) { c.DenyDelete = true }, "deny_delete", "true"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			js := setup(t)
			c := jetstream.StreamConfig{Name: "WORKFLOWS_shop", Subjects: []string{"wf.shop.>"}, AllowDirect: true}
			row.change(&c)
			if _, err := js.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			err := streams.EnsureWorkflows(t.Context(), js, "shop", 1, streams.Options{})
			if !hasSetting(err, row.setting, row.found) {
				t.Fatalf("error is %v", err)
			}
			if !strings.Contains(err.Error(), `stream "WORKFLOWS_shop"`) {
				t.Errorf("error does not name the stream: %v", err)
			}
		})
	}
}

// hasSetting walks joined errors: several settings may be wrong at once.
func hasSetting(err error, setting, found string) bool {
	if s, ok := err.(*streams.SettingError); ok {
		return s.Setting == setting && s.Found == found && s.Wanted != found
	}
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return hasSetting(x.Unwrap(), setting, found)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(x.Unwrap(), func(e error) bool { return hasSetting(e, setting, found) })
	}
	return false
}

func TestWhatAnOperatorChangedStays(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := ensureAll(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), "WORKFLOWS_shop", "wakes")
	if err != nil {
		t.Fatal(err)
	}
	tuned := c.CachedInfo().Config
	tuned.AckWait = 30 * time.Second
	if _, err := js.UpdateConsumer(t.Context(), "WORKFLOWS_shop", tuned); err != nil {
		t.Fatal(err)
	}
	if err := ensureAll(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	again, err := js.Consumer(t.Context(), "WORKFLOWS_shop", "wakes")
	if err != nil {
		t.Fatal(err)
	}
	if got := again.CachedInfo(); got.Config.AckWait != 30*time.Second || !got.Created.Equal(c.CachedInfo().Created) {
		t.Errorf("ack_wait %s, created %s; the consumer was made at %s", got.Config.AckWait, got.Created, c.CachedInfo().Created)
	}
}

func TestTakeOverAfter(t *testing.T) {
	t.Parallel()
	js := setup(t)
	for _, row := range []struct{ set, want time.Duration }{{2 * time.Second, 2 * time.Second}, {0, 2 * time.Second}, {3 * time.Second, 3 * time.Second}} {
		if err := ensureAll(t.Context(), js, streams.Options{TakeOverAfter: row.set}); err != nil {
			t.Fatal(err)
		}
		for _, at := range []struct{ stream, consumer string }{{"WORKFLOWS_shop", "wakes"}, {"WORKFLOWS_shop", "controls"}, {"TIMERS_shop", "due"}} {
			c, err := js.Consumer(t.Context(), at.stream, at.consumer)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.CachedInfo().Config; got.AckWait != row.want || got.MaxAckPending != 100_000 {
				t.Errorf("set to %v: %s of %s has ack_wait %v and max_ack_pending %d", row.set, at.consumer, at.stream, got.AckWait, got.MaxAckPending)
			}
		}
	}
}

func TestWrongConsumerIsNamed(t *testing.T) {
	t.Parallel()
	js := setup(t)
	if err := streams.EnsureClock(t.Context(), js, streams.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), "CLOCK", "clock"); err != nil {
		t.Fatal(err)
	}
	_, err := js.CreateConsumer(t.Context(), "CLOCK", jetstream.ConsumerConfig{Durable: "clock", AckPolicy: jetstream.AckExplicitPolicy,
		FilterSubject: "clock.due.>", MaxDeliver: 3})
	if err != nil {
		t.Fatal(err)
	}
	err = streams.EnsureClock(t.Context(), js, streams.Options{})
	if !hasSetting(err, "max_deliver", "3") || !strings.Contains(err.Error(), `consumer "clock" of stream "CLOCK"`) {
		t.Fatalf("error is %v", err)
	}
}

func TestBadNamesAndNumbers(t *testing.T) {
	t.Parallel()
	js := setup(t)
	for name, err := range map[string]error{
		"project of workflows": streams.EnsureWorkflows(t.Context(), js, "my shop", 1, streams.Options{}),
		"project of agents":    streams.EnsureAgents(t.Context(), js, "", streams.Options{}),
		"looked up":            second(streams.LookUp(t.Context(), js, "a.b")),
		"registered class":     streams.RegisterAgents(t.Context(), js, "shop", []string{"Flight Desk"}),
		"registered workflow":  streams.RegisterWorkflows(t.Context(), js, "shop", 1, map[string]string{"a.b": "C"}),
	} {
		if !errors.Is(err, protocol.ErrName) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if err := streams.EnsureWorkflows(t.Context(), js, "shop", 0, streams.Options{}); err == nil {
		t.Error("0 shards were taken")
	}
}

func second[T any](_ T, err error) error { return err }

func TestCluster(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3)
	js := newJetStream(t, c.Connect(t))
	opts := streams.Options{Replicas: 3}
	var g errgroup.Group
	for range 3 {
		js := newJetStream(t, c.Connect(t))
		g.Go(func() error { return ensureAll(t.Context(), js, opts) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	info, err := js.Consumer(t.Context(), "WORKFLOWS_shop", "wakes")
	if err != nil || len(info.CachedInfo().Cluster.Replicas) != 2 {
		t.Fatalf("the wake consumer has not its stream's replicas: %+v, error %v", info, err)
	}
	c.MoveLeader(t, "KV_PROJECTS")
	g = errgroup.Group{}
	for _, class := range []string{"A", "B", "C", "D"} {
		js := newJetStream(t, c.Connect(t))
		g.Go(func() error { return streams.RegisterAgents(t.Context(), js, "shop", []string{class}) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	row, err := streams.LookUp(t.Context(), js, "shop")
	if err != nil || len(row.Agents) != 4 {
		t.Fatalf("row %+v, error %v", row, err)
	}
	// A server that is alone for some time must find its way, and replicas asked for later change nothing.
	c.Restart(t, 1)
	if err := ensureAll(t.Context(), newJetStream(t, c.Servers[1].Connect(t)), streams.Options{}); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "WORKFLOWS_shop")
	if err != nil || stream.CachedInfo().Config.Replicas != 3 {
		t.Fatalf("replicas changed: %+v, error %v", stream, err)
	}
}
