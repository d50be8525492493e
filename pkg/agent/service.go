package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
)

// HostService serves classes of agents: it takes their requests over HTTP, runs their turns, and hears their mail. Any
// number of them can serve the same project.
type HostService struct {
	classes []*class
	hooks   []RequestHook
	pages   []page
	times   timing

	mu   sync.Mutex // guards addr
	addr net.Addr
}

// Host serves classes of agents in a program of their project; see project.Main.
func Host(classes ...Class) *HostService {
	s := &HostService{times: defaultTiming()}
	for _, c := range classes {
		s.classes = append(s.classes, c.class)
	}
	return s
}

// Name is the name of the service.
func (s *HostService) Name() string { return "agent-host" }

// Settings names the settings of project.Settings that the service listens to, beside those that all have.
func (s *HostService) Settings() []string {
	return []string{
		process.SettingHTTPAddr, process.SettingHTTPOrigins, process.SettingHTTPMaxBody, process.SettingHTTPTimeout,
		process.SettingHTTPDrain,
		process.SettingHTTPRequests, process.SettingHTTPSockets, process.SettingFrameRate,
		process.SettingConnections, process.SettingPerAddress, process.SettingAddrSockets, process.SettingAddressRate,
		process.SettingAddressBurst, process.SettingProxies, process.SettingHeaderTime, process.SettingReadTime, process.SettingIdleTime,
		process.SettingMaxValueSize,
	}
}

// Addr is where the service takes requests, once it is ready; nil before. It tells the port if http_addr ends in :0.
func (s *HostService) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// check names everything that is wrong with the classes.
func (s *HostService) check() error {
	var errs []error
	if len(s.classes) == 0 {
		errs = append(errs, errors.New("no agent classes to serve"))
	}
	for i, c := range s.classes {
		errs = append(errs, c.problems...)
		for _, other := range s.classes[:i] {
			if other.serves(c.name) || other.serves(c.route) || c.serves(other.route) {
				errs = append(errs, &ClassError{Class: c.name,
					Reason: fmt.Sprintf("its path /agents/%s is that of class %q", c.route, other.name)})
			}
		}
	}
	return errors.Join(errs...)
}

// Serve serves until ctx is done. Then it takes nothing more in, finishes the turns that are under way, and lets all
// agents go.
func (s *HostService) Serve(ctx context.Context, p *project.Project) error {
	pages, err := newPages(s.pages)
	if err := errors.Join(s.check(), err); err != nil {
		return err
	}
	if err := checkDrain(p.Config.Settings); err != nil {
		return err
	}
	if err := s.register(ctx, p); err != nil {
		return err
	}
	p.RemembersDoors()
	listener, err := listenHTTP(ctx, p.Config.Settings.HTTPAddr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.addr = listener.Addr()
	s.mu.Unlock()
	door, err := s.openDoor(p)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { _ = door.Close() }() // never fails
	h := newHost(p, s.classes, s.times)
	h.edge, h.pages = newEdge(s.hooks, p), pages
	return h.run(ctx, s.Name(), listener)
}

// checkDrain leaves at least half of the grace to what has to be done after the last request.
func checkDrain(s process.Settings) error {
	if 2*s.HTTPDrain <= s.ShutdownGrace {
		return nil
	}
	return &process.SettingError{Setting: process.SettingHTTPDrain, Value: s.HTTPDrain.String(),
		Allowed: fmt.Sprintf("at most half of shutdown_grace, which is %s", s.ShutdownGrace)}
}

// register makes what agents need, writes the classes into the registry, and checks the bindings.
func (s *HostService) register(ctx context.Context, p *project.Project) error {
	var found durability.Streams
	opts := streams.Options{Replicas: p.Config.Settings.Replicas, Log: p.Log, Found: found.Add}
	if err := streams.EnsureProjects(ctx, p.JS, opts); err != nil {
		return err
	}
	if err := streams.EnsureAgents(ctx, p.JS, p.Config.Name, opts); err != nil {
		return err
	}
	if err := durability.Tell(ctx, p.Durability(), &found); err != nil {
		return err
	}
	names := make([]string, len(s.classes))
	for i, c := range s.classes {
		names[i] = c.name
	}
	if err := streams.RegisterAgents(ctx, p.JS, p.Config.Name, names); err != nil {
		return err
	}
	var errs []error
	for _, c := range s.classes {
		for _, b := range c.bindings {
			errs = append(errs, s.checkBinding(ctx, p, c, b))
		}
	}
	return errors.Join(errs...)
}

// checkBinding refuses a binding that skein.jsonc does not have, and warns of one that leads nowhere yet.
func (s *HostService) checkBinding(ctx context.Context, p *project.Project, c *class, b Binding) error {
	target, err := p.Config.Binding(b.BindingName())
	if err != nil {
		return fmt.Errorf("agent class %q: %w", c.name, err)
	}
	warn := func(message string) {
		p.Log.WarnContext(ctx, message, slog.String(logkey.Class, c.name), slog.String(logkey.Binding, target.Binding),
			slog.String(logkey.Script, target.Project), slog.String(logkey.Workflow, target.Workflow))
	}
	classes, _, err := p.WorkflowsOf(ctx, target.Project)
	switch {
	case errors.Is(err, streams.ErrUnknownProject):
		warn("binding leads to a project that nobody has registered yet")
		return nil
	case err != nil:
		return err
	}
	registered, ok := classes[target.Workflow]
	switch {
	case !ok:
		warn("binding leads to a workflow that its project has not registered yet")
	case target.Class != "" && registered != target.Class:
		warn(fmt.Sprintf("binding says class_name %q, registered for the workflow is %q", target.Class, registered))
	}
	return nil
}
