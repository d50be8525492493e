package agent

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
)

// says is a page.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text+" "+r.URL.Path) })
}

func handling(pattern string, handler http.Handler) hostOption {
	return func(s *HostService, _ *project.Config) { s.Handle(pattern, handler) }
}

// TestPagesBesideAgents: what is below /agents/ goes to the agents, with their hooks and origins, whatever the patterns say.
func TestPagesBesideAgents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	refuse := func(*http.Request, Target) (any, error) {
		return nil, &Error{Status: http.StatusUnauthorized, Name: "NoToken"}
	}
	h := r.host(t, desks(nil), hooked(refuse), settings(func(s *process.Settings) { s.HTTPOrigins = "https://app.example.com" }),
		handling("/", says("root")), handling("GET /about/{$}", says("about")), handling("/{any}/desk/jo", says("any")),
		handling("/abort", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })),
		handling("/panic", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("at the disco") })))
	for _, test := range []struct {
		method, path string
		status       int
		body         string
		agents       bool
	}{
		{http.MethodGet, "/", 200, "root /", false},
		{http.MethodPost, "/somewhere", 200, "root /somewhere", false},
		{http.MethodGet, "/about/", 200, "about /about/", false},
		{http.MethodGet, "/agentsmith", 200, "root /agentsmith", false},
		{http.MethodGet, "/%61gents/desk/jo", 200, "any /agents/desk/jo", false},
		{http.MethodGet, "/agents/desk/jo", 401, "NoToken", true},
		{http.MethodGet, "/agents", 404, "agents are at /agents/", true},
		{http.MethodGet, "/agents/hotel/jo", 400, "UnknownClass", true},
	} {
		response, body := h.send(t, test.method, test.path, map[string]string{"Origin": "https://app.example.com"}, "")
		if response.StatusCode != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s %s = %d %s, want %d %s", test.method, test.path, response.StatusCode, body, test.status, test.body)
		}
		if readable := response.Header.Get("Access-Control-Allow-Origin") != ""; readable != test.agents {
			t.Errorf("%s: other origins may read it: %v", test.path, readable)
		}
	}
	for _, path := range []string{"/abort", "/panic"} {
		if status, body, err := h.tryCall(t.Context(), http.MethodGet, path, ""); err == nil {
			t.Errorf("GET %s = %d %s, want no answer", path, status, body)
		}
	}
	const line = "the handler of a page panicked"
	if n := h.log.count(line); n != 1 || !strings.Contains(h.log.line(line), "at the disco") || !strings.Contains(h.log.line(line), "pages_test.go") {
		t.Errorf("%d lines say it, the first is %s", n, h.log.line(line))
	}
}

func TestPatternsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ pattern, want string }{
		{"/agents/", "/agents/ is where the agents are"},
		{"/agents", "/agents/ is where the agents are"},
		{"GET /agents/desk/{name}", "/agents/ is where the agents are"},
		{"example.com/agents/{$}", "/agents/ is where the agents are"},
		{"/healthz", "/healthz is served at health_addr"},
		{"GET /readyz/{$}", "/readyz is served at health_addr"},
		{"page", "parsing"},
		{"", "invalid pattern"},
		{"/page/{", "bad wildcard"},
		{"/taken", "conflicts"},
		{"/none", "nil handler"},
	} {
		s := Host(desks(nil)...).Handle("/taken", says(""))
		handler := says("")
		if test.pattern == "/none" {
			handler = nil
		}
		err := s.Handle(test.pattern, handler).Serve(t.Context(), nil)
		if e, ok := errors.AsType[*PatternError](err); !ok || e.Pattern != test.pattern || !strings.Contains(err.Error(), test.want) {
			t.Errorf("pattern %q: %v, want %q", test.pattern, err, test.want)
		}
	}
}
