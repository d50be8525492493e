package janitor_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(serverEnv); url != "" {
		fmt.Fprintln(os.Stderr, runJanitor(url))
		os.Exit(1)
	}
	natstest.Parallel(6)
	os.Exit(m.Run())
}

// yard is a project with workflows whose log is cleaned.
type yard struct {
	t       *testing.T
	nc      *nats.Conn
	js      jetstream.JetStream
	store   *journal.Store
	project *project.Project
	shards  int
	// gates are where bodies wait for the test, by instance.
	mu    sync.Mutex // guards gates
	gates map[string]*gate
}

type gate struct {
	arrived, open chan struct{}
}

// classes are the workflows of the project, by their names.
var classes = []string{"quick", "waits", "sleeps", "works", "calls", "large"}

func setup(t *testing.T) *yard { return open(t, natstest.Start(t).Connect(t), 1) }

func open(t *testing.T, nc *nats.Conn, replicas int) *yard { return openShards(t, nc, replicas, 1) }

func openShards(t *testing.T, nc *nats.Conn, replicas, shards int) *yard {
	t.Helper()
	y := &yard{t: t, nc: nc, js: natstest.JetStream(t, nc), shards: shards, gates: map[string]*gate{}}
	var entries []project.Workflow
	for _, name := range classes {
		entries = append(entries, project.Workflow{Name: name, ClassName: name, Concurrency: map[string]int{"works": 2}[name]})
	}
	config := project.Config{Name: "p", Workflows: entries}
	config.Settings.Replicas, config.Settings.Shards = replicas, shards
	var err error
	if y.store, err = journal.Open(nc); err != nil {
		t.Fatal(err)
	}
	y.project, err = project.Open(t.Context(), config, project.Conn(nc), project.Logger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(y.project.Close)
	if err := streams.EnsureWorkflows(t.Context(), y.js, "p", shards, streams.Options{Replicas: replicas}); err != nil {
		t.Fatal(err)
	}
	return y
}

// onServers runs a test on one server and on a cluster of three. There, moved makes another of them the leader of the stream.
func onServers(t *testing.T, run func(t *testing.T, y *yard, moved func())) {
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		run(t, setup(t), func() {})
	})
	t.Run("three servers", func(t *testing.T) {
		t.Parallel()
		y, moved := onCluster(t)
		run(t, y, moved)
	})
}

func onCluster(t *testing.T) (y *yard, moved func()) {
	t.Helper()
	cluster := natstest.StartCluster(t, 3)
	return open(t, cluster.Connect(t), 3), func() { cluster.MoveLeader(t, protocol.WorkflowsStream("p", 0)) }
}

// serve runs a runner until the test ends, or the returned function is called. All waits park.
func (y *yard) serve() (stop func()) {
	y.t.Helper()
	ctx, cancel := context.WithCancel(execution.ContextWith(context.Background(), execution.Settings{ShortWait: time.Nanosecond}))
	done := make(chan error, 1)
	runner := workflow.Runner(
		workflow.Define("quick", func(ctx context.Context, e workflow.Event[string]) (string, error) {
			return workflow.Do(ctx, "step", func(context.Context) (string, error) { return e.Payload + "!", nil })
		}),
		workflow.Define("waits", func(ctx context.Context, e workflow.Event[string]) (string, error) {
			var all strings.Builder
			all.WriteString(e.Payload)
			for _, event := range []string{"first", "second"} {
				got, err := workflow.WaitForEvent[string](ctx, event, event)
				if err != nil {
					return "", err
				}
				said, err := workflow.Do(ctx, "say "+event, func(context.Context) (string, error) { return got.Payload, nil })
				if err != nil {
					return "", err
				}
				all.WriteString(" " + said)
			}
			return all.String(), nil
		}),
		workflow.Define("sleeps", func(ctx context.Context, e workflow.Event[time.Duration]) (string, error) {
			return "woke", workflow.Sleep(ctx, "nap", e.Payload)
		}),
		workflow.Define("works", func(ctx context.Context, e workflow.Event[string]) (string, error) {
			if _, err := workflow.WaitForEvent[string](ctx, "begin", "begin"); err != nil {
				return "", err
			}
			return workflow.Do(ctx, "work", func(ctx context.Context) (string, error) { return e.Payload, y.gate(e.Payload).pass(ctx) })
		}),
		workflow.Define("calls", func(ctx context.Context, e workflow.Event[string]) (string, error) {
			return workflow.Call(ctx, "child", workflow.Bind[string, string]("waits"), e.Payload, workflow.ID(e.Payload+"-child"))
		}),
		workflow.Define("large", func(ctx context.Context, e workflow.Event[string]) (string, error) {
			return workflow.Do(ctx, "step", func(context.Context) (string, error) { return e.Payload + big("result"), nil })
		}),
	)
	go func() { done <- project.Run(ctx, y.project, runner) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			y.t.Errorf("runner: %v", err)
		}
	})
	y.t.Cleanup(stop)
	natstest.Eventually(y.t, natstest.Patience, "a runner takes work", func() bool { return y.project.IsReady() })
	return stop
}

func big(what string) string { return what + strings.Repeat("x", 200<<10) }

func (y *yard) gate(name string) *gate {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.gates[name] == nil {
		y.gates[name] = &gate{make(chan struct{}, 10), make(chan struct{})}
	}
	return y.gates[name]
}

func (g *gate) pass(ctx context.Context) error {
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cleaner makes one for which everything is old, expired is expired at once, and all is worth it.
func (y *yard) cleaner(change ...func(*janitor.Cleaner)) *janitor.Cleaner {
	js, err := jetstream.New(y.nc) // which does not wait long for an answer that is lost
	if err != nil {
		y.t.Error(err)
	}
	c := &janitor.Cleaner{
		Store: y.store, Floors: janitor.Consumers{JS: js}, Project: "p", Objects: objects.New(y.store),
		Log:      slog.New(slog.NewTextHandler(y.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Settings: janitor.Settings{Age: time.Nanosecond, Margin: time.Nanosecond, Chunk: 10, Share: -1000},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// clean cleans until everything up to a sequence is gone.
func (y *yard) clean(c *janitor.Cleaner, upTo uint64) (all janitor.Report) {
	y.t.Helper()
	natstest.Eventually(y.t, natstest.Patience, fmt.Sprintf("the log is cleaned up to %d", upTo), func() bool {
		r, err := c.Round(y.t.Context())
		if err != nil { // an instance holds it up, or a leader is elected: janitors try again, too
			y.t.Log(err)
		}
		all.Purged, all.Carried, all.Dropped = all.Purged+r.Purged, all.Carried+r.Carried, all.Dropped+r.Dropped
		state := y.state(protocol.WorkflowsStream("p", 0))
		return state.First > upTo || state.Messages == 0
	})
	return all
}

func (y *yard) state(stream string) journal.State {
	y.t.Helper()
	s, err := y.store.State(y.t.Context(), stream)
	if err != nil {
		y.t.Fatal(err)
	}
	return s
}

// stored is the newest sequence of the stream of instances.
func (y *yard) stored() uint64 {
	y.t.Helper()
	return y.state(protocol.WorkflowsStream("p", 0)).Last
}

func create[P any](y *yard, name, id string, params P, opts ...workflow.CreateOption) *workflow.Instance[string] {
	y.t.Helper()
	i, err := workflow.Bind[P, string](name).In(y.project).Create(y.t.Context(), params, append(opts, workflow.ID(id))...)
	if err != nil {
		y.t.Fatal(err)
	}
	return i
}

func (y *yard) send(i *workflow.Instance[string], event string) {
	y.t.Helper()
	if err := i.SendEvent(y.t.Context(), event, event); err != nil {
		y.t.Fatal(err)
	}
}

// reaches waits until an instance is in a state.
func (y *yard) reaches(i *workflow.Instance[string], state workflow.State) workflow.Status {
	y.t.Helper()
	var s workflow.Status
	natstest.Eventually(y.t, natstest.Patience, fmt.Sprintf("%s is %s", i.ID(), state), func() bool {
		var err error
		s, err = i.Status(y.t.Context())
		return err == nil && s.State == state
	})
	return s
}

func (y *yard) result(i *workflow.Instance[string], want string) {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(y.t.Context(), natstest.Patience)
	defer cancel()
	if got, err := i.Result(ctx); err != nil || got != want {
		y.t.Errorf("%s came to %.40q, %v, want %.40q", i.ID(), got, err, want)
	}
}

// settled waits until all that was sent is acked, but for what those hold who work.
func (y *yard) settled(held ...int) {
	y.t.Helper()
	natstest.Eventually(y.t, natstest.Patience, "all wakes are acked", func() bool {
		for _, name := range []string{protocol.ConsumerWakes(0), protocol.ConsumerControls(0)} {
			info := y.consumer(name)
			if info.NumAckPending > 0 && !slices.Contains(held, info.NumAckPending) || info.NumPending > 0 {
				return false
			}
		}
		return true
	})
}

// consumer asks for the state of a consumer of the stream of instances.
func (y *yard) consumer(name string) (info *jetstream.ConsumerInfo) {
	y.t.Helper()
	natstest.Ask(y.t, "the state of consumer "+name, func(ctx context.Context) error {
		c, err := y.js.Consumer(ctx, protocol.WorkflowsStream("p", 0), name)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info
}

// subjects are those in a stream that a filter matches.
func (y *yard) subjects(stream, filter string) []string {
	y.t.Helper()
	l, err := y.store.Subjects(y.t.Context(), stream, filter, 0)
	if err != nil {
		y.t.Fatal(err)
	}
	return l.Subjects
}
