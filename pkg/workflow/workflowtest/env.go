package workflowtest

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

// Env is a project of its own with a runner, on a server of its own. Make it with [New].
type Env struct {
	// Project is open: bindings of the test use it (workflow.Bind(…).In(env.Project)).
	Project *project.Project

	t      testing.TB
	server *server.Server

	mu      sync.Mutex // guards what follows
	now     time.Time
	steps   map[protocol.Key]*Step // Count is 0
	waits   map[string]*Wait
	crashes []*crash
	planned []planned
	sources []Source
	seen    map[protocol.Key]bool // what was called, whatever the count
}

// ProjectName is the name of the project in tests that have no file of one.
const ProjectName = "test"

// patience bounds how long anything may take that takes no time on the test's clock.
const patience = 2 * time.Minute

// ahead is by how much the clock of a test is ahead of that of its server, which must not let a wait end by itself: what it
// fires before the moment on the clock of the test is kept until then, and the clock stands still meanwhile.
const ahead = 24 * time.Hour

// New starts a server, and a runner with the definitions, each under the name of its class. All of it ends with the
// test. The clock begins a day after the present moment.
//
// When the test ends, it fails if something was asked for that did not happen: a mock of a step that never ran, a wait
// that was to time out, a crash.
func New(t testing.TB, definitions ...workflow.Definition) *Env {
	t.Helper()
	config := project.Config{Name: ProjectName}
	for _, d := range definitions {
		config.Workflows = append(config.Workflows, project.Workflow{Name: d.Class(), ClassName: d.Class()})
	}
	return start(t, config, definitions)
}

// Load is New with the names, bindings and limits of a project's skein.jsonc. Workflows of other projects are those of
// the test's own definitions, by their class; those that it has no definition for are not there.
func Load(t testing.TB, path string, definitions ...workflow.Definition) *Env {
	t.Helper()
	config, err := project.Load(path)
	if err != nil {
		t.Fatalf("workflowtest: %v", err)
	}
	return start(t, alone(*config, definitions), definitions)
}

// alone makes workflows of other projects the project's own, if there is a definition.
func alone(config project.Config, definitions []workflow.Definition) project.Config {
	all := config.Workflows
	config.Workflows = nil
	for _, w := range all {
		if w.ScriptName != "" && w.ScriptName != config.Name {
			if !slices.ContainsFunc(definitions, func(d workflow.Definition) bool { return d.Class() == w.ClassName }) {
				continue
			}
			w.Name, w.ScriptName = w.Binding, "" // the project may have one of the same name
		}
		config.Workflows = append(config.Workflows, w)
	}
	return config
}

func start(t testing.TB, config project.Config, definitions []workflow.Definition) *Env {
	t.Helper()
	e := &Env{
		t: t, now: time.Now().UTC().Add(ahead), steps: map[protocol.Key]*Step{}, waits: map[string]*Wait{}, seen: map[protocol.Key]bool{},
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	p, err := project.Open(t.Context(), config, project.Conn(e.connect()), project.Logger(log))
	if err != nil {
		t.Fatalf("workflowtest: %v", err)
	}
	t.Cleanup(p.Close)
	e.Project = p
	if len(definitions) > 0 {
		e.serve(definitions)
	} else if err := e.prepare(); err != nil {
		t.Fatalf("workflowtest: %v", err)
	}
	t.Cleanup(e.checkUsed)
	return e
}

// connect starts the server and connects without a socket.
func (e *Env) connect() *nats.Conn {
	e.t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "workflowtest", DontListen: true, JetStream: true, StoreDir: e.t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		e.t.Fatalf("workflowtest: start the server: %v", err)
	}
	s.Start()
	e.t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		e.t.Fatal("workflowtest: the server takes no connections")
	}
	e.server = s
	return e.Connect()
}

// Connect makes another connection to the server. It ends with the test.
func (e *Env) Connect() *nats.Conn {
	e.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(e.server), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		e.t.Fatalf("workflowtest: connect: %v", err)
	}
	e.t.Cleanup(nc.Close)
	return nc
}

// prepare makes what a runner would have made.
func (e *Env) prepare() error {
	ctx, p := e.t.Context(), e.Project
	if err := streams.EnsureProjects(ctx, p.JS, streams.Options{}); err != nil {
		return err
	}
	return streams.EnsureWorkflows(ctx, p.JS, p.Config.Name, len(e.streams()), streams.Options{})
}

// serve runs a runner until the test ends.
func (e *Env) serve(definitions []workflow.Definition) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(execution.ContextWith(context.Background(), execution.Settings{
		ShortWait: time.Nanosecond,
		Hooks:     execution.Hooks{Now: e.Now, Body: e.body, Expires: e.expires, Replays: true, Stored: e.stored},
	}))
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, e.Project, workflow.Runner(definitions...)) }()
	e.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("workflowtest: the runner ended with %v", err)
		}
	})
	for deadline := time.Now().Add(patience); !e.Project.IsReady(); time.Sleep(time.Millisecond) {
		select {
		case err := <-done:
			done <- nil
			e.t.Fatalf("workflowtest: the runner ended with %v", err)
		default:
		}
		if time.Now().After(deadline) {
			e.t.Fatal("workflowtest: the runner is not ready")
		}
	}
}

// Now is the moment on the clock of the test.
func (e *Env) Now() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now
}

// planned is something to do at a moment.
type planned struct {
	at time.Time
	do func()
}

// After does something when the clock has gone on by d: sends an event, pauses an instance. It is done in the goroutine
// that waits, so it may fail the test.
func (e *Env) After(d time.Duration, do func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.planned = append(e.planned, planned{e.now.Add(d), do})
}

// Source is what moves in an Env beside the instances of workflows: agents, see package agenttest.
type Source interface {
	// Rests reports whether nothing of it moves. The number grows with everything that ever did.
	Rests() (moved uint64, rests bool)
	// Next is the next moment at which something of it moves by itself; ok is false if nothing will.
	Next() (at time.Time, ok bool)
	// Move lets that begin. The clock stands at its moment.
	Move()
}

// Join makes a source keep to the clock, and the clock to the source.
func (e *Env) Join(s Source) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources = append(e.sources, s)
}

// Settle waits until nothing moves. The clock stands still.
func (e *Env) Settle() {
	e.t.Helper()
	e.settle()
}

// Advance lets the clock go on by d, with everything that comes due meanwhile.
func (e *Env) Advance(d time.Duration) {
	e.t.Helper()
	end := e.Now().Add(d)
	for {
		e.settle()
		next, ok := e.next()
		if !ok || next.at.After(end) {
			e.set(end)
			return
		}
		e.jump(next)
	}
}

func (e *Env) set(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at.After(e.now) {
		e.now = at
	}
}
