//go:build lab

package full

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/skein-run/skein/internal/natstest"
)

// storeEnv and portEnv tell this program that it is not the test but the NATS server, as which it has a store and a port.
const (
	storeEnv = "SKEIN_FULL_STORE"
	portEnv  = "SKEIN_FULL_PORT"
)

func TestMain(m *testing.M) {
	if store := os.Getenv(storeEnv); store != "" {
		if err := serve(store); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	natstest.Parallel(3) // they wait most of the time
	os.Exit(m.Run())
}

// serve is a NATS server that may store more than its disk has, until SIGTERM.
func serve(store string) error {
	port, err := strconv.Atoi(os.Getenv(portEnv))
	if err != nil {
		return err
	}
	options := &server.Options{ServerName: "full", Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: store, JetStreamMaxStore: 1 << 40, NoSigs: true}
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(natstest.Patience) {
		return errors.New("takes no connections")
	}
	<-terminated
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// natsServer is that in a process of its own, on a disk of its own.
type natsServer struct {
	t    *testing.T
	port int
	disk string
	cmd  *exec.Cmd
	log  bytes.Buffer // of a process that has ended
}

// diskBytes is how much the disk has.
const diskBytes = 48 << 20

// startServer mounts a disk and starts the server.
func startServer(t *testing.T) *natsServer {
	t.Helper()
	s := &natsServer{t: t, port: natstest.FreePort(t), disk: t.TempDir()}
	if err := syscall.Mount("full", s.disk, "tmpfs", 0, fmt.Sprint("size=", diskBytes)); err != nil {
		t.Fatalf("mount a disk (which needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(s.disk, 0); err != nil {
			t.Errorf("unmount the disk: %v", err)
		}
	})
	t.Cleanup(func() {
		s.end(syscall.SIGKILL)
		if t.Failed() {
			fmt.Fprintf(t.Output(), "---- NATS server\n%s", s.log.Bytes())
		}
	})
	s.start()
	return s
}

func (s *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

func (s *natsServer) start() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(self)
	s.cmd.Env = append(os.Environ(), storeEnv+"="+filepath.Join(s.disk, "store"), portEnv+"="+strconv.Itoa(s.port), "GORACE=atexit_sleep_ms=0")
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// end sends a signal and waits for the end.
func (s *natsServer) end(signal syscall.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Errorf("send %v to the server: %v", signal, err)
	}
	stuck := time.AfterFunc(natstest.Patience, func() { _ = s.cmd.Process.Kill() })
	defer stuck.Stop()
	if err := s.cmd.Wait(); err != nil && signal == syscall.SIGTERM {
		s.t.Errorf("the server ends with %v", err)
	}
	s.cmd = nil
}

func (s *natsServer) restart(signal syscall.Signal) {
	s.t.Helper()
	s.end(signal)
	s.start()
}

func (s *natsServer) ballast() string { return filepath.Join(s.disk, "ballast") }

// fill takes all room that the disk has, as somebody else would.
func (s *natsServer) fill() {
	s.t.Helper()
	f, err := os.Create(s.ballast())
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = io.CopyN(f, endless{}, diskBytes+1)
	if !errors.Is(err, syscall.ENOSPC) {
		s.t.Fatalf("fill the disk: %v, want %v", err, syscall.ENOSPC)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// free gives that back.
func (s *natsServer) free() {
	s.t.Helper()
	if err := os.Remove(s.ballast()); err != nil {
		s.t.Fatal(err)
	}
}

// endless reads zeros.
type endless struct{}

// Read never ends.
func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
