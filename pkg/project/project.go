// Package project is what every program of a project starts with: its skein.jsonc, its connection to NATS, and the run
// of its services (an agent host, a workflow runner) until a signal ends them.
//
//	func main() { project.Main(workflow.Runner(definitions...)) }
//
// It must never know what a service does, and it must never store anything: streams and their contents belong to the
// services.
package project

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/answers"
	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/post"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/quiesce"
)

// Project is an open project: who it is, and how NATS is reached.
type Project struct {
	// Config has no empty field that has a default.
	Config Config
	NC     *nats.Conn
	JS     jetstream.JetStream
	Log    *slog.Logger

	health  *process.Health
	metrics prometheus.Registerer
	store   *journal.Store
	objects *objects.Store
	answers *answers.Desk
	doors   *door.Caller
	post    *post.Office
	gate    *quiesce.Gate
	known   sync.Map // Target → shards
	// remembers is set if what doors tell is to be noted in the row of the project.
	remembers atomic.Bool
	owned     bool // the connection was made by Open
}

// OpenOption changes what Open does.
type OpenOption interface{ applyOpen(*openOptions) }

type openOptions struct {
	conn    *nats.Conn
	log     *slog.Logger
	metrics prometheus.Registerer
}

type openOptionFunc func(*openOptions)

func (f openOptionFunc) applyOpen(o *openOptions) { f(o) }

// Conn uses a connection that exists; Close leaves it open. It must have been made with nats.ReconnectBufSize(-1), so
// that nothing is published late, and nats.MaxReconnects(-1).
func Conn(nc *nats.Conn) OpenOption { return openOptionFunc(func(o *openOptions) { o.conn = nc }) }

// Logger logs to log instead of slog.Default.
func Logger(log *slog.Logger) OpenOption { return openOptionFunc(func(o *openOptions) { o.log = log }) }

// Metrics registers with reg what services of the project count. Default: nobody looks.
func Metrics(reg prometheus.Registerer) OpenOption {
	return openOptionFunc(func(o *openOptions) { o.metrics = reg })
}

// Open opens a project for programs that are no servers, and for tests. Unless it is given a connection, it waits for
// a NATS server until ctx ends.
func Open(ctx context.Context, config Config, opts ...OpenOption) (*Project, error) {
	o := openOptions{log: slog.Default()}
	for _, opt := range opts {
		opt.applyOpen(&o)
	}
	config = config.withDefaults()
	if err := errors.Join(config.Validate(), config.Settings.Validate()); err != nil {
		return nil, err
	}
	owned := o.conn == nil
	if owned {
		nc, err := process.Connect(ctx, config.Name, config.Settings, o.log)
		if err != nil {
			return nil, err
		}
		o.conn = nc
	}
	p, err := newProject(config, o.conn, o.log, process.NewHealth())
	if err != nil {
		if owned {
			o.conn.Close()
		}
		return nil, err
	}
	p.owned, p.metrics = owned, o.metrics
	return p, nil
}

// Offline is a project without a connection: for code that is gone over and does nothing, and of no use to others.
func Offline(config Config) *Project {
	config = config.withDefaults()
	return &Project{Config: config, Log: slog.New(slog.DiscardHandler), health: process.NewHealth()}
}

// warnSpace is what /readyz calls a NATS that has no room.
const warnSpace = "space"

func newProject(config Config, nc *nats.Conn, log *slog.Logger, health *process.Health) (*Project, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open project %q: %w", config.Name, err)
	}
	store, err := journal.Open(nc)
	if err != nil {
		return nil, fmt.Errorf("open project %q: %w", config.Name, err)
	}
	log = log.With(slog.String(logkey.Project, config.Name))
	store.OnSpace(journal.LogSpace(log))
	health.Warn(warnSpace, store.Space)
	desk, err := answers.Open(nc)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open project %q: %w", config.Name, err), store.Close())
	}
	p := &Project{
		Config: config, NC: nc, JS: js, Log: log,
		store: store, answers: desk, health: health, gate: &quiesce.Gate{},
	}
	p.doors = door.Open(nc, config.Name, p.isRegistered)
	p.objects = objects.New(store).Behind(p.doors)
	p.post = &post.Office{
		Store: store, JS: js, Doors: p.doors, Objects: p.objects, Project: config.Name, Replicas: config.Settings.Replicas, Log: p.Log,
		Gate: p.gate,
	}
	return p, nil
}

// Journal reads and appends over the project's connection: for the services, and of no use to others.
func (p *Project) Journal() *journal.Store { return p.store }

// Objects has the values that are too large for messages, of this project and of those that it reaches: for the services,
// and of no use to others.
func (p *Project) Objects() *objects.Store { return p.objects }

// Answers are those that other processes give over the project's connection: for the services, and of no use to others.
func (p *Project) Answers() *answers.Desk { return p.answers }

// Metrics takes what services of the project count: for them, and of no use to others. Nil: nobody looks.
func (p *Project) Metrics() prometheus.Registerer { return p.metrics }

// Durability is how a service of the project tells what its streams survive.
func (p *Project) Durability() durability.Options {
	s := p.Config.Settings
	return durability.Options{NC: p.NC, Log: p.Log, Monitor: s.NATSMonitor, Production: s.Production}
}

// Gate holds up what services write while a backup looks for a moment: for them, and of no use to others.
func (p *Project) Gate() *quiesce.Gate { return p.gate }

// Close closes the connection, if Open made it.
func (p *Project) Close() {
	_, _ = p.store.Close(), p.answers.Close() // the connection may be gone
	if p.owned {
		p.NC.Close()
	}
}

// Ready says that a service takes work.
func (p *Project) Ready(service string) {
	p.health.Ready(service)
	p.Log.InfoContext(context.Background(), "ready", slog.String(logkey.Service, service))
}

// NotReady says why a service takes no work for the time being.
func (p *Project) NotReady(service, why string) { p.health.NotReady(service, why) }

// IsReady reports whether all services that Run runs take work.
func (p *Project) IsReady() bool { return p.health.Readiness().Ready }

// Service is something that a program of a project does until it is told to stop.
type Service interface {
	// Name tells services of one program apart.
	Name() string
	// Serve works until ctx is done and returns when everything it held is handed back. It calls p.Ready with its
	// name when it takes work.
	Serve(ctx context.Context, p *Project) error
}

// Run runs services until ctx is done or one of them fails, which stops the others. It returns when all have ended.
func Run(ctx context.Context, p *Project, services ...Service) error {
	if len(services) == 0 {
		return errors.New("run: no services")
	}
	seen := map[string]bool{}
	for _, s := range services {
		if seen[s.Name()] {
			return fmt.Errorf("run: two services are called %q", s.Name())
		}
		seen[s.Name()] = true
		p.health.Expect(s.Name())
	}
	group, serveCtx := errgroup.WithContext(ctx)
	for _, s := range services {
		group.Go(func() error { return serve(serveCtx, p, s) })
	}
	return group.Wait()
}

func serve(ctx context.Context, p *Project, s Service) error {
	err := s.Serve(ctx, p)
	p.NotReady(s.Name(), "stopped")
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	if err == nil {
		return fmt.Errorf("service %q ended before it was told to", s.Name())
	}
	return fmt.Errorf("service %q: %w", s.Name(), err)
}
