package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// An owner asks a gateway once which connections it holds; from then on it knows what becomes of them by its own turns.

// attachAll makes the connections of all gateways known. Those of a gateway that is gone are not.
func (a *actor) attachAll(ctx context.Context) error {
	for _, gateway := range a.openGateways() {
		if err := a.attach(ctx, gateway); err != nil && !errors.Is(err, errNobody) {
			return err
		}
	}
	return nil
}

// attach makes the connections of a gateway known.
func (a *actor) attach(ctx context.Context, gateway string) error {
	if a.attached[gateway] {
		return nil
	}
	want := placeOf(a.at.record, gateway)
	deadline := time.Now().Add(a.host.times.attachWithin)
	for {
		found, place, err := a.askGateway(ctx, gateway)
		if err != nil {
			return fmt.Errorf("ask for the connections of a gateway: %w", err)
		}
		// What is on its way there may change them. After some time it is lost, and the gateway closes what has missed it.
		if place.Compare(want) >= 0 || time.Now().After(deadline) {
			for _, known := range found {
				a.sockets[connKey{gateway, known.Conn}] = known
			}
			a.attached[gateway] = true
			return nil
		}
		if err := ctxtime.Sleep(ctx, firstPause); err != nil {
			return err
		}
	}
}

// askGateway asks for the connections at a gateway, and how far it has got.
func (a *actor) askGateway(ctx context.Context, gateway string) (found []protocol.SocketConnection, place protocol.SocketPlace, err error) {
	attach := protocol.SocketAttach{Class: a.id.Class, Name: a.id.Name}
	for {
		var page protocol.SocketAttached
		if gateway == a.host.id {
			page = a.host.gateway.Attach(a.id, attach.After)
		} else {
			reply, err := a.host.ask(ctx, protocol.HostSubject(a.host.name, gateway), protocol.Request{V: protocol.Version, Attach: &attach})
			if err == nil {
				err = result(reply)
			}
			if err == nil && reply.Attached == nil {
				err = errors.New("the answer is malformed")
			}
			if err != nil {
				return nil, place, err
			}
			page = *reply.Attached
		}
		if page.None {
			return nil, placeOf(a.at.record, gateway), nil
		}
		found = append(found, page.Connections...)
		if !page.More || len(page.Connections) == 0 {
			return found, page.Place, nil
		}
		attach.After = page.Connections[len(page.Connections)-1].Conn
	}
}

// onAttach answers an owner that asks which connections are held here.
func (h *host) onAttach(ctx context.Context, m *nats.Msg, attach protocol.SocketAttach) {
	id := protocol.Agent{Project: h.name, Class: attach.Class, Name: attach.Name}
	attached := h.gateway.Attach(id, attach.After)
	h.respond(ctx, m, protocol.Reply{Attached: &attached})
}

// onDown takes a batch for clients here. Batches come one at a time, in their order.
func (h *host) onDown(ctx context.Context, m *nats.Msg) {
	var down protocol.SocketDown
	if err := json.Unmarshal(m.Data, &down); err != nil || down.V > protocol.Version {
		return // the next one shows that one is missing
	}
	h.gateway.Take(ctx, protocol.Agent{Project: h.name, Class: down.Class, Name: down.Name}, down)
}

// glances are what a host has yet to compare: the sockets that it holds with what their agents know.
type glances struct {
	at   stamp // belongs to who renews the lease
	left atomic.Int32
}

// glancesAfterAway is how often that is done by a host that was away: what is sent in the first moments after that may go by another way
// than the subscription that was made anew.
const glancesAfterAway = 2

// lookAtSockets ends the sockets here that are not what their agents know, if this host was cut off or without a lease: then it has
// missed what was sent to its clients, and may have been held for lost.
func (h *host) lookAtSockets(ctx context.Context) {
	if now, _ := h.lease.held(); now != h.glances.at {
		h.glances.at = now
		h.glances.left.Store(glancesAfterAway)
	}
	if h.glances.left.Load() == 0 {
		return
	}
	h.aside(ctx, &h.comparing, func() error {
		if err := h.compareSockets(ctx); err != nil {
			if ctx.Err() == nil {
				h.log.WarnContext(ctx, "cannot compare the sockets here with what their agents know, trying on", slog.Any(logkey.Error, err))
			}
			return nil
		}
		h.glances.left.Add(-1)
		return nil
	})
}

func (h *host) compareSockets(ctx context.Context) error {
	var wrong failures
	for _, id := range h.gateway.Agents() {
		wrong.add(h.gateway.Compare(ctx, id, func() (protocol.SocketPlace, map[uint64]uint64, error) {
			v, err := h.records.read(ctx, id)
			return sentTo(v.record, h.id), maps.Collect(v.record.Gateways[h.id].Open.All()), err
		}))
	}
	return wrong.err()
}
