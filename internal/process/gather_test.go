package process

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// wire is the network below a connection under test: each write tells what it has to write, and waits for the test.
type wire struct {
	net.Conn
	writes chan []byte
	answer chan error
	closed chan struct{}
}

func newWire() *wire {
	return &wire{writes: make(chan []byte), answer: make(chan error), closed: make(chan struct{})}
}

func (w *wire) Write(b []byte) (int, error) {
	select {
	case w.writes <- bytes.Clone(b):
	case <-w.closed:
		return 0, net.ErrClosed
	}
	select {
	case err := <-w.answer:
		return len(b), err
	case <-w.closed:
		return 0, net.ErrClosed
	}
}

func (w *wire) SetWriteDeadline(time.Time) error { return nil }

func (w *wire) Close() error {
	select {
	case <-w.closed:
		return net.ErrClosed
	default:
		close(w.closed)
		return nil
	}
}

func write(t *testing.T, g *gathered, s string) {
	t.Helper()
	if n, err := g.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("write %.20q: %d, %v", s, n, err)
	}
}

func TestWritesGoOutTogether(t *testing.T) {
	t.Parallel()
	w := newWire()
	g := gather(w)
	write(t, g, "a")
	if got := string(<-w.writes); got != "a" {
		t.Fatalf("the network was given %q first", got)
	}
	for _, s := range []string{"b", "", "cd", "e"} {
		write(t, g, s)
	}
	w.answer <- nil
	if got := string(<-w.writes); got != "bcde" {
		t.Errorf("the network was given %q after that", got)
	}
	w.answer <- nil
	write(t, g, "f")
	if got := string(<-w.writes); got != "f" {
		t.Errorf("the network was given %q in the end", got)
	}
	closed := make(chan error)
	write(t, g, "last words")
	go func() { closed <- g.Close() }()
	w.answer <- nil
	if got := string(<-w.writes); got != "last words" {
		t.Errorf("the network was given %q at the close", got)
	}
	w.answer <- nil
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := g.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write to a closed connection: %v", err)
	}
}

func TestABrokenNetworkIsToldToWritersAndReaders(t *testing.T) {
	t.Parallel()
	w := newWire()
	g := gather(w)
	write(t, g, "a")
	<-w.writes
	w.answer <- io.ErrShortWrite
	<-w.closed // whoever reads learns of it
	if _, err := g.Write([]byte("b")); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a write after one that failed: %v", err)
	}
	if err := g.Close(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestWritersWaitForASlowNetwork(t *testing.T) {
	t.Parallel()
	w := newWire()
	g := gather(w)
	write(t, g, "a")
	<-w.writes
	full := string(make([]byte, maxGathered+1))
	write(t, g, full)
	wrote := make(chan error)
	late := func() {
		_, err := g.Write([]byte("late"))
		wrote <- err
	}
	go late()
	select {
	case <-wrote:
		t.Fatal("a write did not wait for room")
	case <-time.After(20 * time.Millisecond):
	}
	w.answer <- nil
	if got := len(<-w.writes); got != len(full) {
		t.Errorf("the network was given %d bytes", got)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	write(t, g, full)
	go late()
	if err := g.Close(); err != nil { // the network hangs: no longer than closeWait
		t.Error(err)
	}
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write that waited while the connection was closed: %v", err)
	}
}
