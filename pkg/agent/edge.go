package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/rs/cors"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/throttle"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Target is the agent that a request is for.
type Target struct{ Class, Name string }

// RequestHook sees a request before it goes to its agent. The identity that it returns can be read in the turn: see
// Identity. An error refuses the request: an *Error with its status, any other with 500. The hook may change the request's
// header; it must not read the body.
type RequestHook func(r *http.Request, to Target) (identity any, err error)

// BeforeRequest adds a hook for every HTTP request that this service takes, whichever host has the agent. Hooks run in the
// order in which they were added, until one refuses; the last identity that is not nil counts. All hosts of a project should
// have the same hooks.
func (s *HostService) BeforeRequest(hook RequestHook) *HostService {
	s.hooks = append(s.hooks, hook)
	return s
}

// ErrNoIdentity is returned by Identity if no hook has attached one.
var ErrNoIdentity = errors.New("the request has no identity: no BeforeRequest hook has attached one")

type identityKey struct{}

// Identity is what a BeforeRequest hook has found out about who sent the request that ctx belongs to, read into a T from its
// JSON. Clients cannot forge it: it is no header, and travels beside the request.
func Identity[T any](ctx context.Context) (T, error) {
	var identity T
	raw, _ := ctx.Value(identityKey{}).(json.RawMessage)
	if raw == nil {
		return identity, ErrNoIdentity
	}
	if err := json.Unmarshal(raw, &identity); err != nil {
		return identity, fmt.Errorf("identity of a request as %T: %w", identity, err)
	}
	return identity, nil
}

// maxIdentity bounds an identity as JSON: it travels with the request.
const maxIdentity = 16 << 10

// edge is what happens to requests before and after their agents.
type edge struct {
	hooks       []RequestHook
	origins     []string
	maxBody     int64
	timeout     time.Duration
	maxRequests int64
	// throttle is what one client may ask, and all.
	throttle *throttle.Throttle
	// header, read and idle are how long clients may take.
	header, read, idle time.Duration
}

func newEdge(hooks []RequestHook, p *project.Project) edge {
	settings := p.Config.Settings.WithDefaults()
	return edge{
		hooks: hooks, origins: process.Origins(settings.HTTPOrigins), maxBody: int64(settings.HTTPMaxBody),
		timeout: time.Duration(settings.HTTPTimeout), maxRequests: int64(settings.HTTPMaxRequests),
		throttle: throttle.New(clientLimits(settings), p.Log, p.Metrics()),
		header:   time.Duration(settings.HTTPHeaderTimeout), read: time.Duration(settings.HTTPReadTimeout), idle: time.Duration(settings.HTTPIdleTimeout),
	}
}

// clientLimits are what the settings allow clients.
func clientLimits(settings process.Settings) throttle.Limits {
	return throttle.Limits{
		Connections: cmp.Or(settings.HTTPMaxConnections, 2*settings.HTTPMaxSockets), PerAddress: settings.HTTPAddressConnections,
		Sockets: settings.HTTPAddressSockets, Rate: settings.HTTPAddressRate, Burst: settings.HTTPAddressBurst,
		Stall: time.Duration(settings.HTTPIdleTimeout), Proxies: process.Proxies(settings.HTTPProxies),
	}
}

// paced refuses the requests of a client that sends too many.
func (e edge) paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, err := e.throttle.Admit(r)
		if err != nil {
			writeResponse(w, failed(overLimit(err)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// overLimit is a refusal of the throttle as an answer.
func overLimit(err error) error {
	r, ok := errors.AsType[*throttle.Refusal](err)
	if !ok {
		return err
	}
	return &Error{Status: r.Status, Name: r.Name, Message: r.Message, RetryAfter: r.RetryAfter, Err: err}
}

// writeResponse answers without an agent.
func writeResponse(w http.ResponseWriter, response *protocol.HTTPResponse) {
	maps.Copy(w.Header(), response.Header)
	w.WriteHeader(response.Status)
	_, _ = w.Write(response.Body) // who has gone away reads nothing
}

// handler lets the pages of some origins read the answers. Their preflights are answered here and reach no hook.
func (e edge) handler(next http.Handler) http.Handler {
	next = e.paced(next) // inside, so that pages can read that they are refused
	if len(e.origins) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins: e.origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{"Retry-After"},
		// With credentials, "all origins" would be the same as none of the protection that browsers give.
		AllowCredentials: !slices.Contains(e.origins, "*"),
		MaxAge:           int(10 * time.Minute / time.Second),
	}).Handler(next)
}

// admit asks the hooks and returns the identity, as JSON; nil if none has attached one.
func (e edge) admit(r *http.Request, id protocol.Agent) (json.RawMessage, error) {
	var identity any
	for _, hook := range e.hooks {
		err := protect(func() error {
			found, err := hook(r, Target{Class: id.Class, Name: id.Name})
			if found != nil {
				identity = found
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if identity == nil {
		return nil, nil
	}
	raw, err := json.Marshal(identity)
	if err != nil {
		return nil, fmt.Errorf("identity of a request: %w", err)
	}
	if len(raw) > maxIdentity {
		return nil, fmt.Errorf("identity of a request is %d bytes long as JSON, at most %d are allowed", len(raw), maxIdentity)
	}
	return raw, nil
}
