package agent

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/gateway"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/stage"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// host is one stay of an agent host on a project: from its first lease to the last agent let go.
type host struct {
	project *project.Project
	name    string // of the project
	id      string
	nc      *nats.Conn
	store   *journal.Store
	log     *slog.Logger
	classes []*class
	times   timing
	// stage is set in tests that have the time in their hands.
	stage *stage.Stage

	lease    *lease
	peers    *peers
	records  *records
	inbox    inbox
	couriers *couriers
	calls    *calls
	// streaming and flows are the answers that leave in parts: to clients, and to other hosts. Parts are those of bodies that come.
	streaming streaming
	flows     flows
	parts     parts
	edge      edge
	pages     http.Handler // beside the agents; nil: there are none
	gateway   *gateway.Gateway
	enlisted  enlisted
	glances   glances
	sure      *sure
	// registered is what is known of the registry.
	registered registered

	// launch runs an actor in a goroutine of crew.
	launch func(*actor)
	// accept makes a socket of a request.
	accept func(http.ResponseWriter, *http.Request, gateway.Client) error
	crew   crew
	// draining is closed when the agents must be let go.
	draining chan struct{}
	// leftBehind is set if an agent could not be let go in full: then the lease must stay, so that others see it end.
	leftBehind atomic.Bool
	// leaves is set while the host that was told to stop goes on taking requests.
	leaves atomic.Bool
	// dropped counts mail of the agents' own that was void; slow and overdue, turns.
	dropped, slow, overdue atomic.Uint64
	// working counts the agents that have a turn, or what belongs to one.
	working atomic.Int64

	mu     sync.Mutex // guards what follows
	closed bool
	agents map[protocol.Agent]*actor
	// sweeping and clearing tell that somebody here looks after lost hosts.
	sweeping, clearing bool
	// comparing tells that the sockets here are compared with what their agents know.
	comparing bool
}

func newHost(p *project.Project, classes []*class, times timing) *host {
	store := p.Journal()
	h := &host{
		project: p, name: p.Config.Name, id: uuid.NewString(), nc: p.NC, store: store, classes: classes, times: times,
		draining: make(chan struct{}), agents: map[protocol.Agent]*actor{},
	}
	h.log = p.Log.With(slog.String(logkey.Host, h.id))
	h.lease = newLease(p.NC, store, h.name, h.id, times, h.log)
	h.peers = &peers{store: store, where: h.lease.where, id: h.id, misses: times.leaseMisses, seen: map[string]peer{}}
	h.records = &records{store: store, where: bucketOf(protocol.AgentsBucket(h.name)), gate: p.Gate()}
	h.inbox = inbox{store: store, stream: protocol.InboxStream(h.name), project: h.name}
	h.sure = &sure{host: h, sent: map[string]map[protocol.Agent]protocol.SocketPlace{}}
	h.couriers = &couriers{host: h, bells: map[protocol.Agent][]protocol.Bell{}}
	h.calls = &calls{crew: &h.crew, rememberFor: times.rememberFor, known: map[string]*call{}}
	h.gateway = gateway.New(h.id, socketHost{h}, h.log, socketLimits(p.Config.Settings))
	return h
}

// find returns the agent if it is in memory here, or on its way.
func (h *host) find(id protocol.Agent) *actor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agents[id]
}

// activate brings an agent into memory here, unless it is. Whether this host owns it is known when it is ready.
func (h *host) activate(id protocol.Agent) (*actor, error) {
	c := h.class(id.Class)
	if c == nil {
		return nil, &ClassError{Class: id.Class, Reason: "is not served by this host"}
	}
	if err := protocol.CheckAgent(id.Name); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.agents[id]; a != nil {
		return a, nil
	}
	if h.closed {
		return nil, ErrShutdown
	}
	a := &actor{
		host: h, class: c, id: id,
		log:  h.log.With(slog.String(logkey.Class, id.Class), slog.String(logkey.Agent, id.Name)),
		jobs: make(chan *job), returns: make(chan *stint), mail: newMailbox(), started: make(chan struct{}), gone: make(chan struct{}),
		stuck: map[string]bool{}, again: map[string]bool{}, away: map[*stint]bool{},
		sockets: map[connKey]protocol.SocketConnection{}, attached: map[string]bool{},
	}
	h.agents[id] = a
	h.launch(a)
	return a, nil
}

// statesOf looks after the large states of an agent that this host has taken.
func (h *host) statesOf(a *actor) *states {
	return &states{
		id: a.id, store: h.store, objects: h.project.Objects(), log: a.log, within: h.times.carryOut, epoch: a.at.record.Epoch,
	}
}

// forget takes an actor out that ends. From now on the agent can be brought into memory anew.
func (h *host) forget(a *actor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agents[a.id] == a {
		delete(h.agents, a.id)
	}
}

// all returns the agents in memory.
func (h *host) all() []*actor {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*actor, 0, len(h.agents))
	for _, a := range h.agents {
		all = append(all, a)
	}
	return all
}
