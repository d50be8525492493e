package workflow

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// accounts is a server, or a cluster, on which each project has an account of its own.
type accounts struct {
	t        testing.TB
	connect  func(...nats.Option) *nats.Conn
	replicas int
}

func setupAccounts(t testing.TB, projects []string, grants ...string) *accounts {
	t.Helper()
	s := natstest.Start(t, natstest.Accounts(t, projects, grants...))
	return &accounts{t: t, connect: func(o ...nats.Option) *nats.Conn { return s.Connect(t, o...) }, replicas: 1}
}

// tenant is a project in an account of its own.
type tenant struct {
	*accounts
	nc *nats.Conn
	p  *project.Project
}

func (a *accounts) tenant(name string, entries ...project.Workflow) *tenant {
	a.t.Helper()
	nc := a.connect(natstest.User(name))
	p, err := project.Open(a.t.Context(), project.Config{
		Name: name, Workflows: entries, Settings: project.Settings{Replicas: a.replicas, ShutdownGrace: process.Duration(time.Second)},
	}, project.Conn(nc), project.Logger(slog.New(slog.NewTextHandler(a.t.Output(), nil))))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(p.Close)
	return &tenant{accounts: a, nc: nc, p: p}
}

// serve runs a runner of the project until the returned function is called or the test ends. It returns when that takes work.
func (n *tenant) serve(definitions ...Definition) (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, n.p, Runner(definitions...)) }()
	natstest.Eventually(n.t, natstest.Patience, "a runner of "+n.p.Config.Name+" takes work", n.p.IsReady)
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				n.t.Errorf("runner of %s: %v", n.p.Config.Name, err)
			}
		}
	}
	n.t.Cleanup(stop)
	return stop
}

func (n *tenant) reader() runner.Reader {
	return runner.Reader{Store: n.p.Journal(), Project: n.p.Config.Name, Shards: 1, Objects: n.p.Objects()}
}

// until waits until an instance of the project is as cond wants it.
func (n *tenant) until(workflow, id, what string, cond func(protocol.Status) bool) (last protocol.Status) {
	n.t.Helper()
	natstest.Eventually(n.t, natstest.Patience, n.p.Config.Name+"/"+workflow+"/"+id+" "+what, func() bool {
		s, err := n.reader().Status(n.t.Context(), workflow, id)
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			n.t.Fatal(err)
		}
		last = s
		return err == nil && cond(s)
	})
	return last
}

func (n *tenant) ends(workflow, id string, as State) protocol.Status {
	n.t.Helper()
	s := n.until(workflow, id, "has ended", func(s protocol.Status) bool { return s.State.Finished() })
	if s.State != as {
		n.t.Fatalf("%s/%s is %s, want %s: %v", workflow, id, s.State, as, s.Error)
	}
	return s
}
