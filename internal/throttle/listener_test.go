package throttle

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/natstest"
)

// serve serves behind the throttle, at an address that it returns.
func (r rig) serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(r.Listen(inner)) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		r.Wait()
		if n := r.open.Load(); n != 0 {
			t.Errorf("%d connections are counted after all have ended", n)
		}
	})
	return inner.Addr().String()
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

// dial connects from an address of this machine.
func dial(t *testing.T, from, to string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends a request over a connection and returns the answer.
func ask(c net.Conn) (*http.Response, string, error) {
	_ = c.SetDeadline(time.Now().Add(natstest.Patience))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return nil, "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

func expectHello(t *testing.T, c net.Conn) {
	t.Helper()
	response, body, err := ask(c)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || body != "hello" {
		t.Errorf("answer %d %s", response.StatusCode, body)
	}
}

// refusal is the answer to one who is refused with his connection. Who is slow to ask, as on a busy machine, is cut off without one, and
// tries again.
func refusal(t *testing.T, from, to string) (response *http.Response, body string) {
	t.Helper()
	natstest.Eventually(t, natstest.Patience, "who is refused is told why", func() bool {
		c := dial(t, from, to)
		defer c.Close()
		var err error
		response, body, err = ask(c)
		return err == nil
	})
	return response, body
}

// TestThousandConnectionsOfOneAddress: it holds as many as it may, all others are turned away, and nobody else is.
func TestThousandConnectionsOfOneAddress(t *testing.T) {
	t.Parallel()
	const may = 10
	r := setup(Limits{PerAddress: may, Connections: 1000})
	addr := r.serve(t, hello)
	var held []net.Conn
	for range may {
		held = append(held, dial(t, "127.0.0.1", addr))
	}
	natstest.Eventually(t, natstest.Patience, "they are counted", func() bool { return r.open.Load() == may })
	for i := may; i < 1000; i++ {
		c := dial(t, "127.0.0.1", addr)
		if i%100 == 0 { // another client gets in all the while
			expectHello(t, dial(t, "127.0.0.2", addr))
		}
		if i%2 == 0 {
			_ = c.Close()
		}
	}
	natstest.Eventually(t, natstest.Patience, "all others are refused", func() bool {
		return r.counted(t, "skein_http_refusals_total", LimitPerAddress) == 1000-may
	})
	for _, c := range held {
		expectHello(t, c)
	}
	natstest.Eventually(t, natstest.Patience, "all have been told", func() bool { return len(r.polite) == 0 })
	response, body := refusal(t, "127.0.0.1", addr)
	want := `{"error":{"message":"127.0.0.1 has 10 connections open, more are not allowed","name":"TooManyConnections"}}` + "\n"
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "1" || body != want ||
		response.Header.Get("Content-Type") != "application/json" || !response.Close {
		t.Errorf("answer %d %v %s", response.StatusCode, response.Header, body)
	}
	if n := len(r.lines.all(t)); n != 1 {
		t.Errorf("%d log lines", n)
	}
	_ = held[0].Close()
	natstest.Eventually(t, natstest.Patience, "there is room again", func() bool {
		c := dial(t, "127.0.0.1", addr)
		defer c.Close()
		response, _, err := ask(c) // one of many that are refused may not be told
		return err == nil && response.StatusCode == http.StatusOK
	})
}

// TestConnectionsOfAll: also those of many addresses are too many at some time; then all are told so.
func TestConnectionsOfAll(t *testing.T) {
	t.Parallel()
	r := setup(Limits{Connections: 3})
	addr := r.serve(t, hello)
	for _, from := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		expectHello(t, dial(t, from, addr))
	}
	response, body := refusal(t, "127.0.0.4", addr)
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" || !strings.Contains(body, "3 connections are open") {
		t.Errorf("answer %d %v %s", response.StatusCode, response.Header, body)
	}
	if n := r.counted(t, "skein_http_connections", ""); n != 3 {
		t.Errorf("%v connections", n)
	}
}

// TestConnectionsOfProxies carry many clients, and count for none.
func TestConnectionsOfProxies(t *testing.T) {
	t.Parallel()
	r := setup(Limits{PerAddress: 1, Proxies: Proxies{netip.MustParsePrefix("127.0.0.2/32")}})
	addr := r.serve(t, hello)
	for range 5 {
		expectHello(t, dial(t, "127.0.0.2", addr))
	}
	expectHello(t, dial(t, "127.0.0.1", addr))
	if response, _ := refusal(t, "127.0.0.1", addr); response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("who is no proxy: %d", response.StatusCode)
	}
}

// TestWhoIsRefusedAndSilent holds nothing for long.
func TestWhoIsRefusedAndSilent(t *testing.T) {
	t.Parallel()
	r := setup(Limits{PerAddress: 1})
	addr := r.serve(t, hello)
	expectHello(t, dial(t, "127.0.0.1", addr))
	for range 3 * maxPolite {
		c := dial(t, "127.0.0.1", addr)
		_ = c.SetReadDeadline(time.Now().Add(natstest.Patience))
		defer func() {
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("a connection stays open that was refused")
			}
		}()
	}
}

// TestWhoTakesNoAnswer is cut off; who takes it slowly is not, and neither is anybody whose server has other deadlines.
func TestWhoTakesNoAnswer(t *testing.T) {
	t.Parallel()
	const stall = time.Minute
	pipe := func(t *testing.T) (*conn, net.Conn) {
		near, far := net.Pipe()
		c := &conn{Conn: near, stall: stall, leave: func() {}}
		t.Cleanup(func() { _, _ = c.Close(), far.Close() })
		return c, far
	}
	big := make([]byte, 8*maxWrite)
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t)
		began := time.Now()
		if n, err := c.Write(big); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != stall {
			t.Errorf("nobody reads: %d, %v after %s", n, err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, far := pipe(t)
		go func() {
			for buffer := make([]byte, maxWrite); ; time.Sleep(stall * 9 / 10) {
				if _, err := io.ReadFull(far, buffer); err != nil {
					return
				}
			}
		}()
		if n, err := c.Write(big); n != len(big) || err != nil {
			t.Errorf("somebody reads slowly: %d, %v", n, err)
		}
		if n, err := c.Write(nil); n != 0 || err != nil {
			t.Errorf("nothing: %d, %v", n, err)
		}
		_ = far.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t)
		began := time.Now()
		_ = c.SetWriteDeadline(began.Add(time.Second))
		if _, err := c.Write(big); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("a deadline of the server: %v after %s", err, time.Since(began))
		}
		_ = c.SetDeadline(time.Time{})
		if _, err := c.Write(big); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second+stall {
			t.Errorf("given back: %v after %s", err, time.Since(began))
		}
	})
}

// TestServerThatWritesForEver: net/http learns that its client takes nothing.
func TestServerThatWritesForEver(t *testing.T) {
	t.Parallel()
	r := setup(Limits{Stall: 100 * time.Millisecond})
	ended := make(chan error, 1)
	addr := r.serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				ended <- err
				return
			}
		}
	})
	c := dial(t, "127.0.0.1", addr)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write ends with %v", err)
		}
	case <-ctx.Done():
		t.Error("the server writes on")
	}
}
