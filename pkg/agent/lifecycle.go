package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/gateway"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/stage"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// run is the life of a host: lease, then everything that brings work, until ctx is done or one of them fails; then all
// of it in reverse. What is under way lives in a context of its own, so that it can be finished.
func (h *host) run(ctx context.Context, service string, listener net.Listener) error {
	h.stage = stage.From(ctx)
	work, cancelWork := context.WithCancelCause(context.WithValue(project.With(context.WithoutCancel(ctx), h.project), hostKey{}, h))
	defer h.crew.wait()
	defer h.gateway.Wait()
	defer cancelWork(ErrShutdown)
	h.launch = func(a *actor) {
		turns, cancel := context.WithCancelCause(work)
		a.cancel = cancel
		h.crew.do(func() { a.run(work, turns) })
	}
	h.accept = func(w http.ResponseWriter, r *http.Request, client gateway.Client) error {
		return h.gateway.Accept(work, w, r, client)
	}
	server := h.edge.newServer(h.leaving(h.handler()), h.log)
	listener = h.edge.throttle.Listen(listener)
	defer h.edge.throttle.Wait()
	endLease := h.keepLease(work)
	if _, err := h.lease.wait(ctx); err != nil {
		endLease()
		return errors.Join(err, listener.Close())
	}
	unsubscribe, err := h.subscribe(work)
	if err != nil {
		endLease()
		return errors.Join(err, listener.Close())
	}
	shut, err := h.openDoor(work)
	if err != nil {
		unsubscribe()
		endLease()
		return errors.Join(err, listener.Close())
	}
	defer shut()
	bells, stopBells := context.WithCancel(context.WithoutCancel(ctx))
	failed := make(chan error, 2)
	var intake sync.WaitGroup
	intake.Go(func() { failed <- h.followDoorbell(bells, work) })
	intake.Go(func() { failed <- server.Serve(listener) })
	intake.Go(func() { h.gateway.Run(bells) })
	intake.Go(func() { h.sure.run(bells) })
	h.log.InfoContext(ctx, "taking requests", slog.String(logkey.Address, listener.Addr().String()),
		slog.String(logkey.Path, "/agents/{"+strings.Join(h.routes(), ",")+"}/<name>"))
	h.project.Ready(service)
	select {
	case <-ctx.Done():
		err = h.takeLeave(failed)
	case err = <-failed:
	}
	grace := time.Duration(h.project.Config.Settings.ShutdownGrace - h.project.Config.Settings.HTTPDrain)
	h.streaming.end(ErrShutdown) // they may go on for ever; who reads them comes back elsewhere
	h.flows.end(ErrShutdown)
	h.calls.endChunks(ErrShutdown)
	stopBells()
	shut()
	intake.Go(func() { h.drainSockets(ctx, grace/2) })
	h.stopServer(ctx, server, grace/2)
	intake.Wait()
	h.drain(ctx, grace/4)
	h.tellRest(ctx, grace/8)
	unsubscribe()
	endLease()
	if n := h.dropped.Load(); n > 0 {
		h.log.InfoContext(ctx, "dropped void mail of the agents' own schedules", slog.Uint64(logkey.Count, n))
	}
	if slow, overdue := h.slow.Load(), h.overdue.Load(); slow+overdue > 0 {
		h.log.WarnContext(ctx, "turns were slow, some of them over their limit",
			slog.Uint64(logkey.Count, slow), slog.Uint64(logkey.Overdue, overdue))
	}
	return err
}

// takeLeave goes on for http_drain: load balancers see meanwhile that the host stops, and send their requests elsewhere.
func (h *host) takeLeave(failed <-chan error) error {
	drain := time.Duration(h.project.Config.Settings.HTTPDrain)
	if drain <= 0 {
		return nil
	}
	h.leaves.Store(true)
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-failed:
		return err
	}
}

// leaving tells who keeps a connection open that the next request must not come over it: closing what is idle could meet a request
// that is on its way.
func (h *host) leaving(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.leaves.Load() && !isUpgrade(r) {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
}

// keepLease renews the lease until the returned function is called. That removes the row, unless an agent was left
// behind: then others shall see the lease end, and look after it.
func (h *host) keepLease(work context.Context) (end func()) {
	ctx, cancel := context.WithCancel(work)
	var renewals sync.WaitGroup
	renewals.Go(func() { h.lease.run(ctx, func(regained bool) { h.beat(work, regained) }) })
	return func() {
		cancel()
		renewals.Wait()
		if h.leftBehind.Load() {
			return
		}
		ctx, cancel := context.WithTimeout(work, h.times.release)
		defer cancel()
		row := h.lease.where
		if err := h.store.Purge(ctx, row.stream, row.subject(h.id), h.lease.last()+1); err != nil {
			h.log.WarnContext(ctx, "could not remove the lease, it will run out", slog.Any(logkey.Error, err))
		}
	}
}

// subscribe listens to what other hosts send to this one, or to any that has the class.
func (h *host) subscribe(work context.Context) (unsubscribe func(), err error) {
	var subs []*nats.Subscription
	unsubscribe = func() {
		for _, sub := range subs {
			if err := sub.Unsubscribe(); err != nil {
				h.log.DebugContext(work, "unsubscribe", slog.Any(logkey.Error, err))
			}
		}
	}
	addInOrder := func(subject, queue string, handle nats.MsgHandler) {
		if err != nil {
			return
		}
		var sub *nats.Subscription
		if sub, err = h.nc.QueueSubscribe(subject, queue, handle); err != nil {
			err = fmt.Errorf("listen to %s: %w", subject, err)
			return
		}
		subs = append(subs, sub)
	}
	add := func(subject, queue string, handle func(context.Context, *nats.Msg)) {
		addInOrder(subject, queue, func(m *nats.Msg) { h.crew.do(func() { handle(work, m) }) })
	}
	addInOrder(protocol.BodySubject(h.name, h.id), "", h.onBody)
	if err == nil { // as many parts as all bodies may have on their way, which is bounded for each
		h.parts.sub = subs[len(subs)-1]
		err = h.parts.sub.SetPendingLimits(-1, -1)
	}
	add(protocol.HostSubject(h.name, h.id), "", h.onHostRequest)
	for _, c := range h.classes {
		subject := protocol.ActivateSubject(h.name, c.name)
		add(subject, subject, h.onActivate)
		calls := protocol.CallSubjects(h.name, c.name)
		add(calls, calls, h.onCall)
	}
	for _, listen := range []func() (*nats.Subscription, error){
		func() (*nats.Subscription, error) {
			return h.nc.Subscribe(protocol.SocketsSubject(h.name, h.id), func(m *nats.Msg) { h.onDown(work, m) })
		},
		func() (*nats.Subscription, error) { return h.project.Gate().Listen(h.nc, h.name, h.log) },
	} {
		if err != nil {
			break
		}
		var sub *nats.Subscription
		if sub, err = listen(); err == nil {
			subs = append(subs, sub)
		}
	}
	if err != nil {
		unsubscribe()
		return nil, err
	}
	h.flush(work)
	return unsubscribe, nil
}

// stopServer takes no more requests and gives those under way some time.
func (h *host) stopServer(ctx context.Context, server *http.Server, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		h.log.WarnContext(ctx, "requests are cut off: the grace period does not allow to finish them", slog.Any(logkey.Error, err))
		if err := server.Close(); err != nil {
			h.log.DebugContext(ctx, "close connections", slog.Any(logkey.Error, err))
		}
	}
}

// drainSockets closes the sockets, and returns when their agents know or the grace is over.
func (h *host) drainSockets(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if !h.gateway.Drain(ctx) {
		h.leftBehind.Store(true) // others tell them
		h.log.WarnContext(ctx, "the grace period does not allow to tell all agents that the sockets of their clients are closed")
	}
}

// tellRest tells gateways of the last things that they were sent.
func (h *host) tellRest(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	h.sure.tellAll(ctx)
}

// drain lets all agents go, and returns when they are gone or the grace is over. No new ones come into memory.
func (h *host) drain(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	close(h.draining)
	for _, a := range h.all() {
		select {
		case <-a.gone:
		case <-ctx.Done():
			h.leftBehind.Store(true)
			h.log.WarnContext(ctx, "agents are dropped in their turns: the grace period does not allow to finish them")
			return
		}
	}
}
