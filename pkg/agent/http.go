package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/throttle"
	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// maxBody bounds the body of an answer at the host that owns the agent.
	maxBody = 8 << 20
	// maxRelayed bounds the bodies that travel between hosts in one message. Longer ones do in parts.
	maxRelayed = 512 << 10

	maxHeaderBytes = 64 << 10
)

// newServer makes the HTTP server of a host. There is no write timeout, for an answer may wait for a long turn: who takes
// nothing of it is cut off by the throttle.
func (e edge) newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: handler, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), ReadHeaderTimeout: e.header, ReadTimeout: e.read,
		IdleTimeout: e.idle, MaxHeaderBytes: maxHeaderBytes,
	}
}

// ServeHTTP answers /agents/<class>/<name>/…; the agent sees the whole path.
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isUpgrade(r) {
		h.serveSocket(w, r)
		return
	}
	c := &reader{w: w, method: r.Method, stall: h.times.stallFor}
	response, err := h.route(c, r)
	if c.hasBegun() {
		h.endStream(c, r, response, err)
		return
	}
	if err != nil && c.left {
		h.log.DebugContext(r.Context(), "a client has gone before the answer to its request", slog.String(logkey.Path, r.URL.Path))
		panic(http.ErrAbortHandler) // what net/http wants for the end of a connection without an answer
	}
	if err != nil {
		response = h.refused(r, err)
	}
	maps.Copy(w.Header(), response.Header)
	c.closeUnread()
	w.Header().Set("Content-Length", strconv.Itoa(len(response.Body)))
	if !bodyAllowed(r.Method, response.Status) {
		w.Header().Del("Content-Length")
		response.Body = nil
	}
	w.WriteHeader(response.Status)
	if _, err := w.Write(response.Body); err != nil && bodyAllowed(r.Method, response.Status) {
		h.log.DebugContext(r.Context(), "write answer", slog.Any(logkey.Error, err))
	}
}

// endStream ends an answer that has begun: with the rest of it, or by breaking the connection off, so that nobody takes what
// came for the whole.
func (h *host) endStream(c *reader, r *http.Request, rest *protocol.HTTPResponse, err error) {
	if err == nil && rest != nil && len(rest.Body) > 0 {
		err = c.take(part{data: rest.Body})
	}
	if err == nil {
		return
	}
	if !c.left {
		h.log.WarnContext(r.Context(), "a streamed answer is broken off", slog.String(logkey.Path, r.URL.Path), slog.Any(logkey.Error, err))
	}
	panic(http.ErrAbortHandler)
}

func bodyAllowed(method string, status int) bool {
	return method != http.MethodHead && status != http.StatusNoContent && status != http.StatusNotModified
}

// refused is the answer to a request that did not get one from its agent.
func (h *host) refused(r *http.Request, err error) *protocol.HTTPResponse {
	if setting := refusedBy(err); setting != "" {
		h.edge.throttle.Count(setting)
	}
	if e, ok := errors.AsType[*unknownClass](err); ok {
		return errorResponse(http.StatusBadRequest, errorText{Name: "UnknownClass", Message: e.Error(), Classes: e.Classes})
	}
	if _, ok := errors.AsType[*Error](err); !ok {
		attrs := []any{slog.String(logkey.Method, r.Method), slog.String(logkey.Path, r.URL.Path), slog.Any(logkey.Error, err)}
		if p, ok := errors.AsType[*PanicError](err); ok {
			attrs = append(attrs, slog.String(logkey.Stack, string(p.Stack)))
		}
		h.log.ErrorContext(r.Context(), "cannot serve a request", attrs...)
	}
	return failed(err)
}

// refusedBy is the setting of this host that has refused a request; empty if none has, or if that is counted.
func refusedBy(err error) string {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return ""
	}
	if _, counted := errors.AsType[*throttle.Refusal](err); counted {
		return ""
	}
	switch e.Name {
	case nameTooManySockets:
		return process.SettingHTTPSockets
	case nameBadOrigin:
		return process.SettingHTTPOrigins
	case protocol.FailureBodyTooLarge:
		return process.SettingHTTPMaxBody
	}
	return ""
}

// unknownClass is a NoClassError about a path.
type unknownClass struct{ *NoClassError }

func (h *host) route(c *reader, r *http.Request) (*protocol.HTTPResponse, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	timer := time.AfterFunc(h.edge.timeout, func() { cancel(errLate) })
	defer timer.Stop()
	c.begin = func() {
		timer.Stop() // the rest may take its time
		h.streaming.add(c, cancel)
	}
	defer h.streaming.remove(c)
	id, err := h.target(ctx, r.URL)
	if err != nil {
		return nil, err
	}
	identity, err := h.edge.admit(r, id)
	if err == nil {
		err = h.room()
	}
	if err != nil {
		return nil, err
	}
	body, upload, err := h.readBody(c, r)
	if err != nil {
		c.left = r.Context().Err() != nil
		return nil, err
	}
	e := h.newHTTPErrand(r, body, upload, identity, c)
	reply, err := h.deliver(ctx, id, e, h.times.findWithin)
	if err == nil && (reply.Stream != nil || e.parts.hasBegun()) {
		err = e.parts.complete(reply.Stream)
	}
	if e.end(reply, err) {
		h.confirm(ctx, id, protocol.Request{V: protocol.Version, Confirm: e.id})
	}
	c.left = r.Context().Err() != nil
	c.stopBody(err)
	if err == nil {
		err = result(reply)
	}
	switch {
	case err == nil:
		return reply.HTTP, nil
	case c.hasBegun():
		return nil, err
	case errors.Is(context.Cause(ctx), errLate):
		return nil, h.late(id)
	case errors.Is(err, errFate):
		return nil, fateUnknown(err)
	case e.astray && isUnavailable(err):
		return nil, fateUnknown(errUnheard)
	case errors.Is(err, ErrShutdown):
		return nil, &Error{Status: http.StatusServiceUnavailable, Name: "ShuttingDown", Message: err.Error(), Err: err, RetryAfter: time.Second}
	}
	return nil, err
}

// isUnavailable reports whether no host could take an agent in time.
func isUnavailable(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Name == nameUnavailable
}

// errLate ends the wait for an answer.
var errLate = errors.New("the agent did not answer in time")

// late is the error of a request whose answer takes too long. The turn may run all the same.
func (h *host) late(id protocol.Agent) error {
	message := fmt.Sprintf("no answer within %s from agent %q of class %q", h.edge.timeout, id.Name, id.Class)
	if a := h.find(id); a != nil {
		if busy := a.busyWith(""); busy != "" {
			message += ": it is busy with " + busy
		}
	}
	return &Error{Status: http.StatusGatewayTimeout, Name: "Timeout", Message: message, Err: errLate}
}

// target is the agent that a URL is about.
func (h *host) target(ctx context.Context, u *url.URL) (protocol.Agent, error) {
	id, c, err := h.targetClass(ctx, u)
	if err == nil && c != nil && !c.takesRequests() {
		err = &Error{Status: http.StatusNotFound, Name: "NotFound",
			Message: fmt.Sprintf("agents of class %q take no requests: the class has no OnRequest", c.name)}
	}
	return id, err
}

// targetClass is the agent that a URL is about, and its class if this host serves it.
func (h *host) targetClass(ctx context.Context, u *url.URL) (protocol.Agent, *class, error) {
	segment, name, err := splitPath(u)
	if err != nil {
		return protocol.Agent{}, nil, err
	}
	id := protocol.Agent{Project: h.name, Name: name}
	c := h.classAt(segment)
	if c != nil {
		id.Class = c.name
	} else if id.Class, err = h.foreignClass(ctx, segment); err != nil {
		if none, ok := errors.AsType[*NoClassError](err); ok {
			err = &unknownClass{none}
		}
		return id, nil, err
	}
	if name == "" {
		return id, nil, &Error{Status: http.StatusNotFound, Name: "MissingName",
			Message: fmt.Sprintf("the path names no agent; wanted is /agents/%s/<name>", kebab(id.Class))}
	}
	if err := protocol.CheckAgent(name); err != nil {
		return id, nil, &Error{Status: http.StatusBadRequest, Name: "BadName", Message: err.Error(), Err: err}
	}
	return id, c, nil
}

// readBody reads the body of a request. If it is long, only its beginning is read, and the rest when it is wanted.
func (h *host) readBody(c *reader, r *http.Request) ([]byte, *upload, error) {
	limited := http.MaxBytesReader(nil, r.Body, h.edge.maxBody)
	var body []byte
	err := error(&http.MaxBytesError{Limit: h.edge.maxBody})
	if r.ContentLength <= h.edge.maxBody {
		body, err = io.ReadAll(io.LimitReader(limited, maxRelayed))
	}
	if err != nil {
		closeAfter(c.w)
		return nil, nil, brokenBody(err)
	}
	control := http.NewResponseController(c.w)
	if len(body) == maxRelayed && r.ContentLength != maxRelayed {
		if err := control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return nil, nil, fmt.Errorf("read a body while its request is answered: %w", err)
		}
		c.body = &source{upload: newUpload(r.ContentLength), control: control}
		for part := range slices.Chunk(body, partBytes) {
			c.body.upload.add(part)
		}
		c.body.pump(limited, h.times.stallFor)
		return nil, c.body.upload, nil
	}
	// The time to read a request must not count against its answer.
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, nil, fmt.Errorf("end the time to read a request: %w", err)
	}
	r.ContentLength = int64(len(body)) // as at another host
	return body, nil, nil
}

// splitPath takes class and name out of /agents/<class>/<name>/…; name is empty if it is missing.
func splitPath(u *url.URL) (class, name string, err error) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/agents/")
	if !ok || rest == "" {
		return "", "", &Error{Status: http.StatusNotFound, Name: "NotFound",
			Message: "no such path; agents are at /agents/<class>/<name>"}
	}
	class, rest, _ = strings.Cut(rest, "/")
	name, _, _ = strings.Cut(rest, "/")
	class, classErr := url.PathUnescape(class)
	name, nameErr := url.PathUnescape(name)
	if err := errors.Join(classErr, nameErr); err != nil {
		return "", "", &Error{Status: http.StatusBadRequest, Name: "BadPath", Message: err.Error(), Err: err}
	}
	return class, name, nil
}

// classAt is the class that a part of a path names; nil if there is none.
func (h *host) classAt(segment string) *class {
	for _, c := range h.classes {
		if c.serves(segment) {
			return c
		}
	}
	return nil
}

// class is the class of a name as records have it; nil if this host does not serve it.
func (h *host) class(name string) *class {
	for _, c := range h.classes {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (h *host) routes() []string {
	routes := make([]string, 0, len(h.classes))
	for _, c := range h.classes {
		routes = append(routes, c.route)
	}
	slices.Sort(routes)
	return routes
}

func (c *class) takesRequests() bool {
	_, ok := c.kind.MethodByName("OnRequest")
	return ok
}

// relayable is a request as it travels to another host.
func relayable(r *http.Request, body []byte) *protocol.HTTPRequest {
	return &protocol.HTTPRequest{
		Method: r.Method, URL: r.URL.String(), Host: r.Host, Remote: r.RemoteAddr, Header: r.Header, Body: body,
	}
}

// relayedRequest is the inverse of relayable, but for the body.
func relayedRequest(p *protocol.HTTPRequest) (*http.Request, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, fmt.Errorf("relayed request: url %q: %w", p.URL, err)
	}
	header := http.Header(p.Header)
	if header == nil {
		header = http.Header{}
	}
	length := p.Length
	if length == 0 {
		length = int64(len(p.Body))
	}
	return &http.Request{
		Method: p.Method, URL: u, Host: p.Host, RemoteAddr: p.Remote, Header: header, RequestURI: p.URL,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: length,
	}, nil
}

// listenHTTP opens the address of the settings.
func listenHTTP(ctx context.Context, addr string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("http_addr %q: %w", addr, err)
	}
	return listener, nil
}
