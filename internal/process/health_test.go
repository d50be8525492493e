package process

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func ask(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	h := NewHealth()
	connected := true
	expect := func(when string, code int, parts map[string]string) {
		t.Helper()
		got, body := ask(t, h, "/readyz")
		var r Readiness
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		if got != code || r.Ready != (code == http.StatusOK) || len(r.Parts) != len(parts) {
			t.Errorf("%s: %d %s", when, got, body)
		}
		for part, state := range parts {
			if r.Parts[part] != state {
				t.Errorf("%s: part %s is %q, want %q", when, part, r.Parts[part], state)
			}
		}
		if code, body := ask(t, h, "/healthz"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: healthz says %d %q", when, code, body)
		}
	}
	expect("no parts", 503, nil)
	h.Expect("nats", "runner")
	expect("starting", 503, map[string]string{"nats": "starting", "runner": "starting"})
	h.Check("nats", func() error {
		if !connected {
			return errors.New("not connected")
		}
		return nil
	})
	h.Ready("runner")
	expect("ready", 200, map[string]string{"nats": "ready", "runner": "ready"})
	connected = false
	expect("disconnected", 503, map[string]string{"nats": "not connected", "runner": "ready"})
	connected = true
	h.NotReady("runner", "suspended")
	expect("suspended", 503, map[string]string{"nats": "ready", "runner": "suspended"})
	h.Ready("runner")
	h.Stop()
	expect("stopping", 503, map[string]string{"nats": "stopping", "runner": "stopping"})
	if code, _ := ask(t, h, "/"); code != http.StatusNotFound {
		t.Errorf("other path: %d", code)
	}
}

func TestWarningsLeaveItReady(t *testing.T) {
	t.Parallel()
	h := NewHealth()
	h.Ready("clock")
	var late error
	h.Warn("schedules", func() error { return late })
	if code, body := ask(t, h, "/readyz"); code != 200 || strings.Contains(body, "warnings") {
		t.Errorf("in time: %d %s", code, body)
	}
	late = errors.New("one waits")
	const want = `{"ready":true,"parts":{"clock":"ready"},"warnings":{"schedules":"one waits"}}`
	if code, body := ask(t, h, "/readyz"); code != 200 || strings.TrimSpace(body) != want {
		t.Errorf("late: %d %s", code, body)
	}
}

func TestHealthAddressInUse(t *testing.T) {
	t.Parallel()
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	addr := strings.TrimPrefix(taken.URL, "http://")
	_, err := serveHealth(context.Background(), addr, NewHealth(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err == nil || !strings.Contains(err.Error(), `health_addr "`+addr+`"`) {
		t.Fatalf("error is %v", err)
	}
}
