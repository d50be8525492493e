package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// sure is what this host has sent to other gateways, until they say that they know of it. A batch may be lost on its way, and the next
// one, which would show that, may never come: so every gateway is told now and then, in one message for all agents, how far it was
// sent what each of them had to say. It compares that with what it has.
type sure struct {
	host *host

	mu   sync.Mutex // guards what follows
	sent map[string]map[protocol.Agent]protocol.SocketPlace
}

// note remembers that a gateway was sent everything up to a place. What this host has sent to itself cannot be lost.
func (s *sure) note(gateway string, id protocol.Agent, place protocol.SocketPlace) {
	if gateway == s.host.id {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent[gateway] == nil {
		s.sent[gateway] = map[protocol.Agent]protocol.SocketPlace{}
	}
	if s.sent[gateway][id].Compare(place) < 0 {
		s.sent[gateway][id] = place
	}
}

// noteOpen remembers it of all gateways of an agent whose former owner has sent everything. One of them may be here.
func (s *sure) noteOpen(ctx context.Context, id protocol.Agent, r *protocol.Record) {
	for gateway, g := range r.Gateways {
		if len(g.Open) == 0 {
			continue
		}
		place := placeOf(*r, gateway)
		s.note(gateway, id, place)
		if gateway == s.host.id {
			s.host.onSent(ctx, []protocol.SocketSent{{Class: id.Class, Name: id.Name, Place: place}})
		}
	}
}

// waits reports whether a gateway may not know yet of what an agent has sent.
func (s *sure) waits(id protocol.Agent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, agents := range s.sent {
		if _, ok := agents[id]; ok {
			return true
		}
	}
	return false
}

// run tells the gateways until ctx ends.
func (s *sure) run(ctx context.Context) {
	ticker := time.NewTicker(s.host.times.sureEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.tellAll(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// tellAll tells every gateway once, and forgets what that knows then. A gateway that does not answer is told again, until its host is
// held for lost: then others tell its agents, and those their clients if they are still there.
func (s *sure) tellAll(ctx context.Context) {
	for gateway, pages := range s.pages() {
		for _, page := range pages {
			_, err := s.host.ask(ctx, protocol.HostSubject(s.host.name, gateway), protocol.Request{V: protocol.Version, Sent: page})
			if errors.Is(err, errNobody) {
				err = s.host.stillThere(ctx, gateway)
			}
			if err != nil {
				s.host.log.DebugContext(ctx, "tell a gateway what it was sent", slog.String(logkey.Host, gateway), slog.Any(logkey.Error, err))
				break
			}
			s.forget(gateway, page)
		}
	}
}

// stillThere returns nil if a host to which nobody listens is gone for good: it has no row any more.
func (h *host) stillThere(ctx context.Context, id string) error {
	row, _, err := h.hostRow(ctx, id)
	if err == nil && row != nil {
		err = errNobody
	}
	return err
}

// maxSent bounds a message of what was sent, as JSON.
const maxSent = 256 << 10

func (s *sure) pages() map[string][][]protocol.SocketSent {
	s.mu.Lock()
	defer s.mu.Unlock()
	pages := map[string][][]protocol.SocketSent{}
	for gateway, agents := range s.sent {
		var page []protocol.SocketSent
		size := 0
		for id, place := range agents {
			if size += 6*len(id.Name) + len(id.Class) + 128; size > maxSent && len(page) > 0 {
				pages[gateway] = append(pages[gateway], page)
				page, size = nil, 0
			}
			page = append(page, protocol.SocketSent{Class: id.Class, Name: id.Name, Place: place})
		}
		pages[gateway] = append(pages[gateway], page)
	}
	return pages
}

func (s *sure) forget(gateway string, page []protocol.SocketSent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	agents := s.sent[gateway]
	for _, one := range page {
		if id := one.Agent(s.host.name); agents[id] == one.Place {
			delete(agents, id)
		}
	}
	if len(agents) == 0 {
		delete(s.sent, gateway)
	}
}

// onSent compares what this host was sent, as a gateway, with what it has. What does not come for long is lost, whatever becomes of who
// has told of it.
func (h *host) onSent(ctx context.Context, sent []protocol.SocketSent) {
	ctx = context.WithoutCancel(ctx)
	for _, one := range sent {
		id := one.Agent(h.name)
		if h.gateway.Has(id, one.Place) {
			continue
		}
		h.crew.do(func() { h.gateway.Await(ctx, id, one.Place) })
	}
}
