package agent

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/skein-run/skein/pkg/protocol"
)

type protocolRecord = protocol.Record

// mute takes no requests.
type mute struct{ Base[int] }

func TestRoutes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	echo := func(d *desk) {
		d.request = func(_ *desk, w http.ResponseWriter, r *http.Request) error {
			info, err := Info(r.Context())
			if err != nil {
				return err
			}
			_, err = io.WriteString(w, info.Class+" "+info.Name+" "+r.URL.String())
			return err
		}
	}
	classes := []Class{
		Define("FlightDesk", func() *desk { d := &desk{}; echo(d); return d }),
		Define("Mute", func() *mute { return &mute{} }),
	}
	h := r.host(t, classes)
	for _, test := range []struct {
		name, path string
		status     int
		body       string
	}{
		{"kebab case", "/agents/flight-desk/jo", 200, "FlightDesk jo /agents/flight-desk/jo"},
		{"the class's own name", "/agents/FlightDesk/jo", 200, "FlightDesk jo /agents/FlightDesk/jo"},
		{"any case", "/agents/FLIGHT-desk/jo", 200, "FlightDesk jo /agents/FLIGHT-desk/jo"},
		{"further path and query", "/agents/flight-desk/jo/trips/7?day=1", 200, "FlightDesk jo /agents/flight-desk/jo/trips/7?day=1"},
		{"slash at the end", "/agents/flight-desk/jo/", 200, "FlightDesk jo /agents/flight-desk/jo/"},
		{"e-mail address", "/agents/flight-desk/jo@example.com", 200, "FlightDesk jo@example.com /agents/flight-desk/jo@example.com"},
		{"escaped e-mail address", "/agents/flight-desk/jo%40example.com", 200, "FlightDesk jo@example.com /agents/flight-desk/jo%40example.com"},
		{"name with a slash", "/agents/flight-desk/a%2Fb/c", 200, "FlightDesk a/b /agents/flight-desk/a%2Fb/c"},
		{"name with dots is no path", "/agents/flight-desk/..%2F..", 200, "FlightDesk ../.. /agents/flight-desk/..%2F.."},
		{"name in another script", "/agents/flight-desk/%C3%A5se", 200, "FlightDesk åse /agents/flight-desk/%C3%A5se"},
		{"name of a subject wildcard", "/agents/flight-desk/*.%3E", 200, "FlightDesk *.> /agents/flight-desk/*.%3E"},
		{"unknown class", "/agents/hotel-desk/jo", 400,
			`{"error":{"name":"UnknownClass","message":"class \"hotel-desk\" of project \"flight-desk\": no such class of agents is registered; ` +
				`there are \"flight-desk, mute\"","classes":["flight-desk","mute"]}}`},
		{"unknown class without a name", "/agents/hotel-desk", 400, "UnknownClass"},
		{"missing name", "/agents/flight-desk", 404,
			`{"error":{"name":"MissingName","message":"the path names no agent; wanted is /agents/flight-desk/\u003cname\u003e"}}`},
		{"empty name", "/agents/flight-desk//x", 404, "MissingName"},
		{"no class", "/agents/", 404, "NotFound"},
		{"other path", "/healthz", 404, "NotFound"},
		{"name that is no UTF-8", "/agents/flight-desk/%FF", 400, "BadName"},
		{"name that is too long", "/agents/flight-desk/" + strings.Repeat("x", 1025), 400, "BadName"},
		{"class that takes no requests", "/agents/mute/jo", 404, "take no requests"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			status, body := h.call(t, http.MethodGet, test.path, "")
			if status != test.status || !strings.Contains(body, test.body) || status == 200 && body != test.body {
				t.Errorf("GET %s = %d %s, want %d %s", test.path, status, body, test.status, test.body)
			}
		})
	}
}

func TestBodiesHaveLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPost {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return err
				}
				_, err = w.Write(body)
				return err
			}
			if err := d.SetState(r.Context(), deskState{Count: 1}); err != nil {
				return err
			}
			for range maxBody/4096 + 1 {
				_, _ = w.Write(make([]byte, 4096)) // an agent that does not look: the turn fails all the same
			}
			return nil
		}
	}))
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", strings.Repeat("x", maxBody)); status != 200 || len(body) != maxBody {
		t.Errorf("body at the limit: %d, %d bytes back", status, len(body))
	}
	if status, body := h.call(t, http.MethodPost, "/agents/desk/jo", strings.Repeat("x", maxBody+1)); status != 413 {
		t.Errorf("body over the limit = %d %.100s, want 413", status, body)
	}
	if status, body := h.call(t, http.MethodGet, "/agents/desk/jo", ""); status != 500 || !strings.Contains(body, "the answer is over") {
		t.Errorf("answer over the limit = %d %.100s, want 500", status, body)
	}
	if record, _ := r.record(t, "jo"); record.Turn != 0 {
		t.Errorf("turn %d, want none stored", record.Turn)
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(func(d *desk) {
		d.request = func(_ *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodDelete {
				w.WriteHeader(http.StatusNoContent)
				w.WriteHeader(http.StatusTeapot) // as with net/http, the first one counts
				return nil
			}
			_, err := io.WriteString(w, "text")
			return err
		}
	}))
	if status, body := h.call(t, http.MethodHead, "/agents/desk/jo", ""); status != 200 || body != "" {
		t.Errorf("HEAD = %d %q", status, body)
	}
	if status, body := h.call(t, http.MethodDelete, "/agents/desk/jo", ""); status != 204 || body != "" {
		t.Errorf("DELETE = %d %q", status, body)
	}
}

func TestCallerWhoLeavesDoesNotEndTheTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inTurn, goOn := make(chan struct{}), make(chan struct{})
	h := r.host(t, desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPost {
				close(inTurn)
				<-goOn
				if r.Context().Err() != nil {
					t.Error("the turn's context ended with the caller")
				}
			}
			return count(d, w, r)
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _, _ = h.tryCall(ctx, http.MethodPost, "/agents/desk/jo", "")
	}()
	<-inTurn
	cancel()
	<-left
	close(goOn)
	h.expect(t, "/agents/desk/jo", 200, "1")
}

func TestAnswerIsWhatNetHTTPWouldSend(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		handler func(http.ResponseWriter)
	}{
		{"nothing", func(http.ResponseWriter) {}},
		{"status only", func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) }},
		{"text", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") }},
		{"header and status", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "{}")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := newAnswer(1<<20), httptest.NewRecorder()
			test.handler(ours)
			test.handler(theirs)
			got, want := ours.response(), theirs.Result()
			if got.Status != want.StatusCode || string(got.Body) != theirs.Body.String() ||
				http.Header(got.Header).Get("Content-Type") != want.Header.Get("Content-Type") {
				t.Errorf("answer %+v, want %+v", got, want)
			}
		})
	}
}
