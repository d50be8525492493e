package integration

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/natstest"
	skein "github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// TestProduction starts each kind of process with --production on a server that can lose what it acknowledged, and without it.
func TestProduction(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	config := filepath.Join(t.TempDir(), "skein.jsonc")
	text := `{"name": "prod", "workflows": [{"name": "script", "class_name": "Script"}], "agents": [{"class_name": "Porter"}]}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ofProject := func(service project.Service) func() *cobra.Command {
		return func() *cobra.Command { return project.Command(service.Name(), service) }
	}
	for name, command := range map[string]func() *cobra.Command{
		"scheduler":       func() *cobra.Command { return scheduler.Command(doctor.Rounds) },
		"workflow-runner": ofProject(workflow.Runner(workflow.Define("Script", run))),
		"agent-host":      ofProject(agent.Host(agent.Define("Porter", func() *porter { return &porter{} }))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"--nats-url", server.URL()}
			if name != "scheduler" {
				args = append(args, "--config", config)
			}
			if name == "agent-host" {
				args = append(args, "--http-addr", "127.0.0.1:0")
			}
			code, said := execute(t, command(), append(args, "--production"), func(string) bool { return false })
			if code != 1 || !strings.Contains(said, ": this setup can lose work that was acknowledged: stream ") ||
				!strings.Contains(said, "next: run three or more NATS servers with sync_interval: always") {
				t.Errorf("exit code %d, said\n%s", code, said)
			}
			const line = `msg="durability: survives killed processes; does not survive a power failure`
			code, said = execute(t, command(), args, func(said string) bool { return strings.Contains(said, line) })
			if code != 0 || strings.Count(said, "durability: ") != 1 {
				t.Errorf("exit code %d, said\n%s", code, said)
			}
		})
	}
}

// execute runs a command until it ends, or has said enough.
func execute(t *testing.T, cmd *cobra.Command, args []string, enough func(said string) bool) (code int, said string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out record
	cmd.SetArgs(args)
	cmd.SetOut(&bytes.Buffer{})
	cmd.SetErr(&out)
	ended := make(chan int, 1)
	go func() { ended <- skein.Execute(ctx, cmd) }()
	eventually(t, patience, cmd.Name()+" ends or says enough", func() bool {
		if enough(out.String()) {
			stop()
		}
		select {
		case code = <-ended:
			return true
		default:
			return false
		}
	})
	return code, out.String()
}
