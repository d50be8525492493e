package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/skein-run/skein/internal/logkey"
)

// PatternError says why a pattern given to Handle cannot be served.
type PatternError struct {
	Pattern string
	Err     error
}

func (e *PatternError) Error() string { return fmt.Sprintf("handler of %q: %v", e.Pattern, e.Err) }

// Unwrap returns the reason.
func (e *PatternError) Unwrap() error { return e.Err }

// page is a handler beside the agents.
type page struct {
	pattern string
	handler http.Handler
}

// Handle serves what is for no agent: pages, scripts, whatever the clients of the agents need from the same origin. Patterns are those
// of http.ServeMux. Paths below /agents/ stay with the agents, /healthz and /readyz are those of health_addr: a pattern that asks for
// them, is malformed, or conflicts with another, is a *PatternError when the service starts.
//
// Such a handler is on its own: it sees the request as net/http has it, without hooks and without what the settings say of bodies,
// answers and origins of agents. What they allow one client, and all of them, holds for it, too. All hosts of a project should have the same ones, for a page that comes back may reach any of them.
func (s *HostService) Handle(pattern string, handler http.Handler) *HostService {
	s.pages = append(s.pages, page{pattern, handler})
	return s
}

// newPages makes one handler of all; nil if there are none.
func newPages(pages []page) (http.Handler, error) {
	if len(pages) == 0 {
		return nil, nil
	}
	mux := http.NewServeMux()
	var errs []error
	for _, p := range pages {
		if err := p.addTo(mux); err != nil {
			errs = append(errs, &PatternError{Pattern: p.pattern, Err: err})
		}
	}
	return mux, errors.Join(errs...)
}

func (p page) addTo(mux *http.ServeMux) error {
	switch first := p.firstSegment(); first {
	case "agents":
		return errors.New("/agents/ is where the agents are")
	case "healthz", "readyz":
		return fmt.Errorf("/%s is served at health_addr", first)
	}
	err := protect(func() error { mux.Handle(p.pattern, p.handler); return nil })
	if refused, ok := errors.AsType[*PanicError](err); ok { // how net/http says that a pattern cannot be
		return fmt.Errorf("%v", refused.Value)
	}
	return nil
}

// firstSegment is that of the path of a pattern such as "GET example.com/a/{b}".
func (p page) firstSegment() string {
	_, path, _ := strings.Cut(p.pattern, "/")
	first, _, _ := strings.Cut(path, "/")
	return strings.TrimSuffix(first, "{$}")
}

// handler serves the agents and what is beside them.
func (h *host) handler() http.Handler {
	agents := h.edge.handler(h)
	if h.pages == nil {
		return agents
	}
	pages := h.edge.paced(http.HandlerFunc(h.servePage))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path := r.URL.EscapedPath(); path == "/agents" || strings.HasPrefix(path, "/agents/") {
			agents.ServeHTTP(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	})
}

// servePage breaks the connection off if the handler panics: how much of the answer is there, nobody can tell.
func (h *host) servePage(w http.ResponseWriter, r *http.Request) {
	err := protect(func() error { h.pages.ServeHTTP(w, r); return nil })
	p, ok := errors.AsType[*PanicError](err)
	if !ok {
		return
	}
	if cause, ok := p.Value.(error); !ok || !errors.Is(cause, http.ErrAbortHandler) {
		h.log.ErrorContext(r.Context(), "the handler of a page panicked", slog.String(logkey.Method, r.Method),
			slog.String(logkey.Path, r.URL.Path), slog.Any(logkey.Error, err), slog.String(logkey.Stack, string(p.Stack)))
	}
	panic(http.ErrAbortHandler)
}
