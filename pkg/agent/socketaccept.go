package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/gateway"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

// Names of errors about sockets.
const (
	nameTooManySockets = "TooManySockets"
	nameBadOrigin      = "BadOrigin"
)

// isUpgrade reports whether a request asks for a socket.
func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") &&
		slices.ContainsFunc(r.Header.Values("Connection"), func(v string) bool { return strings.Contains(strings.ToLower(v), "upgrade") })
}

// serveSocket makes a socket of a request, unless it is refused with a status.
func (h *host) serveSocket(w http.ResponseWriter, r *http.Request) {
	client, err := h.admitSocket(r)
	if err == nil {
		err = h.takeSocket(w, r, client)
	}
	switch {
	case err == nil:
		return
	case errors.Is(err, gateway.ErrFull), errors.Is(err, gateway.ErrTooMany):
		err = &Error{Status: http.StatusServiceUnavailable, Name: nameTooManySockets, Err: err, RetryAfter: time.Second}
	case errors.Is(err, gateway.ErrClosed):
		err = &Error{Status: http.StatusServiceUnavailable, Name: "ShuttingDown", Err: err, RetryAfter: time.Second}
	}
	writeResponse(w, h.refused(r, err))
}

// takeSocket makes a socket of a request that was admitted, if its client has not too many.
func (h *host) takeSocket(w http.ResponseWriter, r *http.Request, client gateway.Client) error {
	leave, err := h.edge.throttle.Socket(r)
	if err != nil {
		return overLimit(err)
	}
	client.Left = leave
	if err := h.accept(w, r, client); err != nil {
		leave()
		return err
	}
	return nil
}

func (h *host) admitSocket(r *http.Request) (gateway.Client, error) {
	id, err := h.socketTarget(r.Context(), r.URL)
	if err != nil {
		return gateway.Client{}, err
	}
	if err := h.edge.admitOrigin(r); err != nil {
		return gateway.Client{}, err
	}
	identity, err := h.edge.admit(r, id)
	if err == nil {
		err = h.room()
	}
	if err != nil {
		return gateway.Client{}, err
	}
	connection, err := connectionID(r.URL)
	if err != nil {
		return gateway.Client{}, err
	}
	return gateway.Client{Agent: id, ID: connection, Identity: identity, Request: relayable(r, nil)}, nil
}

// socketTarget is the agent that a socket is for.
func (h *host) socketTarget(ctx context.Context, u *url.URL) (protocol.Agent, error) {
	id, c, err := h.targetClass(ctx, u)
	if err == nil && c != nil && !c.takesSockets() {
		err = &Error{Status: http.StatusNotFound, Name: "NotFound", Message: fmt.Sprintf("agents of class %q take no sockets: "+
			"the class has neither OnConnect nor OnMessage, nor the option Clients", c.name)}
	}
	return id, err
}

// connectionID is what the client calls itself.
func connectionID(u *url.URL) (string, error) {
	id := u.Query().Get("_pk")
	if id == "" {
		return uuid.NewString(), nil
	}
	if len(id) > protocol.MaxConnectionID || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", &Error{Status: http.StatusBadRequest, Name: "BadConnection",
			Message: fmt.Sprintf("the id of the connection, _pk, is %.300q; allowed are 1 to %d visible characters of ASCII", id, protocol.MaxConnectionID)}
	}
	return id, nil
}

// admitOrigin refuses pages of other origins than the host's own and those of http_origins. Browsers send cookies along with sockets
// whoever asks for them: if all origins are allowed, those of a page that is not known otherwise are not looked at.
func (e edge) admitOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	u, err := url.Parse(origin)
	switch {
	case origin == "" || err == nil && strings.EqualFold(u.Host, r.Host) || slices.Contains(e.origins, origin):
		return nil
	case slices.Contains(e.origins, "*"):
		r.Header.Del("Cookie")
		return nil
	}
	return &Error{Status: http.StatusForbidden, Name: nameBadOrigin,
		Message: fmt.Sprintf("pages of origin %.300q may open no socket here; http_origins would allow it", origin)}
}

// socketLimits are those of the gateway of a host with these settings.
func socketLimits(settings process.Settings) gateway.Limits {
	settings = settings.WithDefaults()
	limits := gateway.DefaultLimits()
	limits.Sockets, limits.Rate = settings.HTTPMaxSockets, settings.HTTPFrameRate
	return limits
}

// socketHost is the host as its gateway sees it.
type socketHost struct{ host *host }

// Bring brings a frame to the agent.
func (s socketHost) Bring(ctx context.Context, id protocol.Agent, up protocol.SocketUp, u gateway.Underway) (protocol.SocketAck, error) {
	e := s.host.newFrameErrand(id, up, u)
	reply, err := s.host.deliver(ctx, id, e, s.host.times.findWithin)
	for tries := 0; err == nil && !e.isWhole(reply) && tries < 3; tries++ { // a joined call sends again what was not taken
		reply, err = s.host.deliver(ctx, id, e, s.host.times.findWithin)
	}
	e.parts.end(err == nil)
	if err == nil {
		err = result(reply)
	}
	if err == nil && reply.Socket == nil {
		err = errors.New("the answer of a host is malformed")
	}
	if err != nil {
		return protocol.SocketAck{}, bringError(err)
	}
	if !e.isWhole(reply) {
		reply.Socket.Answers = e.broken()
	}
	return *reply.Socket, nil
}

// bringError says how a connection ends if a frame of it cannot be brought.
func bringError(err error) error {
	e, ok := errors.AsType[*Error](err)
	switch {
	case ok && e.Name == "NoHost":
		return fmt.Errorf("%w: %w", &gateway.Close{Code: 1013, Reason: err.Error()}, err)
	case ok && e.Name == nameUnavailable, errors.Is(err, ErrShutdown), errors.Is(err, context.Canceled):
		return err // nobody can tell what became of it
	}
	return fmt.Errorf("%w: %w", &gateway.Close{Code: 1011, Reason: publicText(err)}, err)
}

// rowUnknown is the place of a row of which this host does not know whether it was stored.
const rowUnknown = math.MaxUint64

// enlisted are the sequences of the rows of connections that this host has stored, by subject.
type enlisted struct {
	mu sync.Mutex // guards at
	at map[string]uint64
}

func (e *enlisted) of(subject string) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at[subject]
}

// set notes where a row is, 0: nowhere.
func (e *enlisted) set(subject string, sequence uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if sequence == 0 {
		delete(e.at, subject)
		return
	}
	if e.at == nil {
		e.at = map[string]uint64{}
	}
	e.at[subject] = sequence
}

// Enlist stores which connections of a row are held to an agent. Only this host and who sweeps up after it write the row; what it writes
// names what it takes the place of, so that nothing comes late and takes away what is newer.
func (s socketHost) Enlist(ctx context.Context, id protocol.Agent, row int, ids map[uint64]string) error {
	rows, known := bucketOf(protocol.ConnectionsBucket(s.host.name)), &s.host.enlisted
	subject := rows.subject(protocol.ConnectionsKey(s.host.id, id.Class, id.Name, row))
	newest := known.of(subject)
	if len(ids) > 0 || newest == rowUnknown { // in place of what may still come, before it is taken away
		body, err := json.Marshal(protocol.SocketRow{V: protocol.Version, Class: id.Class, Name: id.Name, IDs: ids})
		if err != nil {
			return err
		}
		newest, err = s.replaceRow(ctx, rows, subject, newest, body)
		if err != nil {
			known.set(subject, rowUnknown)
			return err
		}
		known.set(subject, newest)
	}
	if len(ids) > 0 {
		return nil
	}
	err := s.host.store.Purge(ctx, rows.stream, subject, newest+1)
	if err == nil {
		known.set(subject, 0)
	}
	return err
}

// replaceRow stores a row in place of the one at a sequence, or of what is there in its place, and returns where it is.
func (s socketHost) replaceRow(ctx context.Context, rows bucket, subject string, newest uint64, body []byte) (uint64, error) {
	if newest == rowUnknown {
		m, err := s.host.store.Last(ctx, rows.stream, subject)
		switch {
		case err == nil:
			newest = m.Sequence
		case errors.Is(err, journal.ErrNotFound):
			newest = 0
		default:
			return 0, err
		}
	}
	for {
		sequence, err := s.host.store.Append(ctx, rows.stream, subject, newest, body)
		conflict, refused := errors.AsType[*journal.ConflictError](err)
		if !refused {
			return sequence, err
		}
		newest = 0 // this host was taken for lost, and its rows were taken away
		if conflict.Tail != nil {
			newest = conflict.Tail.Sequence
		}
	}
}

// IsBusy reports whether agents have turns.
func (s socketHost) IsBusy() bool { return s.host.working.Load() > 0 }

// LargeState reads a state that is too large for a message; nil if another has taken its place.
func (s socketHost) LargeState(ctx context.Context, object protocol.Object) (json.RawMessage, error) {
	state, err := s.host.project.Objects().Get(ctx, s.host.name, object)
	if _, gone := errors.AsType[*objects.MissingError](err); gone {
		return nil, nil
	}
	return state, err
}
