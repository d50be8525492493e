// Package natstest starts real NATS servers inside a test: one, or a cluster of three, with JetStream on files and on
// loopback TCP. It exists so that no test needs a mock of NATS, a server installed on the machine or an environment
// variable.
//
// It must never be imported by anything but tests, and it must never wait without a deadline.
package natstest

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
	_ "time/tzdata" // schedules with a time zone must work on machines without zone files

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Patience is how long it may take what must happen and is no claim of a test. Generous: tests share small machines, and
// only one that fails waits so long.
const Patience = 3 * time.Minute

// tryTimeout is how long one try of what is asked again may take.
const tryTimeout = 10 * time.Second

// Option changes how a server is started.
type Option interface{ apply(*config) }

type config struct {
	storeDir   string
	port       int
	syncAlways bool
	adjust     []func(*server.Options)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// StoreDir keeps the store in dir instead of a directory that goes with the test.
func StoreDir(dir string) Option { return optionFunc(func(c *config) { c.storeDir = dir }) }

// Port listens on port instead of a free one.
func Port(port int) Option { return optionFunc(func(c *config) { c.port = port }) }

// SyncAlways makes the server flush every write to disk before it acknowledges it.
func SyncAlways() Option { return optionFunc(func(c *config) { c.syncAlways = true }) }

// Adjust changes the options of each server that is started.
func Adjust(adjust func(*server.Options)) Option {
	return optionFunc(func(c *config) { c.adjust = append(c.adjust, adjust) })
}

// Server is one NATS server inside the test's process. It keeps its port and store over Stop and Start.
type Server struct {
	options server.Options

	mu      sync.Mutex // guards running
	running *server.Server
}

// Start starts a server with JetStream and stops it when the test ends.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{options: newOptions(t, "natstest", opts)}
	t.Cleanup(s.stop)
	s.Start(t)
	s.awaitJetStream(t)
	return s
}

func newOptions(t testing.TB, name string, opts []Option) server.Options {
	t.Helper()
	var c config
	for _, o := range opts {
		o.apply(&c)
	}
	if c.storeDir == "" {
		c.storeDir = t.TempDir()
	}
	if c.port == 0 {
		c.port = FreePort(t)
	}
	options := server.Options{
		ServerName: name,
		Host:       "127.0.0.1",
		Port:       c.port,
		JetStream:  true,
		StoreDir:   c.storeDir,
		SyncAlways: c.syncAlways,
		NoSigs:     true,
		NoLog:      true,
	}
	for _, adjust := range c.adjust {
		adjust(&options)
	}
	return options
}

// URL is the address of the server. It stays the same over a restart.
func (s *Server) URL() string { return "nats://127.0.0.1:" + strconv.Itoa(s.options.Port) }

// Start starts the server again after Stop, on the same port and store. It does nothing if the server runs.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return
	}
	awaitPort(t, s.options.Port)
	if s.options.Cluster.Port != 0 {
		awaitPort(t, s.options.Cluster.Port)
	}
	options := s.options // the server writes into the options it gets
	running, err := server.NewServer(&options)
	if err != nil {
		t.Fatalf("natstest: start %s: %v", s.URL(), err)
	}
	running.Start()
	s.running = running
	if !running.ReadyForConnections(Patience) {
		t.Fatalf("natstest: %s takes no connections after %s", s.URL(), Patience)
	}
}

// Stop shuts the server down and waits until it is gone. It does nothing if the server does not run.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.stop()
}

func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return
	}
	s.running.Shutdown()
	s.running.WaitForShutdown()
	s.running = nil
}

// Restart stops the server and starts it on the same port and store.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.Start(t)
	if s.options.Cluster.Port == 0 {
		s.awaitJetStream(t)
	}
}

// Connect returns a connection of the kind that Skein uses: it reconnects for ever and refuses to publish while it is
// disconnected. It is closed when the test ends.
func (s *Server) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, s.URL(), opts)
}

func connect(t testing.TB, url string, opts []nats.Option) *nats.Conn {
	t.Helper()
	all := append([]nats.Option{
		nats.Name(t.Name()),
		nats.Timeout(tryTimeout),
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(10*time.Millisecond, 10*time.Millisecond),
	}, opts...)
	nc, err := nats.Connect(url, all...)
	if err != nil {
		t.Fatalf("natstest: connect to %s: %v", url, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Lose makes what is published to a subject go nowhere, until heal is called.
func (s *Server) Lose(t testing.TB, subject string) (heal func()) {
	t.Helper()
	account, err := s.server().LookupAccount(server.DEFAULT_GLOBAL_ACCOUNT)
	if err == nil {
		err = account.AddMapping(subject, "nowhere."+subject)
	}
	if err != nil {
		t.Fatalf("natstest: lose %s: %v", subject, err)
	}
	return func() { account.RemoveMapping(subject) }
}

// Fill lets the server store nothing any more, as if its disk were full, until free is called.
func (s *Server) Fill(t testing.TB) (free func()) {
	t.Helper()
	s.LimitAccount(t, 1)
	return func() {
		t.Helper()
		s.LimitAccount(t, -1)
	}
}

// LimitAccount bounds how many bytes the account of the server may store in files; -1: there is no bound.
func (s *Server) LimitAccount(t testing.TB, bytes int64) {
	t.Helper()
	account, err := s.server().LookupAccount(server.DEFAULT_GLOBAL_ACCOUNT)
	if err == nil {
		err = account.UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
			MaxMemory: -1, MaxStore: bytes, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
		}})
	}
	if err != nil {
		t.Fatalf("natstest: limit the account: %v", err)
	}
}

func (s *Server) server() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

func (s *Server) awaitJetStream(t testing.TB) {
	t.Helper()
	nc, err := nats.Connect(s.URL(), nats.Timeout(tryTimeout))
	if err != nil {
		t.Fatalf("natstest: connect to %s: %v", s.URL(), err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	Eventually(t, Patience, "JetStream answers at "+s.URL(), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
}

// Eventually polls cond until it is true. After timeout the test fails and names what it waited for.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
		<-ticker.C
	}
}

// JetStream returns a client whose calls wait as long as a test may. What a busy server answers late is not lost; on a
// cluster, where it can be, see Ask.
func JetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(Patience))
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	return js
}

// Parallel makes go test run n tests of a package at a time, unless -parallel says otherwise: for a TestMain of tests that
// wait most of the time. More than the machine can bear make all of them late.
func Parallel(n int) {
	flag.Parse()
	given := flag.Lookup("test.parallel")
	if given.Value.String() != given.DefValue {
		return
	}
	if err := given.Value.Set(strconv.Itoa(n)); err != nil {
		panic(err)
	}
}

// Ask repeats what a test itself asks of a server until it is answered: a busy server answers late, and a cluster that
// elects a leader not at all.
func Ask(t testing.TB, what string, try func(ctx context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), tryTimeout)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", Patience, what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Ports are taken from below the range that the kernel hands out to outgoing connections: a client that keeps dialling
// a stopped server's port from that range can be given this very port as its own, connect to itself and block it.
const (
	firstPort = 12000
	lastPort  = 32000
)

// FreePort returns a TCP port on 127.0.0.1 that nobody listens on. No other call is given it before the test ends, in this process or
// another: a port that nobody listens on yet, or whose server is stopped for a while, would look free to it.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if claim, err := net.ListenPacket("udp", address(port)); err == nil { // the kernel remembers for all processes; nobody uses UDP
			t.Cleanup(func() { claim.Close() })
			if portIsFree(port) {
				return port
			}
		}
	}
	t.Fatalf("natstest: no free port between %d and %d", firstPort, lastPort)
	return 0
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func portIsFree(port int) bool {
	l, err := net.Listen("tcp", address(port))
	return err == nil && l.Close() == nil
}

// awaitPort waits until port can be listened on: sockets of a server that was just stopped may still hold it.
func awaitPort(t testing.TB, port int) {
	t.Helper()
	Eventually(t, Patience, fmt.Sprintf("port %d is free", port), func() bool { return portIsFree(port) })
}
