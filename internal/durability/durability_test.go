package durability_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
)

func TestMain(m *testing.M) {
	natstest.Parallel(4)
	os.Exit(m.Run())
}

// accounts are those of a server whose users may ask what it is: SKEIN imports that from the system account.
const accounts = `
accounts {
  SYS: { exports: [ { service: "$SYS.REQ.SERVER.PING.VARZ", response_type: stream } ] }
  SKEIN: {
    jetstream: enabled
    users: [ { user: skein, password: skein } ]
    imports: [ { service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ" } } ]
  }
}
system_account: SYS
no_auth_user: skein
`

// patience is how long servers may take to answer here. Where one is stopped so much is waited for it.
const patience = 10 * time.Second

// telling lets a server tell its policy over NATS.
func telling(t *testing.T) natstest.Option {
	t.Helper()
	return natstest.Adjust(func(o *server.Options) {
		file := t.TempDir() + "/nats.conf"
		if err := os.WriteFile(file, []byte(accounts), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := o.ProcessConfigFile(file); err != nil {
			t.Fatal(err)
		}
	})
}

// tell tells the durability of the registry's stream, and returns the line and the error.
func tell(t *testing.T, nc *nats.Conn, replicas int, o durability.Options) (string, error) {
	t.Helper()
	var found durability.Streams
	options := streams.Options{Replicas: replicas, Found: found.Add}
	natstest.Ask(t, "make a stream", func(ctx context.Context) error {
		return streams.EnsureProjects(ctx, natstest.JetStream(t, nc), options)
	})
	var out bytes.Buffer
	o.NC, o.Log, o.Patience = nc, slog.New(slog.NewTextHandler(&out, nil)), patience
	err := durability.Tell(t.Context(), o, &found)
	if n := strings.Count(out.String(), "msg=\"durability: "); n != 1 {
		t.Errorf("%d lines tell what the setup survives:\n%s", n, out.String())
	}
	return out.String(), err
}

// refused checks the reasons of a refusal.
func refused(t *testing.T, err error, reasons ...string) {
	t.Helper()
	e, ok := errors.AsType[*durability.RefusedError](err)
	if !ok {
		t.Fatalf("got %v, want a refusal", err)
	}
	if len(e.Reasons) != len(reasons) {
		t.Errorf("refused for %q, want %q", e.Reasons, reasons)
		return
	}
	for i, reason := range reasons {
		if !strings.Contains(e.Reasons[i], reason) {
			t.Errorf("reason %d is %q, want %q", i, e.Reasons[i], reason)
		}
	}
	if e.Hint() == "" {
		t.Error("the refusal does not say what to do")
	}
}

func contains(t *testing.T, line string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("%q is not in the line: %s", part, line)
		}
	}
}

func TestOneServer(t *testing.T) {
	t.Parallel()
	t.Run("tells nothing", func(t *testing.T) {
		t.Parallel()
		nc := natstest.Start(t).Connect(t)
		line, err := tell(t, nc, 1, durability.Options{})
		if err != nil {
			t.Fatal(err)
		}
		contains(t, line, "survives killed processes; does not survive a power failure of the server, which can lose up to the last 2m of what was acknowledged",
			"1 replica, sync_interval unknown, taken for the default of 2m", "sync=unknown")
		_, err = tell(t, nc, 1, durability.Options{Production: true})
		refused(t, err, `stream "KV_PROJECTS" has 1 replica, wanted are 3`, "0 of 1 server told when it writes to disk")
	})
	t.Run("over NATS", func(t *testing.T) {
		t.Parallel()
		nc := natstest.Start(t, telling(t), natstest.SyncAlways()).Connect(t)
		line, err := tell(t, nc, 1, durability.Options{Production: true})
		contains(t, line, "survives killed processes and a power failure; does not survive the loss of the server's disk", "sync=always")
		refused(t, err, "has 1 replica")
	})
	t.Run("over HTTP", func(t *testing.T) {
		t.Parallel()
		port := natstest.FreePort(t)
		nc := natstest.Start(t, natstest.Adjust(func(o *server.Options) {
			o.HTTPHost, o.HTTPPort, o.SyncInterval = "127.0.0.1", port, 10e9
		})).Connect(t)
		monitor := fmt.Sprintf("http://127.0.0.1:%d, http://127.0.0.1:%d/", natstest.FreePort(t), port)
		line, err := tell(t, nc, 1, durability.Options{Production: true, Monitor: monitor})
		contains(t, line, "up to the last 10s", "sync=10s", "monitoring does not answer")
		refused(t, err, "has 1 replica", `server "natstest" has sync_interval 10s, wanted is always`)
	})
}

// A setup for production is one that loses nothing; one of its servers may be away.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, telling(t), natstest.SyncAlways())
	nc := c.Connect(t)
	line, err := tell(t, nc, 3, durability.Options{Production: true})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, line, "survives killed processes, and the loss or a power failure of 1 of 3 servers; a power failure of all at once loses nothing from their disks, but can leave a stream without a leader",
		"3 replicas, sync_interval always", "servers=3")
	c.Stop(t, 2)
	if _, err := tell(t, nc, 3, durability.Options{Production: true}); err != nil {
		t.Errorf("one of three servers is away: %v", err)
	}
}

// TestMostServersStart: that most servers are about to start, or busy, is no reason to refuse a setup, unless they stay
// silent.
func TestMostServersStart(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, telling(t), natstest.SyncAlways())
	var found durability.Streams
	options := streams.Options{Replicas: 3, Found: found.Add}
	natstest.Ask(t, "make a stream", func(ctx context.Context) error {
		return streams.EnsureProjects(ctx, natstest.JetStream(t, c.Connect(t)), options)
	})
	c.Stop(t, 1)
	c.Stop(t, 2)
	nc := c.Connect(t)
	quick := durability.Options{NC: nc, Log: slog.New(slog.DiscardHandler), Production: true, Patience: 100 * time.Millisecond}
	refused(t, durability.Tell(t.Context(), quick, &found), " of 3 servers told when it writes to disk")
	out, asking := io.Pipe()
	told := make(chan error, 1)
	go func() {
		log := slog.New(slog.NewTextHandler(asking, nil))
		told <- durability.Tell(t.Context(), durability.Options{NC: nc, Log: log, Production: true, Patience: 5 * time.Second}, &found)
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, "asking on") {
		t.Fatalf("one of three servers is there: %s, %v", line, err)
	}
	go io.Copy(io.Discard, out) // until it is closed
	defer out.Close()
	c.Servers[1].Start(t)
	if err := <-told; err != nil {
		t.Errorf("two of three servers are there again: %v", err)
	}
}

func TestClusterThatSyncsLater(t *testing.T) {
	t.Parallel()
	nc := natstest.StartCluster(t, 3, telling(t)).Connect(t)
	line, err := tell(t, nc, 3, durability.Options{Production: true})
	contains(t, line, "does not survive a power failure of more at once: that can lose up to the last 2m of what was acknowledged", "sync=2m")
	refused(t, err, `server "natstest-0" has sync_interval 2m`, `server "natstest-1"`, `server "natstest-2"`)
}

// TestServerWithoutAName: a leader that has started while another server was away does not know what that is called. It is no fourth
// server, and two of three are most of them.
func TestServerWithoutAName(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, telling(t), natstest.SyncAlways())
	nc := c.Connect(t)
	var found durability.Streams
	options := streams.Options{Replicas: 3, Found: found.Add}
	natstest.Ask(t, "make a stream", func(ctx context.Context) error {
		return streams.EnsureProjects(ctx, natstest.JetStream(t, nc), options)
	})
	found.Add(&jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "other", Replicas: 3}, Cluster: &jetstream.ClusterInfo{
		Leader: "natstest-0", Replicas: []*jetstream.PeerInfo{{Name: "natstest-1"}, {Name: "Server name unknown at this time (peerID: yrzKKRBu)"}},
	}})
	c.Stop(t, 2)
	nc = c.Connect(t) // the other connection may have been to that one
	if err := durability.Tell(t.Context(), durability.Options{NC: nc, Log: slog.New(slog.DiscardHandler), Production: true, Patience: patience}, &found); err != nil {
		t.Errorf("one of three servers is away: %v", err)
	}
}
