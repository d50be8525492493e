package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/process"
)

// asSkein makes the test binary the program itself.
const asSkein = "SKEIN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asSkein) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func skein(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asSkein+"=1")
	return cmd
}

func TestDevStopsCleanly(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			port, dir := natstest.FreePort(t), filepath.Join(t.TempDir(), "data")
			cmd := skein(t, "dev", "--port", strconv.Itoa(port), "--data", dir)
			var log bytes.Buffer
			cmd.Stderr = &log
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for lines := bufio.NewScanner(out); lines.Scan(); {
				fmt.Fprintln(&text, lines.Text())
				if lines.Text() == "Ctrl-C stops it." {
					if err := cmd.Process.Signal(signal); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := cmd.Wait(); err != nil || log.Len() > 0 {
				t.Errorf("ended with %v, and said %q", err, log.String())
			}
			for _, want := range []string{fmt.Sprintf("nats://127.0.0.1:%d", port), dir, "Stopped."} {
				if !strings.Contains(text.String(), want) {
					t.Errorf("%q is missing in:\n%s", want, text.String())
				}
			}
		})
	}
}

func TestRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown command", []string{"fly"}, `unknown command "fly"`},
		{"unknown flag", []string{"demo", "--fast"}, "next: see skein demo --help"},
		{"output", []string{"demo", "--output", "xml"}, `--output: "xml": allowed is text or json`},
		{"limit", []string{"demo", "--limit", "-1s"}, "--limit: -1s: allowed is more than 0"},
		{"port", []string{"dev", "--port", "0"}, "--port: 0: allowed is 1 to 65535"},
		{"port that is no number", []string{"dev", "--port", "nats"}, "next: see skein dev --help"},
		{"arguments", []string{"dev", "now"}, `unknown command "now" for "skein dev"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var said bytes.Buffer
			root := newRoot()
			root.SetOut(&said)
			root.SetErr(&said)
			root.SetArgs(row.args)
			if code := process.Execute(t.Context(), root); code != 1 || !strings.Contains(said.String(), row.want) {
				t.Errorf("exit code %d, want %q in:\n%s", code, row.want, said.String())
			}
		})
	}
}
