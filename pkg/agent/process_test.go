package agent

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/testsignal"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// roleEnv tells this program that it is not the test, but what the test says: one of roles.
const roleEnv = "SKEIN_AGENT_TEST_ROLE"

// Roles of processes.
const (
	roleDesks  = "desks"  // a host of desks
	roleClerks = "clerks" // a host of clerks
	roleRunner = "runner" // a runner of the e-mail project
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleDesks:
		project.Main(Host(Define("Desk", func() *desk { return &desk{request: beat, ask: pass} }, Callable((*desk).Note, (*desk).Add))))
	case roleClerks:
		project.Main(Host(clerks(nil)...))
	case roleRunner:
		project.Main(workflow.Runner(workflow.Define("Onboarding", errandWorkflow)))
	}
	natstest.Parallel(6)
	os.Exit(m.Run())
}

// beat is count, but for requests of a stream: they are answered by events without an end.
func beat(d *desk, w http.ResponseWriter, r *http.Request) error {
	if !r.URL.Query().Has("stream") {
		return count(d, w, r)
	}
	return Outside(r.Context(), func(ctx context.Context) error {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 1; ; i++ {
			fmt.Fprintf(w, "data: %d\n", i)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			if err := ctxtime.Sleep(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	})
}

// pass changes the state and tells another agent; "furnish" gives the agent something of everything.
func pass(ctx context.Context, d *desk, text string) (string, error) {
	if text == "furnish" {
		return furnish(ctx, d, text)
	}
	if err := d.add(ctx, text); err != nil {
		return "", err
	}
	return text, Tell(ctx, deskClass.Agent("other"), (*desk).Note, text)
}

// hostProcess is an agent host in a process of its own.
type hostProcess struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

func (p *hostProcess) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(text)
}

func (p *hostProcess) has(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.log.String(), text)
}

// process starts a host of desks that stands still at a point of a turn; at none if that is empty.
func (r *rig) process(t *testing.T, url, point string) *hostProcess {
	t.Helper()
	return r.launch(t, roleDesks, `{ "name": "`+testProject+`" }`, url, point)
}

// launch starts a process that stands still at a point; at none if that is empty.
func (r *rig) launch(t *testing.T, role, settings, url, point string) *hostProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &hostProcess{cmd: exec.Command(self), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0", "SKEIN_CONFIG="+config, "SKEIN_NATS_URL="+url,
		"SKEIN_HTTP_ADDR=127.0.0.1:0", "SKEIN_HEALTH_ADDR=127.0.0.1:0", testsignal.Env+"="+point)
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // it is killed
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("process %d:\n%s", p.cmd.Process.Pid, p.log.String())
		}
	})
	p.await(t, "msg=ready")
	return p
}

// await waits until the process has logged text.
func (p *hostProcess) await(t *testing.T, text string) {
	t.Helper()
	natstest.Eventually(t, soon, "the process says "+text, func() bool {
		select {
		case <-p.ended:
			t.Fatalf("the process has ended with %v", p.cmd.ProcessState)
		default:
		}
		return p.has(text)
	})
}

// kill sends SIGKILL and waits for the end.
func (p *hostProcess) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}
