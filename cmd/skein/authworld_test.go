package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// large does not fit into a message.
var large = strings.Repeat("large ", 30_000)

// The project desk has agents, and a workflow that others call. The project mill has workflows, in four shards.
const (
	deskConfig = `{ "name": "desk", "workflows": [
		{ "name": "fold", "class_name": "Fold" },
		{ "name": "grind", "binding": "GRIND", "class_name": "Grind", "script_name": "mill" },
	], "agents": [{ "class_name": "Desk" }] }`
	millConfig = `{ "name": "mill", "shards": 4, "workflows": [
		{ "name": "grind", "class_name": "Grind", "concurrency": { "limit": 2 } },
		{ "name": "sift", "class_name": "Sift", "schedules": [{ "cron": "* * * * * *", "params": "by cron" }] },
		{ "name": "fold", "binding": "FOLD", "class_name": "Fold", "script_name": "desk" },
	], "agents": [{ "binding": "DESKS", "class_name": "Desk", "script_name": "desk" }] }`
)

var (
	grindAt = workflow.Bind[string, string]("GRIND")
	siftAt  = workflow.Bind[string, string]("sift")
	foldAt  = workflow.Bind[string, string]("FOLD")
	desksAt = agent.Bind[*desk]("DESKS")
)

type deskState struct {
	Rung, Ticks, Booked, Done int
	Pad, Cron                 string
}

type desk struct {
	agent.Base[deskState]
	failed bool
}

// Start starts the workflow of the other project, and schedules of each kind. Its state does not fit into a message.
func (d *desk) Start(ctx context.Context, id string) (string, error) {
	if _, err := agent.RunWorkflow(ctx, grindAt, large, workflow.ID(id)); err != nil {
		return "", err
	}
	if _, err := agent.Schedule(ctx, agent.After(time.Millisecond), d.Ring, id); err != nil {
		return "", err
	}
	if _, err := agent.Schedule(ctx, agent.After(time.Millisecond), d.Fail, id, agent.Retry{MaxAttempts: 1}); err != nil {
		return "", err
	}
	watch, err := agent.Schedule(ctx, agent.Cron("* * * * * *"), d.Tick, id, agent.OverlapSkip, agent.Retry{BaseDelay: 1100 * time.Millisecond})
	if err != nil {
		return "", err
	}
	return watch.ID, d.Update(ctx, func(s *deskState) error { s.Pad, s.Cron = large, watch.ID; return nil })
}

// Watch has it tick every second.
func (d *desk) Watch(ctx context.Context, id string) (string, error) {
	watch, err := agent.Schedule(ctx, agent.Cron("* * * * * *"), d.Tick, id)
	return watch.ID, err
}

func (d *desk) Ring(ctx context.Context, _ string) error {
	return d.Update(ctx, func(s *deskState) error { s.Rung++; return nil })
}

// Tick fails at first, so that the scheduler looks whether the next moment must be skipped.
func (d *desk) Tick(ctx context.Context, _ string) error {
	if !d.failed {
		d.failed = true
		return errors.New("not at once")
	}
	return d.Update(ctx, func(s *deskState) error { s.Ticks++; return nil })
}

func (d *desk) Fail(context.Context, string) error { return errors.New("it always fails") }

// Book is called by the workflow.
func (d *desk) Book(ctx context.Context, n int) (int, error) {
	return n, d.Update(ctx, func(s *deskState) error { s.Booked += n; return nil })
}

// Look returns the state without what is large.
func (d *desk) Look(context.Context, int) (deskState, error) {
	s := d.State()
	s.Pad = strconv.Itoa(len(s.Pad))
	return s, nil
}

// Confirm sends the event that the workflow waits for.
func (d *desk) Confirm(ctx context.Context, id string) (bool, error) {
	instance, err := grindAt.Get(ctx, id)
	if err != nil {
		return false, err
	}
	return true, instance.SendEvent(ctx, "confirmed", large)
}

func (d *desk) OnWorkflowComplete(ctx context.Context, _ agent.Tracked, _ agent.Value) error {
	return d.Update(ctx, func(s *deskState) error { s.Done++; return nil })
}

// OnRequest answers in parts.
func (d *desk) OnRequest(w http.ResponseWriter, r *http.Request) error {
	return agent.Outside(r.Context(), func(context.Context) error {
		for n := range 3 {
			fmt.Fprintln(w, n)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *desk) OnMessage(ctx context.Context, _ *agent.Connection, m agent.Message) error {
	return agent.Broadcast(ctx, m)
}

// grind parks until a moment and until an event, and calls workflows and an agent.
func grind(ctx context.Context, event workflow.Event[string]) (string, error) {
	if err := workflow.Sleep(ctx, "rest", 2100*time.Millisecond); err != nil {
		return "", err
	}
	if _, err := workflow.WaitForEvent[string](ctx, "wait", "confirmed", workflow.Timeout(time.Hour)); err != nil {
		return "", err
	}
	sifted, err := workflow.Call(ctx, "sift", siftAt, event.Payload)
	if err != nil {
		return "", err
	}
	folded, err := workflow.Call(ctx, "fold", foldAt, sifted)
	if err != nil {
		return "", err
	}
	if _, err := workflow.Do(ctx, "book", func(ctx context.Context) (int, error) {
		return agent.Call(ctx, desksAt.Agent("jo"), (*desk).Book, len(folded))
	}); err != nil {
		return "", err
	}
	return folded, nil
}

func echo(ctx context.Context, event workflow.Event[string]) (string, error) {
	return workflow.Do(ctx, "echo", func(context.Context) (string, error) { return event.Payload, nil })
}

// buffer takes what several goroutines write.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fort is a cluster of real servers that have loaded what skein auth made.
type fort struct {
	t   *testing.T
	dir string
	url string
	// names are those of the servers. They run in this process, or as processes of a program.
	names     []string
	servers   []*server.Server
	program   string
	processes map[string]*exec.Cmd
	// accounts is set if each project has its own.
	accounts bool
	log      buffer
	// conns are those of users that are not closed before the test ends.
	conns map[string]*nats.Conn
}

// newFort makes the files for servers and starts these.
func newFort(t *testing.T, count int, more ...string) *fort {
	t.Helper()
	f := prepareFort(t, count, more...)
	for _, name := range f.names {
		f.servers = append(f.servers, startServer(t, f.config(name)))
	}
	for _, s := range f.servers {
		if !s.ReadyForConnections(natstest.Patience) {
			t.Fatal("a server takes no connections")
		}
	}
	f.awaitStreams()
	return f
}

// prepareFort makes the files for servers.
func prepareFort(t *testing.T, count int, more ...string) *fort {
	t.Helper()
	f := &fort{t: t, dir: filepath.Join(t.TempDir(), "auth"), conns: map[string]*nats.Conn{}, processes: map[string]*exec.Cmd{}}
	args := append([]string{"init", "--project", "desk", "--project", "mill=4", "--project", "spy", "--grant", "desk:mill", "--grant", "mill:desk"}, more...)
	f.accounts = slices.Contains(more, "--accounts")
	var urls []string
	for n := range count {
		port := natstest.FreePort(t)
		f.names = append(f.names, fmt.Sprint("n", n))
		urls = append(urls, "tls://127.0.0.1:"+strconv.Itoa(port))
		args = append(args, "--server", fmt.Sprintf("%s=127.0.0.1:%d:%d", f.names[n], port, natstest.FreePort(t)))
	}
	f.url = strings.Join(urls, ",")
	f.auth(0, args...)
	return f
}

func (f *fort) config(name string) string { return filepath.Join(f.dir, "servers", name, "nats.conf") }

// awaitStreams waits until JetStream answers in all accounts.
func (f *fort) awaitStreams() {
	f.t.Helper()
	for _, project := range f.projects() {
		natstest.Eventually(f.t, natstest.Patience, "JetStream answers", func() bool {
			js := natstest.JetStream(f.t, f.admin(project))
			ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
			defer cancel()
			_, err := js.AccountInfo(ctx)
			return err == nil
		})
	}
}

// projects are all, or one of each account.
func (f *fort) projects() []string {
	if f.accounts {
		return []string{"desk", "mill", "spy"}
	}
	return []string{"desk"}
}

// admin is a connection of the admin of a project's account.
func (f *fort) admin(project string) *nats.Conn {
	f.t.Helper()
	if f.accounts {
		return f.reuse(project + "/admin")
	}
	return f.reuse("admin")
}

// startServer starts a server from its file. All start at the same time: they wait for each other.
func startServer(t *testing.T, config string) *server.Server {
	t.Helper()
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		t.Fatal(err)
	}
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// auth runs a sub-command of auth, which must end with code.
func (f *fort) auth(code int, args ...string) string {
	f.t.Helper()
	text, got := said(f.t, append([]string{"auth", "--dir", f.dir}, args...)...)
	if got != code {
		f.t.Fatalf("auth %q: exit code %d, want %d:\n%s", args, got, code, text)
	}
	return text
}

// seed is the file of a user.
func (f *fort) seed(user string) string {
	if project, ok := strings.CutSuffix(user, "/scheduler"); ok {
		return filepath.Join(f.dir, "schedulers", project+".nk")
	}
	return filepath.Join(f.dir, "users", user+".nk")
}

// settings are those of a process that is a user.
func (f *fort) settings(user string) process.Settings {
	return process.Settings{NATSURL: f.url, NATSNKey: f.seed(user), NATSCA: filepath.Join(f.dir, "ca.pem")}.WithDefaults()
}

func (f *fort) flags(user string) []string {
	s := f.settings(user)
	return []string{"--nats-url", s.NATSURL, "--nats-nkey", s.NATSNKey, "--nats-ca", s.NATSCA}
}

// connect connects as a user. Refusals are written to the log.
func (f *fort) connect(user string) *nats.Conn {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), natstest.Patience)
	defer cancel()
	nc, err := process.Connect(ctx, user, f.settings(user), slog.New(slog.NewTextHandler(&f.log, nil)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

// run runs a process as a user until the test ends, and returns when it is ready.
func (f *fort) run(user string, cmd *cobra.Command, args ...string) {
	f.t.Helper()
	f.runAt("127.0.0.1:"+strconv.Itoa(natstest.FreePort(f.t)), user, cmd, append(args, f.flags(user)...)...)
}

// runAt runs a process that tells its health at an address, and returns when it is ready.
func (f *fort) runAt(health, user string, cmd *cobra.Command, args ...string) {
	f.t.Helper()
	natstest.Eventually(f.t, natstest.Patience, user+" is ready", f.begin(health, user, cmd, args...))
}

// begin runs a process that tells its health at an address until the test ends. It returns what tells whether it is ready.
func (f *fort) begin(health, user string, cmd *cobra.Command, args ...string) (ready func() bool) {
	f.t.Helper()
	cmd.SetErr(&f.log)
	cmd.SetArgs(append(args, "--health-addr", health, "--replicas", strconv.Itoa(len(f.names)), "--shutdown-grace", "1m"))
	ctx, stop := context.WithCancel(context.WithoutCancel(f.t.Context()))
	ended := make(chan int, 1)
	go func() { ended <- process.Execute(ctx, cmd) }()
	f.t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			f.t.Errorf("%s: exit code %d", user, code)
		}
	})
	return func() bool {
		response, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			return false
		}
		return errors.Join(response.Body.Close()) == nil && response.StatusCode == http.StatusOK
	}
}

// file writes a project's file.
func (f *fort) file(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name+".jsonc")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// runScheduler runs a scheduler that serves all projects.
func (f *fort) runScheduler() {
	f.t.Helper()
	if f.accounts {
		f.runAt("127.0.0.1:"+strconv.Itoa(natstest.FreePort(f.t)), "scheduler", scheduler.Command(doctor.Rounds),
			"--nats-url", f.url, "--nats-ca", filepath.Join(f.dir, "ca.pem"), "--nats-users", filepath.Join(f.dir, "schedulers"))
		return
	}
	f.run("scheduler", scheduler.Command(doctor.Rounds))
}

// runAll runs the processes of both projects and a scheduler, and returns the addresses of the agent hosts.
func (f *fort) runAll() (hosts []string) {
	f.t.Helper()
	deskFile, millFile := f.file("desk", deskConfig), f.file("mill", millConfig)
	f.runScheduler()
	f.run("mill/workflow-runner", project.Command("mill-runner",
		workflow.Runner(workflow.Define("Grind", grind), workflow.Define("Sift", echo))), "--config", millFile)
	f.run("desk/workflow-runner", project.Command("desk-runner", workflow.Runner(workflow.Define("Fold", echo))), "--config", deskFile)
	for range 2 {
		address := "127.0.0.1:" + strconv.Itoa(natstest.FreePort(f.t))
		hosts = append(hosts, address)
		f.run("desk/agent-host", project.Command("desk-host", agent.Host(agent.Define("Desk", func() *desk { return &desk{} }, agent.Uses(grindAt), agent.Callable((*desk).Book)))),
			"--config", deskFile, "--http-addr", address)
	}
	return hosts
}

// open opens a project as a program that is a user.
func (f *fort) open(user, config string) *project.Project {
	f.t.Helper()
	parsed, err := project.Parse("skein.jsonc", []byte(config))
	if err != nil {
		f.t.Fatal(err)
	}
	p, err := project.Open(f.t.Context(), *parsed, project.Conn(f.connect(user)), project.Logger(slog.New(slog.NewTextHandler(&f.log, nil))))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(p.Close)
	return p
}

// cli runs a command as a user, which must succeed and write want.
func (f *fort) cli(user, want string, args ...string) string {
	f.t.Helper()
	text, code := said(f.t, append(append(args, "--project", strings.Split(user, "/")[0]), f.flags(user)...)...)
	fmt.Fprintln(&f.log, text)
	if code != 0 || !strings.Contains(text, want) {
		f.t.Errorf("%s: %q: exit code %d, want %q in:\n%s", user, args, code, want, text)
	}
	return text
}
