package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/logkey"
)

const partNATS = "nats"

// Health knows which parts of a process are ready. /healthz says that the process lives, /readyz whether all its
// parts take work. It is safe for concurrent use.
type Health struct {
	mu       sync.Mutex // guards what follows
	parts    map[string]string
	checks   map[string]func() error
	warnings map[string]func() error
	stopping bool
}

// Readiness is what /readyz answers.
type Readiness struct {
	Ready bool `json:"ready"`
	// Parts says "ready" or what is missing, per part.
	Parts map[string]string `json:"parts"`
	// Warnings say what somebody should look at although the process takes work.
	Warnings map[string]string `json:"warnings,omitempty"`
}

const (
	partReady    = "ready"
	partStarting = "starting"
	partStopping = "stopping"
)

// NewHealth returns a Health that has no parts yet.
func NewHealth() *Health {
	return &Health{parts: map[string]string{}, checks: map[string]func() error{}, warnings: map[string]func() error{}}
}

// Expect names parts that are not ready yet.
func (h *Health) Expect(parts ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, part := range parts {
		h.parts[part] = partStarting
	}
}

// Ready says that a part takes work.
func (h *Health) Ready(part string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parts[part] = partReady
}

// NotReady says why a part takes no work (any more).
func (h *Health) NotReady(part, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parts[part] = why
}

// Check has a part judged whenever somebody asks. check must be quick.
func (h *Health) Check(part string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parts[part] = partReady
	h.checks[part] = check
}

// Warn has something looked at whenever somebody asks, whose error is a warning: it does not make the process unready, as
// neither a restart nor less work for this process would help. check must be quick; nil ends the warning.
func (h *Health) Warn(about string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if check == nil {
		delete(h.warnings, about)
		return
	}
	h.warnings[about] = check
}

// Stop makes everything not ready, for good.
func (h *Health) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Readiness returns the state of all parts. A process without parts is not ready.
func (h *Health) Readiness() Readiness {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Readiness{Ready: len(h.parts) > 0 && !h.stopping, Parts: maps.Clone(h.parts)}
	for part, state := range r.Parts {
		if check := h.checks[part]; check != nil && state == partReady {
			if err := check(); err != nil {
				state = err.Error()
			}
		}
		if h.stopping {
			state = partStopping
		}
		r.Parts[part] = state
		r.Ready = r.Ready && state == partReady
	}
	for about, check := range h.warnings {
		if err := check(); err != nil {
			if r.Warnings == nil {
				r.Warnings = map[string]string{}
			}
			r.Warnings[about] = err.Error()
		}
	}
	return r
}

// ServeHTTP answers /healthz and /readyz.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		fmt.Fprintln(w, "ok")
	case "/readyz":
		state := h.Readiness()
		w.Header().Set("Content-Type", "application/json")
		if !state.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		// A client that has gone away is not our problem.
		_ = json.NewEncoder(w).Encode(state)
	default:
		http.NotFound(w, r)
	}
}

// serveHealth serves health and metrics until the returned function is called. Without an address it does nothing.
func serveHealth(ctx context.Context, addr string, pages http.Handler, log *slog.Logger) (stop func() error, err error) {
	if addr == "" {
		return func() error { return nil }, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, WithHint(fmt.Errorf("health_addr %q: %w", addr, err), "choose another health_addr")
	}
	log.InfoContext(ctx, "serving health", slog.String(logkey.Address, listener.Addr().String()))
	server := &http.Server{Handler: pages, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err := server.Shutdown(ctx)
		if served := <-served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return server.Close()
		}
		return err
	}, nil
}
