package throttle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// rig is a throttle, what it logs, and what it counts.
type rig struct {
	*Throttle
	lines *lines
	reg   *prometheus.Registry
}

func setup(limits Limits) rig {
	r := rig{lines: &lines{}, reg: prometheus.NewRegistry()}
	r.Throttle = New(limits, slog.New(slog.NewJSONHandler(r.lines, nil)), r.reg)
	return r
}

type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all(t *testing.T) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.text.Bytes()) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatal(err)
		}
		all = append(all, fields)
	}
	return all
}

// counted is the value of a metric; label is that of the only label.
func (r rig) counted(t *testing.T, metric, label string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != metric || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			if m.GetGauge() != nil {
				return m.GetGauge().GetValue()
			}
			return m.GetCounter().GetValue()
		}
	}
	return 0
}

// ask sends a request as a peer.
func (r rig) ask(peer string, forwarded ...string) (*http.Request, error) {
	q := httptest.NewRequest(http.MethodGet, "/", nil)
	q.RemoteAddr, q.Header[headerForwarded] = peer, forwarded
	return r.Admit(q)
}

func expectRefusal(t *testing.T, err error, limit string, status int) *Refusal {
	t.Helper()
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || refusal.Limit != limit || refusal.Status != status || refusal.RetryAfter <= 0 || refusal.Message == "" {
		t.Fatalf("error is %+v, want a refusal by %s with %d", err, limit, status)
	}
	return refusal
}

// TestRateOfOneAddress: so many at once, so many per second, each address for itself; who waits as he was told is served.
func TestRateOfOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := setup(Limits{Rate: 2, Burst: 5})
		for i := range 5 {
			if _, err := r.ask("203.0.113.9:1"); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
		}
		_, err := r.ask("203.0.113.9:2") // another port is no other client
		refusal := expectRefusal(t, err, LimitRate, http.StatusTooManyRequests)
		if refusal.RetryAfter > time.Second/2 {
			t.Errorf("is told to wait for %s", refusal.RetryAfter)
		}
		if _, err := r.ask("203.0.113.10:1"); err != nil {
			t.Errorf("another client: %v", err)
		}
		for range 100 { // what is refused costs nothing
			_, err = r.ask("203.0.113.9:1")
			expectRefusal(t, err, LimitRate, http.StatusTooManyRequests)
		}
		time.Sleep(refusal.RetryAfter)
		if _, err := r.ask("203.0.113.9:1"); err != nil {
			t.Errorf("after %s: %v", refusal.RetryAfter, err)
		}
		_, err = r.ask("203.0.113.9:1")
		expectRefusal(t, err, LimitRate, http.StatusTooManyRequests)
		for _, network := range []string{"[2001:db8::1]:1", "[2001:db8::ffff:1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8::4]:1"} {
			if _, err := r.ask(network); err != nil {
				t.Fatal(err)
			}
		}
		_, err = r.ask("[2001:db8:0:0:9::]:1")
		if refusal := expectRefusal(t, err, LimitRate, http.StatusTooManyRequests); !strings.Contains(refusal.Message, "2001:db8::/64") {
			t.Errorf("message %q", refusal.Message)
		}
		if n := r.counted(t, "skein_http_refusals_total", LimitRate); n != 103 {
			t.Errorf("counted %v refusals, want 103", n)
		}
	})
}

// TestForgedAddresses: a client that names others neither gets more, nor uses up what is theirs.
func TestForgedAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := setup(Limits{Rate: 1, Proxies: Proxies{netip.MustParsePrefix("10.0.0.1/32")}})
		q, err := r.ask("10.0.0.1:5", "203.0.113.9")
		if err != nil || q.RemoteAddr != "203.0.113.9:0" {
			t.Fatalf("through the proxy: %s, %v", q.RemoteAddr, err)
		}
		for i := range 100 {
			_, err := r.ask("10.0.0.1:5", fmt.Sprintf("198.51.100.%d, 203.0.113.9", i))
			expectRefusal(t, err, LimitRate, http.StatusTooManyRequests)
		}
		for i := range 100 { // past the proxy
			q, err := r.ask("10.0.0.2:5", fmt.Sprintf("198.51.100.%d", i))
			if i > 0 {
				expectRefusal(t, err, LimitRate, http.StatusTooManyRequests)
			} else if err != nil || q.RemoteAddr != "10.0.0.2:5" {
				t.Errorf("past the proxy: %s, %v", q.RemoteAddr, err)
			}
		}
		if _, err := r.ask("10.0.0.1:5", "198.51.100.1"); err != nil {
			t.Errorf("who was named by others: %v", err)
		}
		for range 10 { // the proxy's own, such as its checks
			if _, err := r.ask("10.0.0.1:5"); err != nil {
				t.Errorf("the proxy itself: %v", err)
			}
		}
	})
}

// TestMemoryOfAddresses ends, however many ask; what is open is never forgotten.
func TestMemoryOfAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := setup(Limits{Rate: 1, Sockets: 1})
		r.table.most = 1000
		open, err := r.ask("203.0.113.9:1")
		if err != nil {
			t.Fatal(err)
		}
		leave, err := r.Socket(open)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			if _, err := r.ask(fmt.Sprintf("[2001:db8:%x::1]:1", i+1)); err != nil {
				t.Fatal(err)
			}
		}
		if n := r.table.size(); n != 1001 || r.counted(t, "skein_http_addresses", "") != 1001 {
			t.Errorf("%d addresses are remembered, want 1000 and the one with a socket", n)
		}
		_, err = r.Socket(open)
		expectRefusal(t, err, LimitSockets, http.StatusTooManyRequests)
		_, err = r.ask("[2001:db8:1388::2]:1") // the last one
		expectRefusal(t, err, LimitRate, http.StatusTooManyRequests)
		leave()
		leave() // once is enough
		if leave, err = r.Socket(open); err != nil {
			t.Fatalf("after the first has left: %v", err)
		}
		leave()
		time.Sleep(time.Hour)
		for range 1000 {
			_, _ = r.ask("203.0.113.10:1")
		}
		if n := r.table.size(); n != 1 {
			t.Errorf("%d addresses are remembered long after, want the one that asks", n)
		}
	})
}

// TestLinesAboutClients: one per address and minute, which says how many were refused, and few over all of them.
func TestLinesAboutClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := setup(Limits{Rate: 1})
		refuse := func(peer string, times int) {
			for range times {
				_, _ = r.ask(peer)
			}
		}
		refuse("203.0.113.9:1", 101)
		all := r.lines.all(t)
		if len(all) != 1 || all[0]["level"] != "WARN" || all[0]["setting"] != LimitRate || !strings.Contains(all[0]["cause"].(string), "203.0.113.9") {
			t.Fatalf("lines: %v", all)
		}
		time.Sleep(tellEvery)
		refuse("203.0.113.9:1", 2)
		if all = r.lines.all(t); len(all) != 2 || all[1]["refused"] != 100.0 {
			t.Fatalf("lines: %v", all)
		}
		for i := range 5000 {
			refuse(fmt.Sprintf("198.51.%d.%d:1", i/250, i%250), 3)
		}
		if n := len(r.lines.all(t)); n < linesAtOnce || n > linesAtOnce+3 {
			t.Errorf("%d lines about 5000 addresses", n)
		}
		time.Sleep(10 * time.Second)
		refuse("203.0.113.77:1", 2)
		all = r.lines.all(t)
		if last := all[len(all)-1]; !strings.Contains(last["cause"].(string), "203.0.113.77") || last["count"].(float64) < 4900 {
			t.Errorf("last line: %v", last)
		}
	})
}

// TestNoLimits: nobody is counted who needs not be.
func TestNoLimits(t *testing.T) {
	t.Parallel()
	r := setup(Limits{})
	for range 100 {
		q, err := r.ask("203.0.113.9:1", "1.1.1.1")
		if err != nil || q.RemoteAddr != "203.0.113.9:1" {
			t.Fatal(q.RemoteAddr, err)
		}
		if _, err := r.Socket(q); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.table.size(); n != 0 {
		t.Errorf("%d addresses are remembered", n)
	}
}
