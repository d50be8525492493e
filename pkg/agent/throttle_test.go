package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
)

// hits sends some requests at the same time, and counts the answers by their status.
func (h *testHost) hits(t *testing.T, n int, path, forwarded string) map[int]int {
	t.Helper()
	var mu sync.Mutex
	var sent sync.WaitGroup
	statuses := map[int]int{}
	for range n {
		sent.Go(func() {
			response, body := h.send(t, http.MethodGet, path, map[string]string{"X-Forwarded-For": forwarded, "Origin": "https://a.example"}, "")
			mu.Lock()
			defer mu.Unlock()
			statuses[response.StatusCode]++
			if response.StatusCode == http.StatusTooManyRequests && (response.Header.Get("Retry-After") != "1" ||
				!strings.HasPrefix(body, `{"error":{"name":"TooManyRequests","message":"`) || response.Header.Get("Content-Type") != "application/json") {
				t.Errorf("refused with %v %s", response.Header, body)
			}
		})
	}
	sent.Wait()
	return statuses
}

// counted is the value of a counter of refusals.
func (h *testHost) counted(t *testing.T, setting string) float64 {
	t.Helper()
	families, err := h.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "skein_http_refusals_total" && m.GetLabel()[0].GetValue() == setting {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestClientThatAsksTooOften: it is refused before hooks and agents, others behind the same proxy are not, and whom the proxy asks for is
// whom agents see, wherever they live.
func TestClientThatAsksTooOften(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var hooked sync.Map
	classes := desks(func(d *desk) {
		d.request = func(_ *desk, w http.ResponseWriter, q *http.Request) error {
			_, err := io.WriteString(w, q.RemoteAddr)
			return err
		}
	})
	limit := settings(func(s *process.Settings) {
		s.HTTPAddressRate, s.HTTPAddressBurst, s.HTTPProxies, s.HTTPOrigins = 1, 3, "127.0.0.1", "https://a.example"
	})
	owner := r.host(t, classes)
	owner.call(t, http.MethodGet, "/agents/desk/jo", "")
	h := r.host(t, classes, limit, func(s *HostService, _ *project.Config) {
		s.BeforeRequest(func(q *http.Request, _ Target) (any, error) {
			n, _ := hooked.LoadOrStore(q.RemoteAddr, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			return nil, nil
		}).Handle("/", http.NotFoundHandler())
	})
	response, body := h.send(t, http.MethodGet, "/agents/desk/jo", map[string]string{"X-Forwarded-For": "1.1.1.1, 203.0.113.1"}, "")
	if response.StatusCode != http.StatusOK || body != "203.0.113.1:0" {
		t.Fatalf("agents see %d %s", response.StatusCode, body)
	}
	statuses := h.hits(t, 40, "/agents/desk/jo", "203.0.113.9")
	served, refused := statuses[http.StatusOK], statuses[http.StatusTooManyRequests]
	if served < 3 || refused == 0 || served+refused != 40 || h.counted(t, process.SettingAddressRate) != float64(refused) {
		t.Errorf("answers %v, %v refusals are counted", statuses, h.counted(t, process.SettingAddressRate))
	}
	if n, _ := hooked.Load("203.0.113.9:0"); n.(*atomic.Int64).Load() != int64(served) {
		t.Errorf("hooks saw %d requests, %d were served", n.(*atomic.Int64).Load(), served)
	}
	statuses = h.hits(t, 40, "/page", "203.0.113.10")
	if statuses[http.StatusNotFound] < 3 || statuses[http.StatusTooManyRequests] == 0 {
		t.Errorf("pages are answered with %v", statuses)
	}
	if statuses := h.hits(t, 10, "/agents/desk/jo", ""); statuses[http.StatusOK] != 10 {
		t.Errorf("the proxy itself: %v", statuses)
	}
	if n := h.log.count("clients are refused"); n != 2 {
		t.Errorf("%d log lines about two clients", n)
	}
}

// TestTooOftenIsReadable: pages of other origins can read that they are refused.
func TestTooOftenIsReadable(t *testing.T) {
	t.Parallel()
	h := newRig(t).host(t, desks(nil), settings(func(s *process.Settings) { s.HTTPAddressRate, s.HTTPOrigins = 1, "https://a.example" }))
	natstest.Eventually(t, soon, "a request is refused", func() bool {
		response, _ := h.send(t, http.MethodGet, "/agents/desk/jo", map[string]string{"Origin": "https://a.example"}, "")
		if got := response.Header.Get("Access-Control-Allow-Origin"); got != "https://a.example" {
			t.Errorf("%d with origin %q", response.StatusCode, got)
		}
		return response.StatusCode == http.StatusTooManyRequests
	})
}

// TestSocketsOfOneAddress: one more is refused with 429 before it is one, those of others are not, and room is given back.
func TestSocketsOfOneAddress(t *testing.T) {
	t.Parallel()
	h := newRig(t).host(t, rooms(nil), settings(func(s *process.Settings) { s.HTTPAddressSockets, s.HTTPProxies = 2, "127.0.0.0/8" }))
	as := func(client string) http.Header { return http.Header{"X-Forwarded-For": {client}} }
	var first *socketClient
	for range 2 {
		c, _, err := h.tryDial(t.Context(), roomPath, as("203.0.113.9"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.ws.CloseNow()
		first = c
	}
	_, response, err := h.tryDial(t.Context(), "/agents/chat-room/other", as("203.0.113.9"))
	if response == nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "1" || !strings.Contains(string(text), "203.0.113.9 has 2 sockets open") {
		t.Errorf("one too many: %d %v %s", response.StatusCode, response.Header, text)
	}
	if n, all := h.counted(t, process.SettingAddrSockets), h.counted(t, process.SettingHTTPSockets); n != 1 || all != 0 {
		t.Errorf("%v refusals are counted, %v for all", n, all)
	}
	other, _, err := h.tryDial(t.Context(), roomPath, as("203.0.113.10"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.ws.CloseNow()
	for range 5 { // what never becomes a socket takes no place
		response, _ := h.send(t, http.MethodGet, roomPath, map[string]string{"X-Forwarded-For": "203.0.113.11", "Upgrade": "websocket", "Connection": "Upgrade"}, "")
		if response.StatusCode == http.StatusTooManyRequests {
			t.Errorf("no socket: %d", response.StatusCode)
		}
	}
	_ = first.ws.Close(websocket.StatusNormalClosure, "")
	natstest.Eventually(t, soon, "there is room again", func() bool {
		c, _, err := h.tryDial(t.Context(), roomPath, as("203.0.113.9"))
		if err == nil {
			_ = c.ws.CloseNow()
		}
		return err == nil
	})
}

// trickle sends a text at once and then a byte at a time until the connection ends, and returns what came before that.
func (h *testHost) trickle(t *testing.T, first string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	if _, err := io.WriteString(c, first); err != nil {
		t.Error(err)
		return ""
	}
	over := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-over:
				return
			}
			if _, err := c.Write([]byte{'x'}); err != nil {
				return
			}
		}
	})
	defer sending.Wait()
	defer close(over)
	_ = c.SetReadDeadline(time.Now().Add(soon))
	text, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection stays open for %s to which a client sends %.20q and then a byte at a time", soon, first)
	}
	return string(text)
}

// TestSlowClients are cut off, whatever they do slowly; meanwhile others are served, and no turn begins or goes on for them.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	reading := desks(func(d *desk) {
		d.request = func(d *desk, w http.ResponseWriter, q *http.Request) error {
			if _, err := io.Copy(io.Discard, q.Body); err != nil {
				return err
			}
			return count(d, w, q)
		}
	})
	h := newRig(t).host(t, reading, settings(func(s *process.Settings) {
		// No busy machine is as slow as those that are to be cut off.
		s.HTTPHeaderTimeout, s.HTTPReadTimeout, s.HTTPIdleTimeout, s.HTTPTimeout = process.Duration(5*time.Second), process.Duration(6*time.Second), process.Duration(time.Second), process.Duration(10*time.Second)
	}))
	post := "POST /agents/desk/slow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
	for _, slow := range []struct {
		name, first string
		want        string // begins the answer
	}{
		{"a header", "GET /agents/desk/slow HTTP/1.1\r\nX: ", ""},
		{"a body", fmt.Sprintf(post, 10_000, "x"), ""},
		{"a long body", fmt.Sprintf(post, 10<<20, strings.Repeat("x", maxRelayed)), "HTTP/1.1 413 "},
		{"the rest of a long body", fmt.Sprintf(post, 1<<20, strings.Repeat("x", maxRelayed)), "HTTP/1.1 504 "},
	} {
		t.Run(slow.name, func(t *testing.T) {
			t.Parallel()
			var clients sync.WaitGroup
			for range 10 {
				clients.Go(func() {
					if answer := h.trickle(t, slow.first); !strings.HasPrefix(answer, slow.want) || slow.want == "" && strings.Contains(answer, " 200 ") {
						t.Errorf("answer %.200q, want %q", answer, slow.want)
					}
				})
			}
			h.expect(t, "/agents/desk/other", http.StatusOK, "0")
			clients.Wait()
		})
	}
	t.Run("between requests", func(t *testing.T) {
		t.Parallel()
		c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(soon))
		if _, err := io.WriteString(c, "GET /agents/desk/other HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewReader(c)
		response, err := http.ReadResponse(answers, nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		if _, err := answers.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("it ends with %v", err)
		}
	})
}

// TestConnectionsOfAHost: the settings arrive; internal/throttle has more. By default there are twice as many as sockets.
func TestConnectionsOfAHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.host(t, desks(nil), settings(func(s *process.Settings) { s.HTTPAddressConnections = 1 }))
	few := r.host(t, desks(nil), settings(func(s *process.Settings) { s.HTTPMaxSockets = 1 }))
	for _, full := range []struct {
		host *testHost
		held int
		want int
	}{{h, 1, http.StatusTooManyRequests}, {few, 2, http.StatusServiceUnavailable}} {
		for range full.held {
			c, err := net.Dial("tcp", strings.TrimPrefix(full.host.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		natstest.Eventually(t, soon, "who is refused is told so", func() bool {
			status, body, err := full.host.tryCall(t.Context(), http.MethodGet, "/agents/desk/jo", "")
			if err == nil && (status != full.want || !strings.Contains(body, "TooManyConnections")) {
				t.Fatalf("one more than %d: %d %s", full.held, status, body)
			}
			return err == nil // who is slow to ask is cut off without an answer
		})
	}
}
