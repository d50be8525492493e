package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReady(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			http.Error(w, `{"ready":false,"parts":{"nats":"not connected"}}`, http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, row := range []struct{ name, url, says string }{
		{"ready", server.URL + "/readyz", ""},
		{"not ready", server.URL + "/healthz", "error: not ready: 503 Service Unavailable: {\"ready\":false,\"parts\":{\"nats\":\"not connected\"}}\n"},
		{"not running", gone.URL, "next: is it running, and is its health_addr set?\n"},
		{"no address", "127.0.0.1", "error: URL \"127.0.0.1\": wanted is one like http://127.0.0.1:8080/readyz\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			out, err := skein(t, "ready", row.url).CombinedOutput()
			if (err == nil) != (row.says == "") || !strings.HasSuffix(string(out), row.says) {
				t.Errorf("error %v, says %q", err, out)
			}
		})
	}
}
