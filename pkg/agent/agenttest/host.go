package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// host is an agent host.
type host struct {
	nc      *nats.Conn
	service *agent.HostService
	cancel  context.CancelFunc
	ended   chan error
	project *project.Project
	dead    bool
	stopped bool
	kit     *Kit
}

// startHost starts the host of the agents, which is the only one.
func (k *Kit) startHost() {
	k.t.Helper()
	k.host = k.start(k.classes...)
	if k.gate != nil {
		k.t.Cleanup(k.gate.stop) // before it: there must be a host to tell of the ends of sockets
	}
}

// start starts a host.
func (k *Kit) start(classes ...agent.Class) *host {
	k.t.Helper()
	h := &host{nc: k.Connect(), service: agent.Host(classes...).BeforeRequest(k.admit), ended: make(chan error, 1), kit: k}
	config := k.Project.Config
	config.Settings.HTTPAddr = "127.0.0.1:0"
	log := slog.New(slog.NewTextHandler(k.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	var err error
	if h.project, err = project.Open(k.t.Context(), config, project.Conn(h.nc), project.Logger(log)); err != nil {
		k.t.Fatalf("agenttest: %v", err)
	}
	ctx, cancel := k.staged()
	h.cancel = cancel
	go func() { h.ended <- project.Run(ctx, h.project, h.service) }()
	k.t.Cleanup(h.stop) // before the connection is closed
	k.await("the host is ready", func() (bool, error) {
		select {
		case err := <-h.ended:
			h.ended <- nil
			return false, err
		default:
			return h.project.IsReady(), nil
		}
	})
	return h
}

// BeforeRequest adds a hook to all hosts of the test, those that are to come included, as [agent.HostService.BeforeRequest] does: what it
// returns is the identity of the requests and sockets that come from now on.
func (k *Kit) BeforeRequest(hook agent.RequestHook) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hooks = append(k.hooks, hook)
}

// admit is the hook that all hosts have.
func (k *Kit) admit(r *http.Request, to agent.Target) (identity any, err error) {
	k.mu.Lock()
	hooks := slices.Clone(k.hooks)
	k.mu.Unlock()
	for _, hook := range hooks {
		found, err := hook(r, to)
		if err != nil {
			return nil, err
		}
		if found != nil {
			identity = found
		}
	}
	return identity, nil
}

// stop ends the host, in order unless it is dead. Once is enough.
func (h *host) stop() {
	if h.stopped {
		return
	}
	h.stopped = true
	h.cancel()
	if err := <-h.ended; err != nil && !h.dead {
		h.kit.t.Errorf("agenttest: the host ended with %v", err)
	}
	h.project.Close()
}

// KillHost lets the host die as by kill -9, and another take its place. What it had in its hands is lost, what it had
// stored is not: the other takes its agents, carries out what their turns asked for and were not done with, and gets the
// mail that was not applied. Code of the dead host that has not returned runs on, but nothing that it does counts.
func (k *Kit) KillHost() {
	k.t.Helper()
	dead := k.host
	dead.dead = true
	dead.project.Config.Settings.ShutdownGrace = 0 // nobody waits for the dead
	dead.nc.Close()
	k.startHost()
	k.takeOver()
}

// Sleep makes all agents leave memory, in order, as they do when they are idle: what next asks for one makes it anew, from
// its state.
func (k *Kit) Sleep() {
	k.t.Helper()
	k.Settle()
	k.host.stop()
	k.startHost()
}

// takeOver wakes the agents whose host is dead. In production, those that have promised something are woken when its lease
// ends, the others when they are asked for.
func (k *Kit) takeOver() {
	k.t.Helper()
	for _, r := range k.records() {
		if r.Owner == "" {
			continue
		}
		body, err := json.Marshal(protocol.Request{V: protocol.Version, Activate: &protocol.Activate{Class: r.Class, Name: r.Name}})
		if err != nil {
			k.t.Fatalf("agenttest: %v", err)
		}
		k.await(describe(r.Class, r.Name)+" has another host", func() (bool, error) {
			m, err := k.Project.NC.Request(protocol.ActivateSubject(k.Project.Config.Name, r.Class), body, time.Second)
			if err != nil {
				if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
					return false, nil
				}
				return false, err
			}
			var reply protocol.Reply
			return json.Unmarshal(m.Data, &reply) == nil && (reply.Owner != "" || reply.Error != nil), nil
		})
	}
}
