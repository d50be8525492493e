package throttle

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/skein-run/skein/internal/logkey"
)

// Limits of a server. A zero is no limit, but for Stall.
type Limits struct {
	// Connections is how many there may be.
	Connections int
	// PerAddress is how many there may be of one address that is no proxy's.
	PerAddress int
	// Sockets is how many connections of one client may be sockets.
	Sockets int
	// Rate is how many requests per second one client may send, Burst how many at once.
	Rate, Burst int
	// Stall is how long a client may take no byte of an answer.
	Stall time.Duration
	// Proxies are those whose word about their clients is taken.
	Proxies Proxies
}

// Names of limits, as settings and metrics have them.
const (
	LimitConnections = "http_max_connections"
	LimitPerAddress  = "http_address_connections"
	LimitRate        = "http_address_rate"
	LimitSockets     = "http_address_sockets"
)

// Refusal is the error of what is over a limit.
type Refusal struct {
	// Limit is the name of a setting.
	Limit string
	// Status, Name and Message are those of an answer.
	Status        int
	Name, Message string
	RetryAfter    time.Duration
}

func (r *Refusal) Error() string { return r.Message }

// Throttle is the limits of one server, and who asks it. It is safe for concurrent use.
type Throttle struct {
	limits  Limits
	log     *slog.Logger
	metrics *metrics
	table   *table
	// lines bounds the log lines about clients, whose number is not ours to choose.
	lines *rate.Limiter
	// polite has room for those that are told why they are refused.
	polite chan struct{}
	polity sync.WaitGroup

	// open counts connections, leftOut log lines since the last one.
	open, leftOut atomic.Int64
}

// Lines that a server writes about clients that it refuses: one per address and tellEvery, and over all addresses so many.
const (
	tellEvery      = time.Minute
	linesAtOnce    = 20
	linesPerSecond = 0.2
)

// New makes the throttle of a server. What it counts is registered with reg; nil: nobody looks.
func New(limits Limits, log *slog.Logger, reg prometheus.Registerer) *Throttle {
	if limits.Burst == 0 {
		limits.Burst = limits.Rate
	}
	t := &Throttle{
		limits: limits, log: log, table: newTable(limits), lines: rate.NewLimiter(linesPerSecond, linesAtOnce),
		polite: make(chan struct{}, maxPolite),
	}
	t.metrics = newMetrics(reg, t)
	return t
}

// Wait returns when nobody is told any more why he is refused. The listener must be closed.
func (t *Throttle) Wait() { t.polity.Wait() }

// clientKey is where the context of a request has the netip.Prefix that it counts for.
type clientKey struct{}

// Admit counts a request for its client. If proxies say who that is, the request that it returns has the client's address as
// RemoteAddr, with port 0. The error is a *Refusal.
func (t *Throttle) Admit(r *http.Request) (*http.Request, error) {
	if len(t.limits.Proxies) == 0 && t.limits.Rate == 0 && t.limits.Sockets == 0 {
		return r, nil
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r, nil // not over TCP
	}
	direct := plain(peer.Addr())
	client, ok := t.limits.Proxies.client(direct, r.Header.Values(headerForwarded))
	if !ok {
		return r, nil
	}
	r = r.WithContext(context.WithValue(r.Context(), clientKey{}, owner(client)))
	if client != direct {
		r.RemoteAddr = netip.AddrPortFrom(client, 0).String()
	}
	return r, t.pace(r.Context(), owner(client))
}

// pace takes one request from what a client may send.
func (t *Throttle) pace(ctx context.Context, client netip.Prefix) error {
	if t.limits.Rate == 0 {
		return nil
	}
	var wait time.Duration
	t.table.with(client, func(e *entry) {
		if e.pace == nil {
			e.pace = rate.NewLimiter(rate.Limit(t.limits.Rate), t.limits.Burst)
		}
		if slot := e.pace.Reserve(); slot.Delay() > 0 {
			wait = slot.Delay()
			slot.Cancel()
		}
	})
	if wait == 0 {
		return nil
	}
	return t.refuse(ctx, client, &Refusal{
		Limit: LimitRate, Status: http.StatusTooManyRequests, Name: "TooManyRequests", RetryAfter: wait,
		Message: fmt.Sprintf("%s has sent more than %d requests per second", name(client), t.limits.Rate),
	})
}

// Socket counts a socket for the client of a request that Admit has returned, until leave is called. The error is a *Refusal.
func (t *Throttle) Socket(r *http.Request) (leave func(), err error) {
	client, known := r.Context().Value(clientKey{}).(netip.Prefix)
	if !known || t.limits.Sockets == 0 {
		return func() {}, nil
	}
	full := false
	t.table.with(client, func(e *entry) {
		if full = e.sockets >= t.limits.Sockets; !full {
			e.sockets++
		}
	})
	if full {
		return nil, t.refuse(r.Context(), client, &Refusal{
			Limit: LimitSockets, Status: http.StatusTooManyRequests, Name: "TooManySockets", RetryAfter: time.Second,
			Message: fmt.Sprintf("%s has %d sockets open, more are not allowed", name(client), t.limits.Sockets),
		})
	}
	return sync.OnceFunc(func() { t.table.with(client, func(e *entry) { e.sockets-- }) }), nil
}

// Count counts what was refused for another limit.
func (t *Throttle) Count(limit string) { t.metrics.refusals.WithLabelValues(limit).Inc() }

// everybody is whom a refusal counts for that is about all clients.
var everybody netip.Prefix

// refuse counts a refusal, and tells of it unless somebody was told of this address lately.
func (t *Throttle) refuse(ctx context.Context, client netip.Prefix, r *Refusal) error {
	t.Count(r.Limit)
	refused := 0
	t.table.with(client, func(e *entry) { refused = e.refuse() })
	if refused == 0 {
		return r
	}
	if !t.lines.Allow() {
		t.leftOut.Add(1)
		return r
	}
	attrs := []any{slog.String(logkey.Setting, r.Limit), slog.String(logkey.Cause, r.Message), slog.Int(logkey.Refused, refused)}
	if n := t.leftOut.Swap(0); n > 0 { // lines about other addresses
		attrs = append(attrs, slog.Int64(logkey.Count, n))
	}
	t.log.WarnContext(ctx, "clients are refused", attrs...)
	return r
}
