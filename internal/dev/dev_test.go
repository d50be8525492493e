package dev_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/dev"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

func TestMain(m *testing.M) { natstest.LeavesNothing(m) }

// running is a dev that serves.
type running struct {
	url    string
	out    bytes.Buffer // to be read after stop
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, port int, dir string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	started := make(chan string, 1)
	o := dev.Options{
		Port: port, Dir: dir, Out: &r.out, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Started: func(url string) { started <- url },
	}
	go func() { r.done <- dev.Run(ctx, o) }()
	select {
	case r.url = <-started:
	case err := <-r.done:
		cancel()
		t.Fatalf("ended before it started: %v", err)
	case <-time.After(natstest.Patience):
		cancel()
		t.Fatal("does not start")
	}
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(natstest.Patience):
		t.Fatal("does not stop")
	}
}

func connect(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url, nats.Timeout(natstest.Patience), nats.ReconnectBufSize(-1), nats.MaxReconnects(0))
	if err != nil {
		t.Fatal(err)
	}
	js := natstest.JetStream(t, nc)
	return nc, js
}

func TestDataOutlivesARestart(t *testing.T) {
	t.Parallel()
	dir, port := filepath.Join(t.TempDir(), "data"), natstest.FreePort(t)
	first := start(t, port, dir)
	nc, js := connect(t, first.url)
	natstest.Eventually(t, natstest.Patience, "the scheduler has made its stream", func() bool {
		_, err := js.Stream(t.Context(), protocol.StreamClock)
		return err == nil
	})
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "notes"}); err != nil {
		t.Fatal(err)
	}
	notes, err := js.KeyValue(t.Context(), "notes")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := notes.PutString(t.Context(), "k", "kept"); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	first.stop(t)

	second := start(t, port, dir)
	defer second.stop(t)
	if second.url != first.url {
		t.Errorf("the address was %s and is %s", first.url, second.url)
	}
	nc, js = connect(t, second.url)
	defer nc.Close()
	if notes, err = js.KeyValue(t.Context(), "notes"); err != nil {
		t.Fatal(err)
	}
	if entry, err := notes.Get(t.Context(), "k"); err != nil || string(entry.Value()) != "kept" {
		t.Errorf("got %v, %v", entry, err)
	}
}

func TestSaysWhereItIsAndWhatToTypeNext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, 0, dir)
	r.stop(t)
	for _, want := range []string{
		r.url, dir, "nats --server " + r.url + " sub 'wf.*.>'", "cmd/workflow-runner --config", "cmd/agent-host --config",
		"--nats-url " + r.url, "curl -X POST", "Stopped.",
	} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, r.out.String())
		}
	}
	if _, err := nats.Connect(r.url); err == nil {
		t.Error("the server still takes connections")
	}
}

func TestRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", natstest.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	busy := listener.Addr().(*net.TCPAddr).Port
	used := t.TempDir()
	user := start(t, 0, used)
	t.Cleanup(func() { user.stop(t) })
	for _, row := range []struct {
		name string
		port int
		dir  string
		want []string
	}{
		{"busy port", busy, t.TempDir(), []string{fmt.Sprintf("port %d: something else listens", busy), "next: stop that, or choose another port with --port"}},
		{"no port", 65536, t.TempDir(), []string{"port 65536: allowed is 1 to 65535"}},
		{"folder in use", 0, used, []string{"data folder", "uses it", "next: stop that process, or choose another folder with --data"}},
		{"no folder", 0, "/dev/null/data", []string{`data folder "/dev/null/data"`, "next: choose another folder with --data"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := dev.Run(ctx, dev.Options{Port: row.port, Dir: row.dir, Out: t.Output(), Log: slog.New(slog.DiscardHandler)})
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error is %v", err)
			}
			var text bytes.Buffer
			process.Report(&text, err)
			for _, want := range row.want {
				if !strings.Contains(text.String(), want) {
					t.Errorf("%q is missing in:\n%s", want, text.String())
				}
			}
		})
	}
}
