package js_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/skein-run/skein/js"
)

func TestHandler(t *testing.T) {
	t.Parallel()
	get := func(method, tag string) *http.Response {
		w, r := httptest.NewRecorder(), httptest.NewRequest(method, "/anywhere/skein.js", nil)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		js.Handler().ServeHTTP(w, r)
		if n := w.Body.Len(); (n > 0) != (w.Code == http.StatusOK && method == http.MethodGet) {
			t.Errorf("%s is answered with %d and %d bytes", method, w.Code, n)
		}
		return w.Result()
	}
	first := get(http.MethodGet, "")
	for header, want := range map[string]string{"Content-Type": "text/javascript", "Cache-Control": "no-cache", "Access-Control-Allow-Origin": "*"} {
		if got := first.Header.Get(header); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %s", header, got, want)
		}
	}
	tag := first.Header.Get("ETag")
	if again := get(http.MethodGet, tag); tag == "" || again.StatusCode != http.StatusNotModified {
		t.Errorf("with the tag %s the answer is %d, want 304", tag, again.StatusCode)
	}
	if other := get(http.MethodGet, `"another"`); other.StatusCode != http.StatusOK {
		t.Errorf("with another tag the answer is %d, want 200", other.StatusCode)
	}
	get(http.MethodHead, "")
	if !strings.Contains(string(js.Module()), "export class AgentClient extends EventTarget") {
		t.Error("the module has no AgentClient")
	}
}
