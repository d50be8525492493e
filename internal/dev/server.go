package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
	_ "time/tzdata" // schedules name time zones, on machines without zone files too

	"github.com/nats-io/nats-server/v2/server"

	"github.com/skein-run/skein/internal/process"
)

const (
	host = "127.0.0.1"
	// startLimit is how long the server may take to read what the data folder holds.
	startLimit = 60 * time.Second
	startPoll  = 100 * time.Millisecond
	// A frozen client keeps its subscriptions until the server misses its pings.
	pingInterval = 2 * time.Second
	maxPingsOut  = 2
)

// NATS is an embedded NATS server with JetStream on files, on loopback only.
type NATS struct {
	server *server.Server
	folder *folder
	// Dir is the data folder, as an absolute path.
	Dir string
}

// StartNATS starts a server on a port (0: any that is free) with its data in a folder, which it makes and locks.
func StartNATS(port int, dir string, log *slog.Logger) (n *NATS, err error) {
	if port < 0 || port > 65535 {
		return nil, fmt.Errorf("port %d: allowed is 1 to 65535, or 0 for any that is free", port)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("data folder %q: %w", dir, err)
	}
	folder, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, folder.close())
		}
	}()
	if err := checkPort(port); err != nil {
		return nil, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "skein-dev", Host: host, Port: port, JetStream: true, StoreDir: dir, NoSigs: true,
		PingInterval: pingInterval, MaxPingsOut: maxPingsOut,
	})
	if err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	faults := &serverLog{log: log}
	s.SetLoggerV2(faults, false, false, false)
	s.Start()
	if err := faults.await(s); err != nil {
		stopServer(s)
		return nil, fmt.Errorf("start NATS with the data in %q: %w", dir, err)
	}
	return &NATS{server: s, folder: folder, Dir: dir}, nil
}

// URL is where clients connect to.
func (n *NATS) URL() string { return n.server.ClientURL() }

// Stop stops the server and waits until its data is written and the folder is free.
func (n *NATS) Stop() error {
	stopServer(n.server)
	return n.folder.close()
}

func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// checkPort tells of a busy port before the server is started: it would only log that it cannot listen.
func checkPort(port int) error {
	if port == 0 {
		return nil
	}
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	listener, err := net.Listen("tcp", addr)
	if err == nil {
		return listener.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return process.WithHint(fmt.Errorf("port %d: something else listens on %s, perhaps another NATS server", port, addr),
			"stop that, or choose another port with --port")
	}
	return process.WithHint(fmt.Errorf("port %d: %w", port, err), "choose another port with --port")
}

// serverLog passes on what the server complains of, and keeps why it could not start.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex // guards fatal
	fatal string
}

// await returns when the server takes connections, or has said why it cannot.
func (l *serverLog) await(s *server.Server) error {
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		if s.ReadyForConnections(startPoll) {
			return nil
		}
		l.mu.Lock()
		fatal := l.fatal
		l.mu.Unlock()
		if fatal != "" {
			return errors.New(fatal)
		}
	}
	return fmt.Errorf("not ready after %s", startLimit)
}

func (l *serverLog) write(level slog.Level, format string, args []any) {
	l.log.Log(context.Background(), level, "NATS: "+fmt.Sprintf(format, args...))
}

func (l *serverLog) Fatalf(format string, args ...any) {
	l.mu.Lock()
	l.fatal = fmt.Sprintf(format, args...)
	l.mu.Unlock()
	l.write(slog.LevelError, format, args)
}

func (l *serverLog) Errorf(format string, args ...any)  { l.write(slog.LevelError, format, args) }
func (l *serverLog) Warnf(format string, args ...any)   { l.write(slog.LevelWarn, format, args) }
func (l *serverLog) Noticef(format string, args ...any) { l.write(slog.LevelDebug, format, args) }
func (l *serverLog) Debugf(format string, args ...any)  { l.write(slog.LevelDebug, format, args) }
func (l *serverLog) Tracef(format string, args ...any)  { l.write(slog.LevelDebug, format, args) }
