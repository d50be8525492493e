package project_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
)

type service struct {
	name  string
	serve func(ctx context.Context, p *project.Project) error
}

func (s service) Name() string                                        { return s.name }
func (s service) Serve(ctx context.Context, p *project.Project) error { return s.serve(ctx, p) }

// Settings makes it a service with slots.
func (s service) Settings() []string { return []string{process.SettingSlots} }

// worker takes work until it is told to stop, and says when it has handed it back.
func worker(name string, handedBack chan<- string) service {
	return service{name, func(ctx context.Context, p *project.Project) error {
		p.Ready(name)
		<-ctx.Done()
		handedBack <- name
		return ctx.Err()
	}}
}

func open(t *testing.T) *project.Project {
	t.Helper()
	s := natstest.Start(t)
	p, err := project.Open(t.Context(), project.Config{Name: "shop"}, project.Conn(s.Connect(t)), project.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestOpen(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	var log syncBuffer
	config := project.Config{Name: "shop", Workflows: []project.Workflow{{Name: "w", ClassName: "W"}}}
	config.Settings.NATSURL = s.URL()
	p, err := project.Open(t.Context(), config, project.Logger(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.JS.AccountInfo(t.Context()); err != nil {
		t.Error(err)
	}
	if p.Config.Settings.Slots != 128 || p.Config.Workflows[0].Binding != "w" || config.Workflows[0].Binding != "" {
		t.Errorf("config is %+v, the caller's %+v", p.Config, config)
	}
	p.Log.InfoContext(t.Context(), "hello")
	if !strings.Contains(log.String(), "msg=hello project=shop") {
		t.Errorf("log is\n%s", log.String())
	}
	p.Close()
	if !p.NC.IsClosed() {
		t.Error("the connection is open after Close")
	}
}

func TestOpenOnAConnection(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.Close()
	if p.NC.IsClosed() {
		t.Error("Close closed a connection that it was given")
	}
}

func TestOpenRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]project.Config{
		`project "my shop"`: {Name: "my shop"},
		`replicas: "2"`:     {Name: "shop", Settings: project.Settings{Replicas: 2}},
	} {
		if _, err := project.Open(t.Context(), config); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q, got %v", name, err)
		}
	}
}

func TestOpenWaitsUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	config := project.Config{Name: "shop", Settings: project.Settings{NATSURL: "nats://127.0.0.1:1"}}
	if _, err := project.Open(ctx, config, project.Logger(slog.New(slog.DiscardHandler))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestRunUntilToldToStop(t *testing.T) {
	t.Parallel()
	p := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	handedBack := make(chan string, 2)
	release := make(chan struct{})
	slow := service{"slow", func(ctx context.Context, p *project.Project) error {
		<-release
		p.Ready("slow")
		<-ctx.Done()
		handedBack <- "slow"
		return nil
	}}
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, worker("fast", handedBack), slow) }()
	if p.IsReady() {
		t.Error("ready before all services are")
	}
	close(release)
	natstest.Eventually(t, natstest.Patience, "both services are ready", p.IsReady)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("error is %v", err)
	}
	if len(handedBack) != 2 {
		t.Errorf("%d services handed back their work", len(handedBack))
	}
	if p.IsReady() {
		t.Error("ready after the end")
	}
}

func TestOneFailureStopsAll(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"error", broken, `service "bad": broken`},
		{"early end", nil, `service "bad" ended before it was told to`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			handedBack := make(chan string, 1)
			bad := service{"bad", func(context.Context, *project.Project) error { return row.err }}
			err := project.Run(t.Context(), open(t), worker("good", handedBack), bad)
			if err == nil || err.Error() != row.want || row.err != nil && !errors.Is(err, row.err) {
				t.Errorf("error is %v", err)
			}
			if len(handedBack) != 1 {
				t.Error("the other service was not told to stop")
			}
		})
	}
}

func TestRunRefusesNonsense(t *testing.T) {
	t.Parallel()
	p := open(t)
	if err := project.Run(t.Context(), p); err == nil {
		t.Error("ran no services")
	}
	if err := project.Run(t.Context(), p, service{name: "a"}, service{name: "a"}); err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("error is %v", err)
	}
}

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

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Not parallel: it sets environment variables.
func TestCommand(t *testing.T) {
	s := natstest.Start(t)
	path := writeConfig(t, `{ "name": "shop", "slots": 3, "replicas": 5, "nats_url": "nats://127.0.0.1:1" }`)
	t.Setenv("SKEIN_CONFIG", path)
	t.Setenv("SKEIN_NATS_URL", s.URL())
	seen := make(chan *project.Project, 1)
	cmd := project.Command("runner", service{"work", func(ctx context.Context, p *project.Project) error {
		p.Ready("work")
		seen <- p
		<-ctx.Done()
		return ctx.Err()
	}})
	var log syncBuffer
	cmd.SetErr(&log)
	cmd.SetArgs([]string{"--replicas=3"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() { done <- process.Execute(ctx, cmd) }()
	p := <-seen
	// Replicas by flag, NATS by variable, slots by file, the rest by default.
	got := p.Config.Settings
	if p.Config.Name != "shop" || got.Replicas != 3 || got.NATSURL != s.URL() || got.Slots != 3 || got.LogLevel != "info" {
		t.Errorf("config is %+v", p.Config)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(log.String(), "msg=ready project=shop service=work") {
		t.Errorf("log is\n%s", log.String())
	}
	if !p.NC.IsClosed() {
		t.Error("the connection is open after the end")
	}
}

func TestCommandReportsFaults(t *testing.T) {
	t.Parallel()
	never := service{"work", func(context.Context, *project.Project) error { return errors.New("it ran") }}
	path := writeConfig(t, "{\n  \"name\": 7\n}")
	for _, row := range []struct {
		name string
		args []string
		want []string
	}{
		{"no file", []string{"--config=/does/not/exist.jsonc"}, []string{"error: read the project: open /does/not/exist.jsonc", "next: create it"}},
		{"bad file", []string{"--config", path}, []string{"error: " + path + ":2:11: name: want a string, found a number"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var log syncBuffer
			cmd := project.Command("runner", never)
			cmd.SetErr(&log)
			cmd.SetArgs(row.args)
			if code := process.Execute(t.Context(), cmd); code != 1 {
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
