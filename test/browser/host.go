package browser

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

// Host is an agent host that runs as project.Main would run it, but in the test's process.
type Host struct {
	// URL is its address, such as http://127.0.0.1:4711.
	URL string
	// Project is the connection of the host.
	Project *project.Project

	t    testing.TB
	nc   *nats.Conn
	stop func() error
}

// Serve runs a host of the project "browser" until the test ends, and returns when it is ready. Change, if it is not nil, changes
// the configuration.
func Serve(t testing.TB, server *natstest.Server, service *agent.HostService, change func(*project.Config)) *Host {
	t.Helper()
	config := project.Config{Name: "browser"}
	config.Settings.HTTPAddr = "127.0.0.1:0"
	if change != nil {
		change(&config)
	}
	h := &Host{t: t, nc: server.Connect(t)}
	lines := &testLog{t: t}
	log := slog.New(slog.NewTextHandler(lines, nil))
	var err error
	if h.Project, err = project.Open(t.Context(), config, project.Conn(h.nc), project.Logger(log)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- project.Run(ctx, h.Project, service) }()
	h.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		h.Stop()
		h.Project.Close()
		lines.close()
	})
	natstest.Eventually(t, natstest.Patience, "the host is ready", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the host ended before it was ready: %v", err)
		default:
		}
		return h.Project.IsReady()
	})
	h.URL = "http://" + service.Addr().String()
	return h
}

// Stop ends the host in order: its sockets are closed with 1001, its agents are let go.
func (h *Host) Stop() {
	h.t.Helper()
	if err := h.stop(); err != nil && !h.nc.IsClosed() {
		h.t.Errorf("the host ended with %v", err)
	}
}

// Kill ends the host as SIGKILL would, as far as the cluster sees it: its connection is gone, and nothing was handed back.
func (h *Host) Kill() { h.nc.Close() }

// HTML is a handler of one page.
func HTML(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(text)) // who has gone away reads nothing
	})
}

// testLog shows what a host logs with the test, until that ends.
type testLog struct {
	t      testing.TB
	mu     sync.Mutex // guards closed
	closed bool
}

func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.t.Logf("%s", bytes.TrimSpace(line))
	}
	return len(line), nil
}

func (l *testLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}
