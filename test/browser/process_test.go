package browser_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// site is a project whose hosts and runners are processes, and the one address at which browsers reach it.
type site struct {
	t      *testing.T
	server *natstest.Server
	js     jetstream.JetStream
	name   string
	config string
	// url leads to the host that was made the gateway last.
	url     string
	gateway atomic.Pointer[process]
	refused atomic.Int64 // sockets, with status 403
}

func newSite(t *testing.T, name, config string) *site {
	t.Helper()
	s := &site{t: t, server: natstest.Start(t), name: name, config: filepath.Join(t.TempDir(), "skein.jsonc")}
	s.js = natstest.JetStream(t, s.server.Connect(t))
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: s.gateway.Load().address})
			r.Out.Host = r.In.Host // that of the page, which is what its origin is held against
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusForbidden && r.Request.Header.Get("Sec-WebSocket-Key") != "" {
				s.refused.Add(1)
			}
			return nil
		},
	})
	t.Cleanup(proxy.Close)
	s.url = proxy.URL
	return s
}

// process is one that the test has started. It is killed when the test ends, at the latest.
type process struct {
	t       *testing.T
	name    string
	cmd     *exec.Cmd
	log     record
	ended   chan struct{}
	address string // of a host, for HTTP
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

// launch starts this program in a role and waits until it is ready.
func (s *site) launch(role string, env ...string) *process {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p := &process{t: s.t, name: role, ended: make(chan struct{})}
	p.cmd = exec.Command(self, "--config", s.config, "--nats-url", s.server.URL(), "--log-level", "debug")
	if role != roleOffice {
		p.cmd.Args = append(p.cmd.Args, "--http-addr", "127.0.0.1:0")
	}
	p.cmd.Env = append(append(os.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0"), env...)
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", role, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its state
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if strings.Contains(p.log.String(), "DATA RACE") {
			s.t.Errorf("%s has a data race", p.name)
		}
		if s.t.Failed() {
			fmt.Fprintf(s.t.Output(), "---- %s\n%s", p.name, &p.log)
		}
	})
	p.await("msg=ready")
	_, address, _ := strings.Cut(p.log.String(), "address=")
	p.address, _, _ = strings.Cut(address, " ")
	return p
}

// await waits until the process has logged a text.
func (p *process) await(text string) {
	p.t.Helper()
	natstest.Eventually(p.t, natstest.Patience, fmt.Sprintf("%s says %q", p.name, text), func() bool {
		return strings.Contains(p.log.String(), text)
	})
}

// kill sends SIGKILL.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		p.t.Fatalf("kill %s: %v", p.name, err)
	}
	p.awaitKilled()
}

// awaitKilled makes sure that the process has died of SIGKILL, whoever has sent it.
func (p *process) awaitKilled() {
	p.t.Helper()
	natstest.Eventually(p.t, natstest.Patience, p.name+" has ended", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		p.t.Fatalf("%s was to be killed, but ended with %v", p.name, p.cmd.ProcessState)
	}
}

// owns reports whether the agent belongs to the process, as its record says.
func (s *site) owns(p *process, class, name string) bool {
	s.t.Helper()
	bucket, err := s.js.KeyValue(s.t.Context(), protocol.AgentsBucket(s.name))
	if err != nil {
		s.t.Fatal(err)
	}
	entry, err := bucket.Get(s.t.Context(), protocol.AgentKey(class, name))
	var r protocol.Record
	if err == nil {
		err = json.Unmarshal(entry.Value(), &r)
	}
	return err == nil && r.Owner != "" && strings.Contains(p.log.String(), "host="+r.Owner+" address=")
}
