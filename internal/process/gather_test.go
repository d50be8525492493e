package process

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/natstest"
)

// wire returns a gathered connection and its other end. A write to the network takes until the other end has read it.
func wire(t *testing.T) (*gathered, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() {
		_ = near.Close() // both may have been closed
		_ = far.Close()
	})
	return gather(near), far
}

func write(t *testing.T, g *gathered, s string) {
	t.Helper()
	if n, err := g.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("write %.20q: %d, %v", s, n, err)
	}
}

// next is what the next write to the network holds.
func next(t *testing.T, far net.Conn) string {
	t.Helper()
	b := make([]byte, 2*maxGathered)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestWritesGoOutTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		write(t, g, "a")
		synctest.Wait() // until it is on its way
		for _, s := range []string{"b", "", "cd", "e"} {
			write(t, g, s)
		}
		for _, want := range []string{"a", "bcde"} {
			if got := next(t, far); got != want {
				t.Errorf("the network was given %q, want %q", got, want)
			}
		}
		write(t, g, "f")
		if got := next(t, far); got != "f" {
			t.Errorf("the network was given %q in the end", got)
		}
	})
}

func TestClosingSendsWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		write(t, g, "first")
		synctest.Wait()
		write(t, g, ", last")
		closed := make(chan error)
		go func() { closed <- g.Close() }()
		synctest.Wait()
		if _, err := g.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write while the connection is closed: %v", err)
		}
		if got, err := io.ReadAll(far); string(got) != "first, last" || err != nil {
			t.Errorf("the network was given %q, %v", got, err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := g.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed once more: %v", err)
		}
	})
}

func TestClosingDoesNotWaitForADeadNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		write(t, g, "unheard")
		before := time.Now()
		if err := g.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("closed, and the last words were lost: %v", err)
		}
		if took := time.Since(before); took != closeWait {
			t.Errorf("it took %v", took)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is closed: %v", err)
		}
	})
}

func TestABrokenNetworkIsToldToWritersAndReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, g, "a")
		synctest.Wait()
		if _, err := g.Write([]byte("b")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("a write after one that failed: %v", err)
		}
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("a read: %v", err)
		}
		if err := g.Close(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("closed, and a write was lost: %v", err)
		}
	})
}

// TestDeadlinesStayWithWhatWasWritten: the client of NATS takes its deadline away when a write returns.
func TestDeadlinesStayWithWhatWasWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		begin := time.Now()
		for _, deadline := range []time.Time{begin.Add(time.Second), {}} {
			if err := g.SetDeadline(deadline); err != nil {
				t.Fatal(err)
			}
			write(t, g, "a")
		}
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) || time.Since(begin) != time.Second {
			t.Errorf("the connection ended after %v: %v", time.Since(begin), err)
		}
		if _, err := g.Write([]byte("b")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write after one that was late: %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is closed: %v", err)
		}
	})
}

func TestADeadlineThatIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		for _, text := range []string{"in time", "once more"} {
			if err := g.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			write(t, g, text)
			if got := next(t, far); got != text {
				t.Errorf("the network was given %q", got)
			}
			time.Sleep(time.Second)
			if n, err := g.Write([]byte("late")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a write after its deadline: %d, %v", n, err)
			}
		}
	})
}

func TestWritersWaitForASlowNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, far := wire(t)
		full := string(make([]byte, maxGathered))
		late := make(chan error, 1)
		fill := func() { // with one write on its way, one that waits, and one that has no room
			write(t, g, "a")
			synctest.Wait()
			write(t, g, full)
			go func() {
				_, err := g.Write([]byte("late"))
				late <- err
			}()
			synctest.Wait()
			if len(late) > 0 {
				t.Fatal("a write did not wait for room")
			}
		}
		fill()
		for _, want := range []string{"a", full, "late"} {
			if got := next(t, far); got != want {
				t.Errorf("the network was given %d bytes, %.10q", len(got), got)
			}
			if synctest.Wait(); want == "a" && len(late) == 0 {
				t.Error("a write waits although there is room")
			}
		}
		if err := <-late; err != nil {
			t.Error(err)
		}
		fill()
		begin := time.Now()
		if err := g.SetWriteDeadline(begin.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := <-late; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("a write that waited for room, after %v: %v", time.Since(begin), err)
		}
	})
}

func TestAClosedConnectionFreesWritersThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _ := wire(t)
		write(t, g, "a")
		synctest.Wait()
		write(t, g, string(make([]byte, maxGathered)))
		late := make(chan error)
		go func() {
			_, err := g.Write([]byte("late"))
			late <- err
		}()
		synctest.Wait()
		go func() { _ = g.Close() }() // the network is dead
		if err := <-late; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write that waited while the connection was closed: %v", err)
		}
	})
}

// TestNothingIsLostOrOvertakes: what many write arrives whole, and what one writes in its order.
func TestNothingIsLostOrOvertakes(t *testing.T) {
	t.Parallel()
	const writers, records = 8, 500
	synctest.Test(t, func(t *testing.T) { // the second that a close has for what waits does not pass while there is something to do
		g, far := wire(t)
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for i := range records {
					body := bytes.Repeat([]byte{byte(w)}, rand.IntN(1000))
					record := binary.BigEndian.AppendUint16([]byte{byte(w)}, uint16(i))
					record = append(binary.BigEndian.AppendUint16(record, uint16(len(body))), body...)
					if _, err := g.Write(record); err != nil {
						t.Error(err)
					}
				}
			})
		}
		closed := make(chan error)
		go func() {
			writing.Wait()
			closed <- g.Close()
		}()
		got, err := io.ReadAll(far)
		if err := errors.Join(err, <-closed); err != nil {
			t.Fatal(err)
		}
		var seen [writers]int
		for len(got) > 0 {
			w, i, n := got[0], binary.BigEndian.Uint16(got[1:]), int(binary.BigEndian.Uint16(got[3:]))
			if int(i) != seen[w] || !bytes.Equal(got[5:5+n], bytes.Repeat([]byte{w}, n)) {
				t.Fatalf("record %d of writer %d came, want its record %d", i, w, seen[w])
			}
			seen[w]++
			got = got[5+n:]
		}
		for w, n := range seen {
			if n != records {
				t.Errorf("%d records of writer %d came", n, w)
			}
		}
	})
}

// TestGatheredTLS: what is gathered is what TLS makes of the messages.
func TestGatheredTLS(t *testing.T) {
	t.Parallel()
	certified := httptest.NewTLSServer(nil)
	t.Cleanup(certified.Close)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, TLSConfig: &tls.Config{Certificates: certified.TLS.Certificates}, TLSTimeout: 60, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	s.Start()
	if !s.ReadyForConnections(natstest.Patience) {
		t.Fatal("the server takes no connections")
	}
	opts, err := connOptions(t.Context(), t.Name(), Settings{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(certified.Certificate())
	opts = append(opts, nats.Secure(&tls.Config{RootCAs: trusted}), nats.Timeout(natstest.Patience))
	nc, err := nats.Connect(s.ClientURL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.TLSConnectionState(); err != nil {
		t.Fatal(err)
	}
	const messages = 1000
	sub, err := nc.SubscribeSync("a")
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if err := nc.Publish("a", bytes.Repeat([]byte{byte(i)}, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range messages {
		m, err := sub.NextMsg(natstest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(i)}, i)) {
			t.Fatalf("message %d came as %d bytes, %.10q", i, len(m.Data), m.Data)
		}
	}
}
