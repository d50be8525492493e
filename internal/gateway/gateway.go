package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// Host is what a gateway needs of the host that it is a part of.
type Host interface {
	// Bring brings a frame of a client to its agent, wherever that lives, however often it has to be repeated, and returns
	// what became of it. An error that wraps a *Close says how the connection is to end; after any other, it is not known
	// what became of the frame.
	Bring(ctx context.Context, agent protocol.Agent, up protocol.SocketUp, u Underway) (protocol.SocketAck, error)
	// Enlist stores which connections of a row are held to an agent, by their numbers, or that none are.
	Enlist(ctx context.Context, agent protocol.Agent, row int, ids map[uint64]string) error
	// IsBusy reports whether agents have turns here: what can wait for those does.
	IsBusy() bool
	// LargeState reads a state that is too large for a message; nil if another has taken its place.
	LargeState(ctx context.Context, object protocol.Object) (json.RawMessage, error)
}

// Underway is what may happen while a frame is brought to its agent.
type Underway struct {
	// Outside is called if later frames of the connection may be brought meanwhile.
	Outside func()
	// Chunk gives the client a part of the answer to its call, after all that was sent up to a place, and returns when
	// it has left or nobody takes it any more.
	Chunk func(text []byte, place protocol.SocketPlace)
	// Gone is closed when the client has gone.
	Gone <-chan struct{}
}

// Close is an error that says how a connection is to end.
type Close struct {
	Code   int
	Reason string
}

func (e *Close) Error() string { return e.Reason }

// Client is who wants to open a socket, after it was admitted.
type Client struct {
	Agent protocol.Agent
	// ID is what the client calls itself.
	ID       string
	Identity json.RawMessage
	Request  *protocol.HTTPRequest
	// Left is called when the socket has ended, once, unless Accept has returned an error; nil: nobody wants to know.
	Left func()
}

func (c Client) left() {
	if c.Left != nil {
		c.Left()
	}
}

// Limits of a gateway.
type Limits struct {
	// Waiting and WaitingBytes bound, per connection and direction, the frames that wait.
	Waiting, WaitingBytes int
	// Sockets is how many connections there may be.
	Sockets int
	// PerAgent is how many connections there may be to one agent, PerRow how many are in one row, which is stored anew with each.
	PerAgent, PerRow int
	// Rate is how many frames per second one connection may send, and as many at once. Then it is held up: see paced.
	Rate int
	// Calls is how many calls of one connection may wait for their answers, most of them outside (T5).
	Calls int
	// Waves is in how many steps the sockets are closed when the host stops, Wave what lies between two: their clients come
	// to other hosts, which shall not get all of them at once.
	Waves int
	Wave  time.Duration
	// Stall is how long a client may take no byte of a frame.
	Stall time.Duration
	// Read is how long a large state may take to be read.
	Read time.Duration
	// Gap is how long a batch may be late that something else has told of.
	Gap time.Duration
	// Ping is how often a client is asked whether it is there, Dead how long it may say nothing.
	Ping, Dead time.Duration
}

// DefaultLimits are those of a gateway that is told nothing else.
func DefaultLimits() Limits {
	return Limits{
		Waiting: 256, WaitingBytes: 1 << 20, Sockets: 20_000, PerAgent: protocol.MaxConnections, PerRow: protocol.ConnectionsPerRow,
		Rate: 5000, Calls: 1000, Waves: 20, Wave: 50 * time.Millisecond,
		Stall: 30 * time.Second, Read: 5 * time.Second, Gap: 2 * time.Second, Ping: 30 * time.Second, Dead: time.Minute,
	}
}

// Gateway is the sockets of one host.
type Gateway struct {
	id     string
	host   Host
	log    *slog.Logger
	limits Limits
	last   atomic.Uint64 // number of a connection
	// complaints bounds the log lines about clients, whose number is not ours to choose. kept counts those that were kept back.
	complaints *rate.Limiter
	kept       atomic.Int64

	fan fan

	mu      sync.Mutex // guards what follows
	closed  bool
	sockets int
	links   map[protocol.Agent]*link
	running sync.WaitGroup // connections
}

// New makes the gateway of the host of an id.
func New(id string, host Host, log *slog.Logger, limits Limits) *Gateway {
	return &Gateway{
		id: id, host: host, log: log, limits: limits, links: map[protocol.Agent]*link{},
		complaints: rate.NewLimiter(complaintsPerSecond, complaintsAtOnce), fan: fan{isBusy: host.IsBusy},
	}
}

// ErrFull is returned by Accept if there are as many connections as may be, ErrTooMany if there are as many to the agent.
var (
	ErrFull    = errors.New("this host holds as many sockets as it may")
	ErrTooMany = errors.New("too many sockets to the agent are open at this host")
)

// Accept makes a socket of a request. Until the socket has ended and the agent knows that, ctx should not end; Wait waits for it. If it
// returns an error, the request was not answered.
func (g *Gateway) Accept(ctx context.Context, w http.ResponseWriter, r *http.Request, client Client) error {
	l, err := g.enter(client.Agent)
	if err != nil {
		if !errors.Is(err, ErrClosed) {
			g.complain(ctx, g.log, "socket is refused", slog.String(logkey.Cause, err.Error()))
		}
		return err
	}
	c := newConn(l, client)
	ws, err := websocket.Accept(slim{w}, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin was looked at before
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     func(ctx context.Context, _ []byte) bool { return c.paced(ctx) == nil },
		OnPongReceived:     func(ctx context.Context, _ []byte) { _ = c.paced(ctx) }, // who reads on sees it, too
	})
	if err != nil {
		g.leave(l)
		client.left()
		g.log.DebugContext(ctx, "no socket", slog.String(logkey.Path, r.URL.Path), slog.Any(logkey.Error, err))
		return nil // it was answered
	}
	ws.SetReadLimit(-1) // see next
	c.ws = ws
	go func() { // ends before Wait does: it is counted. That of the request ends now, and with it what the request has needed
		defer g.leave(l)
		c.run(ctx)
	}()
	return nil
}

// ErrClosed is returned by Accept when the host stops.
var ErrClosed = errors.New("the host is shutting down")

// enter counts a connection to an agent.
func (g *Gateway) enter(agent protocol.Agent) (*link, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	if g.sockets >= g.limits.Sockets {
		return nil, ErrFull
	}
	l := g.links[agent]
	if l != nil && l.users >= g.limits.PerAgent {
		return nil, ErrTooMany
	}
	if l == nil {
		l = newLink(g, agent)
		g.links[agent] = l
	}
	l.users++
	g.sockets++
	g.running.Add(1)
	return l, nil
}

func (g *Gateway) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

func (g *Gateway) leave(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sockets--
	if l.users--; l.users == 0 {
		delete(g.links, l.agent)
	}
	g.running.Done()
}

func (g *Gateway) find(agent protocol.Agent) *link {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.links[agent]
}

// Take gives the frames of a batch to the connections that they are for. Batches of one agent come one at a time.
func (g *Gateway) Take(ctx context.Context, agent protocol.Agent, down protocol.SocketDown) {
	g.mu.Lock()
	l := g.links[agent]
	if l == nil {
		g.mu.Unlock()
		return
	}
	g.running.Add(1) // what begins here may go on alone
	g.mu.Unlock()
	defer g.running.Done()
	l.take(ctx, down)
}

// Compare ends the sockets of which an agent knows less than the gateway: those that it does not have as open any more, and all if
// something was sent that does not come. Whoever was away, or held for lost, calls it: of an agent that has nothing more to say,
// nothing else would show it. The record is read by look, after the gateway has noted which sockets are open.
func (g *Gateway) Compare(ctx context.Context, agent protocol.Agent, look func() (sent protocol.SocketPlace, open map[uint64]uint64, err error)) error {
	l := g.find(agent)
	if l == nil {
		return nil
	}
	strangers := l.open()
	sent, open, err := look()
	if err != nil {
		return err
	}
	l.end(slices.DeleteFunc(strangers, func(conn uint64) bool { _, known := open[conn]; return known }))
	l.reach(ctx, sent)
	return nil
}

// Has reports whether everything up to a place has come for the connections to an agent. Where there are none, nothing is missed.
func (g *Gateway) Has(agent protocol.Agent, place protocol.SocketPlace) bool {
	l := g.find(agent)
	return l == nil || l.has(place)
}

// Await returns when everything up to a place has come for the connections to an agent. What does not come for long is lost.
func (g *Gateway) Await(ctx context.Context, agent protocol.Agent, place protocol.SocketPlace) {
	if l := g.find(agent); l != nil {
		l.reach(ctx, place)
	}
}

// Agents are those to which sockets are held.
func (g *Gateway) Agents() []protocol.Agent {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.links))
}

// maxAttached bounds one page of connections, as JSON.
const maxAttached = 256 << 10

// Attach tells the owner of an agent which connections there are.
func (g *Gateway) Attach(agent protocol.Agent, after uint64) protocol.SocketAttached {
	l := g.find(agent)
	if l == nil {
		return protocol.SocketAttached{None: true}
	}
	return l.attached(after)
}

// Run asks all clients now and then whether they are there, until ctx ends. Not all at once.
func (g *Gateway) Run(ctx context.Context) {
	const slices = 30
	ticker := time.NewTicker(max(g.limits.Ping/slices, time.Millisecond))
	defer ticker.Stop()
	for turn := uint64(0); ; turn++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for _, c := range g.all() {
			if c.conn()%slices == turn%slices {
				c.ping(ctx)
			}
		}
	}
}

// all are the connections that have a number.
func (g *Gateway) all() (all []*conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		all = append(all, l.all()...)
	}
	return all
}

// Drain takes no more connections and closes those there are. It returns false if ctx ends before all agents know.
func (g *Gateway) Drain(ctx context.Context) bool {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.closeAll(ctx)
	ended := make(chan struct{})
	go func() { // ends with the last connection: the context of those ends with the host
		g.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// closeAll closes all sockets in waves.
func (g *Gateway) closeAll(ctx context.Context) {
	for wave := range g.limits.Waves {
		for _, c := range g.all() {
			if wave == g.limits.Waves-1 || c.conn()%uint64(g.limits.Waves) == uint64(wave) {
				c.close(goingAway)
			}
		}
		if len(g.all()) == 0 {
			return
		}
		select {
		case <-time.After(g.limits.Wave):
		case <-ctx.Done():
		}
	}
}

// Wait returns when no socket is left.
func (g *Gateway) Wait() { g.running.Wait() }

// goingAway is how sockets end whose host stops: their clients come back at another.
var goingAway = protocol.SocketClose{Code: int(websocket.StatusGoingAway), Reason: "the host is shutting down, come back at another"}

// closeSocket does the closing handshake, and reports whether the other side has answered. It may be gone: then there is nothing to say.
func closeSocket(ws *websocket.Conn, how protocol.SocketClose) bool {
	reason := how.Reason
	for len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	return ws.Close(websocket.StatusCode(how.Code), cleanText(reason)) == nil
}

// maxReason is what the protocol leaves for a reason.
const maxReason = 123

// cleanText drops what is no UTF-8, such as half a rune at the end.
func cleanText(text string) string {
	return string(slices.DeleteFunc([]rune(text), func(r rune) bool { return r == '\uFFFD' }))
}
