package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skein-run/skein/internal/natstest"
)

// The test binary is also the server that the tests of signals start as a process of its own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		cmd := Command(Spec{Use: "child", Short: "a server for tests", Run: child})
		cmd.SetArgs(os.Args[2:])
		Main(cmd)
	}
	os.Exit(m.Run())
}

// child works until it is told to stop and then hands work back until "free" arrives.
func child(ctx context.Context, env *Env) error {
	free := make(chan *nats.Msg, 1)
	if _, err := env.NC.ChanSubscribe("free", free); err != nil {
		return err
	}
	env.Health.Ready("child")
	if err := env.NC.Flush(); err != nil {
		return err
	}
	fmt.Println("working")
	<-ctx.Done()
	fmt.Println("told", context.Cause(ctx))
	<-free
	fmt.Println("handed back")
	return ctx.Err()
}

type childProcess struct {
	*exec.Cmd
	lines chan string

	mu     sync.Mutex // guards stderr
	stderr bytes.Buffer
}

func (c *childProcess) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stderr.Write(p)
}

func (c *childProcess) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stderr.String()
}

func startChild(t *testing.T, args ...string) *childProcess {
	t.Helper()
	c := &childProcess{Cmd: exec.Command(os.Args[0], append([]string{"child"}, args...)...), lines: make(chan string, 16)}
	c.Stderr = c
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	})
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill() // it may have ended
			_ = c.Wait()
		}
		wg.Wait()
	})
	return c
}

func (c *childProcess) expect(t *testing.T, line string) {
	t.Helper()
	select {
	case got, ok := <-c.lines:
		if !ok || got != line {
			t.Fatalf("child printed %q, want %q; it logged\n%s", got, line, c.log())
		}
	case <-time.After(natstest.Patience):
		t.Fatalf("child did not print %q; it logged\n%s", line, c.log())
	}
}

func TestFirstSignalLetsWorkBeHandedBack(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t)
			nc := s.Connect(t)
			c := startChild(t, "--nats-url", s.URL(), "--shutdown-grace=1m")
			c.expect(t, "working")
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			c.expect(t, "told signal: "+sig.String())
			if err := nc.Publish("free", nil); err != nil {
				t.Fatal(err)
			}
			c.expect(t, "handed back")
			if err := c.Wait(); err != nil {
				t.Fatalf("child ended with %v and logged\n%s", err, c.log())
			}
		})
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := startChild(t, "--nats-url", s.URL(), "--shutdown-grace=1m")
	c.expect(t, "working")
	for _, line := range []string{"told signal: interrupt", ""} {
		if err := c.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if line != "" {
			c.expect(t, line)
		}
	}
	err := c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 130 {
		t.Fatalf("child ended with %v and logged\n%s", err, c.log())
	}
}

func TestGraceEnds(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := startChild(t, "--nats-url", s.URL(), "--shutdown-grace=2s") // time to print that it was told, also on a busy machine
	c.expect(t, "working")
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "told signal: terminated")
	err := c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(c.log(), "error: shutdown_grace") {
		t.Fatalf("child ended with %v and logged\n%s", err, c.log())
	}
}

func TestWaitsForNATSAndStopsWhileWaiting(t *testing.T) {
	t.Parallel()
	port := natstest.FreePort(t)
	url := fmt.Sprintf("nats://me:secret@127.0.0.1:%d", port)
	for _, appears := range []bool{true, false} {
		c := startChild(t, "--nats-url", url)
		natstest.Eventually(t, natstest.Patience, "child waits", func() bool {
			return strings.Contains(c.log(), fmt.Sprintf("waiting for NATS at nats://***@127.0.0.1:%d", port))
		})
		if appears {
			s := natstest.Start(t, natstest.Port(port))
			c.expect(t, "working")
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err == nil {
				t.Fatal("a killed child ended well")
			}
			s.Stop(t)
		} else {
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err != nil {
				t.Fatalf("child ended with %v and logged\n%s", err, c.log())
			}
		}
		if n := strings.Count(c.log(), "waiting for NATS"); n != 1 {
			t.Errorf("child said %d times that it waits:\n%s", n, c.log())
		}
		if strings.Contains(c.log(), "secret") {
			t.Errorf("the log has the password:\n%s", c.log())
		}
	}
}

// syncBuffer takes the log of a command that runs in this process.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestHealthOfAServer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	var log syncBuffer
	running := make(chan *Env, 1)
	cmd := Command(Spec{Use: "server", Parts: []string{"work"}, Run: func(ctx context.Context, env *Env) error {
		running <- env
		<-ctx.Done()
		return nil
	}})
	cmd.SetErr(&log)
	cmd.SetArgs([]string{"--nats-url", s.URL(), "--health-addr=127.0.0.1:0", "--log-format=json"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() { done <- Execute(ctx, cmd) }()
	env := <-running
	addr := regexp.MustCompile(`"serving health","address":"([^"]+)"`).FindStringSubmatch(log.String())
	if addr == nil {
		t.Fatalf("the log does not say where health is served:\n%s", log.String())
	}
	get := func(path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr[1]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, `"work":"starting"`) || !strings.Contains(body, `"nats":"ready"`) {
		t.Errorf("starting: %d %s", code, body)
	}
	env.Health.Ready("work")
	if code, body := get("/readyz"); code != 200 {
		t.Errorf("ready: %d %s", code, body)
	}
	env.Metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "work_total", Help: "Work done."}))
	code, body := get("/metrics")
	for _, metric := range []string{"go_goroutines ", "process_cpu_seconds_total ", "work_total 0\n"} {
		if code != 200 || !strings.Contains(body, "\n"+metric) {
			t.Errorf("metrics: %d, want %q in\n%s", code, metric, body)
		}
	}
	s.Stop(t)
	natstest.Eventually(t, natstest.Patience, "the server is not ready without NATS", func() bool {
		code, body := get("/readyz")
		return code == 503 && strings.Contains(body, `"nats":"not connected"`)
	})
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("healthz without NATS: %d", code)
	}
	if err := env.NC.Publish("x", nil); err == nil {
		t.Error("a publish while disconnected was taken")
	}
	s.Start(t)
	natstest.Eventually(t, natstest.Patience, "the server is ready again, and says that it is connected", func() bool {
		code, _ := get("/readyz")
		return code == 200 && strings.Contains(log.String(), "connected to NATS again")
	})
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d, log\n%s", code, log.String())
	}
	for _, line := range []string{"lost connection to NATS", "connected to NATS again", "stopping", "stopped"} {
		if strings.Count(log.String(), line) < 1 {
			t.Errorf("%q is missing in the log:\n%s", line, log.String())
		}
	}
}

func TestErrorsAreReported(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	fail := func(context.Context, *Env) error { return WithHint(errors.New("it broke"), "mend it") }
	for _, row := range []struct {
		name string
		args []string
		want []string
	}{
		{"work fails", []string{"--nats-url", s.URL()}, []string{"error: it broke\n", "next: mend it\n"}},
		{"unknown flag", []string{"--colour"}, []string{"error: unknown flag: --colour\n", "next: see server --help\n"}},
		{"bad setting", []string{"--replicas=2"}, []string{`error: --replicas: "2": allowed is 1, 3 or 5`}},
		{"no credentials", []string{"--nats-creds=/does/not/exist"}, []string{`error: nats_creds "/does/not/exist": `}},
		{"no seed", []string{"--nats-nkey=/does/not/exist"}, []string{`error: nats_nkey "/does/not/exist": `}},
		{"two users", []string{"--nats-nkey=/a", "--nats-creds=/b"}, []string{`error: nats_nkey "/a": allowed is one of nats_creds and nats_nkey`}},
		{"no authority", []string{"--nats-ca=process_test.go"}, []string{`error: nats_ca "process_test.go": has no certificate in PEM`}},
		{"no key", []string{"--nats-cert=/a"}, []string{`error: nats_cert "/a" and nats_key "": allowed is both or none`}},
		{"argument", []string{"now"}, []string{`error: unknown command "now"`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var log syncBuffer
			cmd := Command(Spec{Use: "server", Run: fail})
			cmd.SetErr(&log)
			cmd.SetArgs(row.args)
			if code := Execute(t.Context(), cmd); code != 1 {
				t.Errorf("exit code %d", code)
			}
			for _, want := range row.want {
				if !strings.Contains(log.String(), want) {
					t.Errorf("%q is missing in:\n%s", want, log.String())
				}
			}
		})
	}
}

func TestHelpNamesTheVariables(t *testing.T) {
	t.Parallel()
	cmd := Command(Spec{Use: "server", Settings: []string{SettingSlots}, Run: nil})
	usage := cmd.UsageString()
	for _, want := range []string{"--nats-url", "SKEIN_NATS_URL", "nats://127.0.0.1:4222", "--slots", "SKEIN_SLOTS", "128"} {
		if !strings.Contains(usage, want) {
			t.Errorf("%q is missing in:\n%s", want, usage)
		}
	}
	if strings.Contains(usage, "--http-addr") {
		t.Errorf("a setting of another server is in:\n%s", usage)
	}
}
