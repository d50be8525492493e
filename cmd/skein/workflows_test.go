package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// run runs a command in this process.
func run(t *testing.T, args ...string) (code int, out, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := newRoot()
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(args)
	code = process.Execute(t.Context(), root)
	return code, stdout.String(), stderr.String()
}

const exportConfig = `{ "name": "shop", "workflows": [
	{ "name": "ship", "binding": "SHIP", "class_name": "Ship" },
	{ "name": "pay", "class_name": "Pay", "script_name": "bank" },
] }`

func TestExport(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	path := filepath.Join(t.TempDir(), "skein.jsonc")
	if err := os.WriteFile(path, []byte(exportConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := project.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(t.Context(), *config, project.Conn(server.Connect(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	ship := func(ctx context.Context, _ workflow.Event[int]) (int, error) {
		return workflow.Do(ctx, "pack", func(context.Context) (int, error) { return 7, nil })
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- project.Run(ctx, p, workflow.Runner(workflow.Define("Ship", ship))) }()
	natstest.Eventually(t, natstest.Patience, "the runner is ready", p.IsReady)
	instance, err := workflow.Bind[int, int]("SHIP").In(p).Create(t.Context(), 1, workflow.ID("a"))
	if err == nil {
		_, err = instance.Result(t.Context())
	}
	stop()
	if end := <-done; err != nil || end != nil {
		t.Fatal(err, end)
	}
	for _, name := range []string{"ship", "SHIP"} {
		code, out, said := run(t, "workflows", "export", name, "a", "--config", path, "--nats-url", server.URL())
		var history workflow.History
		if err := json.Unmarshal([]byte(out), &history); err != nil || code != 0 || said != "" {
			t.Fatalf("exit code %d, said %q, wrote %q: %v", code, said, out, err)
		}
		if err := workflow.Replay(t.Context(), workflow.Define("Ship", ship), history); err != nil {
			t.Error(err)
		}
	}
	lonely := newExport(100 * time.Millisecond)
	var said bytes.Buffer
	lonely.SetErr(&said)
	lonely.SetArgs([]string{"ship", "a", "--config", path, "--nats-url", "nats://127.0.0.1:1"})
	if code := process.Execute(t.Context(), lonely); code != 1 || !strings.Contains(said.String(), "no NATS server answered within 100ms\nnext: start it") {
		t.Errorf("without a server: exit code %d, said %q", code, said.String())
	}
	for _, row := range []struct {
		name string
		args []string
		want []string
	}{
		{"no id", []string{"ship"}, []string{"accepts 2 arg(s), received 1"}},
		{"no such instance", []string{"ship", "b"}, []string{`instance "b" of workflow "ship"`, "next: check the id"}},
		{"a bad id", []string{"ship", "b c"}, []string{`"b c"`}},
		{"no such workflow", []string{"sail", "a"}, []string{`project "shop" owns no workflow "sail"`, "next: it owns ship"}},
		{"of another project", []string{"pay", "a"}, []string{`belongs to project "bank"`, "--config"}},
		{"no such file", []string{"ship", "a", "--config", "nowhere.jsonc"}, []string{"nowhere.jsonc", "next: create it"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			args := append([]string{"workflows", "export", "--config", path, "--nats-url", server.URL()}, row.args...)
			code, out, said := run(t, args...)
			if code != 1 || out != "" {
				t.Errorf("exit code %d, wrote %q", code, out)
			}
			for _, want := range row.want {
				if !strings.Contains(said, want) {
					t.Errorf("said %q, want %q", said, want)
				}
			}
		})
	}
}
