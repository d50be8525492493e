package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// process is a process that a test started. It is killed when the test ends, at the latest; if the test has failed,
// what it logged is shown.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   *record
	ended chan struct{}
}

// record keeps what a process logs.
type record struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// launch starts this program in a role.
func launch(t testing.TB, name, role string, env []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{name: name, cmd: exec.Command(self, args...), log: &record{}, ended: make(chan struct{})}
	// The race detector holds up the end of a process by a second.
	p.cmd.Env = append(append(os.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0"), env...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its state
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGKILL) // a frozen one, too; it may have ended
		<-p.ended
		if strings.Contains(p.log.String(), "DATA RACE") {
			t.Errorf("%s has a data race", p.name)
		}
		if t.Failed() {
			fmt.Fprintf(t.Output(), "---- %s, process %d\n%s", name, p.pid(), p.log)
		}
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// awaitLog waits until the process has logged text, and fails if it ends before.
func (p *process) awaitLog(t testing.TB, text string) {
	t.Helper()
	eventually(t, patience, p.name+" says "+strconv.Quote(text), func() bool {
		if strings.Contains(p.log.String(), text) {
			return true
		}
		select {
		case <-p.ended:
			t.Fatalf("%s ended with %v before it said %q", p.name, p.cmd.ProcessState, text)
		default:
		}
		return false
	})
}

// awaitSignal waits until the process stands still at a named point.
func (p *process) awaitSignal(t testing.TB, point string) {
	t.Helper()
	p.awaitLog(t, "testsignal: "+point+"\n")
}

func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	select {
	case <-p.ended:
		t.Fatalf("%s is to get %v, but has ended with %v", p.name, s, p.cmd.ProcessState)
	default:
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("send %v to %s: %v", s, p.name, err)
	}
}

// kill sends SIGKILL and makes sure that this is what the process died of.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.awaitKilled(t)
}

// awaitKilled waits until the process has died of SIGKILL, whoever sent it.
func (p *process) awaitKilled(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%s does not die", p.name)
	}
	if !p.killed() {
		t.Fatalf("%s was to be killed, but ended with %v", p.name, p.cmd.ProcessState)
	}
}

// killed reports whether a process that has ended died of SIGKILL.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// terminate sends SIGTERM and waits for an end in good order. It tells how long that took.
func (p *process) terminate(t testing.TB) time.Duration {
	t.Helper()
	sent := time.Now()
	p.signal(t, syscall.SIGTERM)
	p.awaitTerminated(t)
	return time.Since(sent)
}

// awaitTerminated waits for an end in good order after SIGTERM.
func (p *process) awaitTerminated(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%s does not stop", p.name)
	}
	if !p.cmd.ProcessState.Success() {
		t.Errorf("%s ended with %v after SIGTERM, want success", p.name, p.cmd.ProcessState)
	}
}

// freeze sends SIGSTOP and makes sure that the process stands still.
func (p *process) freeze(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	eventually(t, patience, p.name+" is frozen", func() bool { return state(t, p.pid()) == "T" })
}

// thaw sends SIGCONT and makes sure that the process goes on.
func (p *process) thaw(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGCONT)
	eventually(t, patience, p.name+" goes on", func() bool { return state(t, p.pid()) != "T" })
}

// state is the letter that ps shows for a process.
func state(t testing.TB, pid int) string {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err == nil { // Linux: "1234 (name) T ..."
		return string(stat[bytes.LastIndexByte(stat, ')')+2:][:1])
	}
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatalf("state of process %d: %v", pid, err)
	}
	return string(bytes.TrimSpace(out)[:1])
}

// serveNATS is the NATS server of a test that needs one of its own, to kill. Its arguments are name, port and store; for one
// of a cluster, also the port of that and the addresses of the others.
func serveNATS() int {
	options := server.Options{ServerName: os.Args[1], Host: "127.0.0.1", JetStream: true, StoreDir: os.Args[3], NoSigs: true, NoLog: true}
	var err error
	if options.Port, err = strconv.Atoi(os.Args[2]); err == nil && len(os.Args) > 4 {
		options.Cluster = server.ClusterOpts{Name: "own", Host: "127.0.0.1", NoAdvertise: true}
		options.Cluster.Port, err = strconv.Atoi(os.Args[4])
		options.Routes = server.RoutesFromStr(os.Args[5])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	s, err := server.NewServer(&options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	s.Start()
	if !s.ReadyForConnections(patience) {
		fmt.Fprintln(os.Stderr, "takes no connections")
		return 1
	}
	fmt.Fprintln(os.Stderr, "server ready")
	<-terminated
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}

// pause waits for d, or until ctx ends: in these tests time itself is what breaks things.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
