//go:build docker

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
)

var all = flag.Bool("all", false, "restart every process under load, not some of each kind")

// patience is how long it may take what must happen.
const patience = 3 * time.Minute

// cluster is the cluster of the folder deploy, as a project of its own.
type cluster struct {
	t       *testing.T
	source  string // the repository
	dir     string // a copy of its folder deploy
	project string
	compose []string // the command, docker-compose or docker compose
	port    string   // of the load balancer, on this machine
}

// start brings a copy of the folder deploy up, from programs compiled here, and takes it down when the test ends. What up.sh
// is given besides that are flags.
func start(t *testing.T, flags ...string) *cluster {
	t.Helper()
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, source: source, dir: t.TempDir(), project: fmt.Sprintf("skein-test-%d", os.Getpid()), port: strconv.Itoa(natstest.FreePort(t))}
	if err := os.CopyFS(c.dir, onlyFiles{os.DirFS(filepath.Join(source, "deploy"))}); err != nil {
		t.Fatal(err)
	}
	c.compose = []string{"docker", "compose"}
	if exec.Command("docker", "compose", "version").Run() != nil {
		c.compose = []string{"docker-compose"}
	}
	t.Cleanup(func() {
		if t.Failed() {
			fmt.Fprintln(t.Output(), c.try(context.Background(), "ps"))
			fmt.Fprintln(t.Output(), c.try(context.Background(), "logs", "--no-color", "--tail", "60"))
		}
		if out, err := c.command(context.Background(), "down", "--volumes", "--timeout", "5").CombinedOutput(); err != nil {
			t.Errorf("take the cluster down: %v\n%s", err, out)
		}
	})
	if out, err := c.up(c.dir, append(slices.Clone(flags), "--local", "--detach", "--no-build")...); err != nil {
		t.Fatalf("bring the cluster up: %v\n%s", err, out)
	}
	return c
}

// up calls the up.sh of a folder.
func (c *cluster) up(dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(c.t.Context(), "sh", append([]string{filepath.Join(dir, "up.sh")}, args...)...)
	cmd.Env = c.env()
	return cmd.CombinedOutput()
}

// onlyFiles is a folder without what is below it: a cluster that was brought up there has its keys and data in folders.
type onlyFiles struct{ fs.FS }

func (f onlyFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.Type().IsRegular() || e.Name() == ".env" }), err
}

func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	words := append(slices.Clone(c.compose), args...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir, cmd.Env = c.dir, c.env()
	return cmd
}

func (c *cluster) env() []string {
	return append(os.Environ(), "COMPOSE_PROJECT_NAME="+c.project, "SKEIN_PORT="+c.port, "SKEIN_SOURCE="+c.source)
}

// run runs a command of compose and returns what it says.
func (c *cluster) run(args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	out, err := c.command(ctx, args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// try is run for when it does not matter whether it works.
func (c *cluster) try(ctx context.Context, args ...string) string {
	out, err := c.command(ctx, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mainJob has the cluster do the main job once more.
func (c *cluster) mainJob() {
	c.t.Helper()
	out := c.run("run", "--rm", "--no-deps", "main-job")
	if !strings.Contains(out, "the main job is done") {
		c.t.Errorf("the main job ended well, but says\n%s", out)
	}
}

// kill sends SIGKILL to the processes of services, and keeps them from being started again.
func (c *cluster) kill(services ...string) {
	c.t.Helper()
	var all []string
	for _, service := range services {
		all = append(all, c.container(service))
	}
	c.docker(append([]string{"update", "--restart", "no"}, all...)...)
	c.docker(append([]string{"kill", "--signal", "KILL"}, all...)...)
	codes := strings.Fields(c.docker(append([]string{"wait"}, all...)...))
	for i, service := range services {
		if codes[i] != "137" {
			c.t.Fatalf("%s was to be killed, but has exit code %s", service, codes[i])
		}
	}
}

// container finds that of a service, whether it runs or not. The engine is asked: compose takes seconds to say it.
func (c *cluster) container(service string) string {
	c.t.Helper()
	ids := strings.Fields(c.docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project="+c.project,
		"--filter", "label=com.docker.compose.service="+service, "--filter", "label=com.docker.compose.oneoff=False"))
	if len(ids) != 1 {
		c.t.Fatalf("%s: %d containers %q, want one", service, len(ids), ids)
	}
	return ids[0]
}

func (c *cluster) docker(args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (c *cluster) inspect(container, format string) string {
	c.t.Helper()
	return c.docker("inspect", "--format", format, container)
}

// awaitHealthy waits until the processes of services are ready.
func (c *cluster) awaitHealthy(services ...string) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for _, service := range services {
		container := c.container(service)
		for state := ""; state != "healthy"; {
			if time.Now().After(deadline) {
				c.t.Fatalf("%s is %s", service, state)
			}
			time.Sleep(200 * time.Millisecond)
			state = c.inspect(container, "{{.State.Health.Status}}")
		}
	}
}

var processes = []string{
	"desk-host-1", "desk-host-2", "board-host-1", "board-host-2", "mail-runner-1", "mail-runner-2", "board-runner", "scheduler-1", "scheduler-2",
}

// TestCluster brings the cluster up with one command, which does the main job; then again with each kind of server killed;
// and restarts some of each kind (with -all everything), one after the other, under load, without a single failed request.
func TestCluster(t *testing.T) {
	c := start(t)
	c.awaitMainJob()
	c.awaitHealthy(processes...)
	c.survives()
	c.keepsItsLevel("--accounts")

	c.kill("nats-1", "desk-host-1", "mail-runner-1", "scheduler-1")
	c.mainJob()
	c.run("start", "nats-1", "desk-host-1", "mail-runner-1", "scheduler-1")
	c.awaitHealthy("nats-1", "desk-host-1", "mail-runner-1", "scheduler-1")

	l := c.load()
	restarted := []string{"nats-1", "nats-2", "desk-host-1", "desk-host-2", "mail-runner-1", "scheduler-1"}
	if *all {
		restarted = append([]string{"nats-1", "nats-2", "nats-3"}, processes...)
	}
	for _, service := range restarted {
		before := c.inspect(c.container(service), "{{.State.StartedAt}}")
		c.run("restart", service)
		c.awaitHealthy(service)
		if after := c.inspect(c.container(service), "{{.State.StartedAt}}"); after == before {
			t.Errorf("%s was not restarted", service)
		}
	}
	l.stop()
	c.mainJob()
}

// awaitMainJob waits for the job that comes up with the cluster.
func (c *cluster) awaitMainJob() {
	c.t.Helper()
	container := c.container("main-job")
	for deadline := time.Now().Add(patience); c.inspect(container, "{{.State.Status}}") != "exited"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatal("the main job does not end")
		}
	}
	if code := c.inspect(container, "{{.State.ExitCode}}"); code != "0" {
		c.t.Fatalf("the main job ended with %s", code)
	}
}

// survives checks that each process says what the setup survives.
func (c *cluster) survives() {
	c.t.Helper()
	for _, service := range processes {
		const line = "durability: survives killed processes, and the loss or a power failure of 1 of 3 servers; a power failure of all at once loses nothing from their disks, but can leave a stream without a leader (3 replicas, sync_interval always)"
		if log := c.docker("logs", c.container(service)); !strings.Contains(log, line) {
			c.t.Errorf("%s does not say what its setup survives:\n%s", service, log)
		}
	}
}

// load asks agents again and again, and counts.
type load struct {
	t      *testing.T
	end    context.CancelFunc
	asking sync.WaitGroup

	mu       sync.Mutex // guards what follows
	asked    int
	failures []string
	slowest  time.Duration
}

// askers is how many clients ask at a time, each an agent of its own, and pause how long each waits before it asks again: the
// processes share this machine with the load.
const (
	askers = 8
	pause  = 50 * time.Millisecond
)

func (c *cluster) load() *load {
	ctx, cancel := context.WithCancel(c.t.Context())
	l := &load{t: c.t, end: cancel}
	for i := range askers {
		l.asking.Go(func() {
			for ticker := time.Tick(pause); ctx.Err() == nil; <-ticker {
				l.ask(ctx, fmt.Sprintf("http://127.0.0.1:%s/agents/flight-desk/load-%d", c.port, i))
			}
		})
	}
	return l
}

// ask is one request. It has as long as a browser gives it.
func (l *load) ask(ctx context.Context, url string) {
	start := time.Now()
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, url, nil)
	if err != nil {
		l.t.Error(err)
		return
	}
	var desk json.RawMessage
	response, err := http.DefaultClient.Do(request)
	if err == nil {
		var body bytes.Buffer
		_, err = body.ReadFrom(response.Body)
		_ = response.Body.Close() // it is read
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("answer %d: %s", response.StatusCode, body.String())
		}
		if err == nil {
			err = json.Unmarshal(body.Bytes(), &desk)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if took := time.Since(start); took > l.slowest {
		l.slowest = took
	}
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s after %s: %v", start.Format(time.TimeOnly), time.Since(start).Round(time.Millisecond), err))
	}
}

// stop ends the load and fails the test if a request has failed.
func (l *load) stop() {
	l.t.Helper()
	l.end()
	l.asking.Wait()
	l.t.Logf("%d requests, %d failed, the slowest took %s", l.asked, len(l.failures), l.slowest.Round(time.Millisecond))
	if l.asked < 100 {
		l.t.Errorf("only %d requests came to the cluster", l.asked)
	}
	for _, failure := range l.failures {
		l.t.Error(failure)
	}
}
