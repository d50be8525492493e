package testsignal_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/testsignal"
)

func TestMain(m *testing.M) {
	if os.Getenv(testsignal.Env) != "" {
		testsignal.At("elsewhere")
		testsignal.At("here")
		return
	}
	os.Exit(m.Run())
}

func TestAtStopsAtItsPointOnly(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), testsignal.Env+"=here")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if got := strings.TrimSpace(line); got != "testsignal: here" {
		t.Errorf("first line on stderr = %q (%v), want %q", got, err, "testsignal: here")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Errorf("process did not stay: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("process ended by itself, want it to wait for the kill")
	}
}
