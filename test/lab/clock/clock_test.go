//go:build linux

package clock

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOverlay: the standard library at hand is one that the overlay fits.
func TestOverlay(t *testing.T) {
	t.Parallel()
	path, err := Overlay(goroot(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "time.go")); err != nil || strings.Count(string(text), skewed) != 1 {
		t.Errorf("the changed time.go reads the clock %d times (%v), want 1", strings.Count(string(text), skewed), err)
	}
}

// TestOtherLibrary: a standard library that looks different is refused, and the error says what to do.
func TestOtherLibrary(t *testing.T) {
	t.Parallel()
	goroot := t.TempDir()
	dir := filepath.Join(goroot, "src", "time")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "time.go"), []byte("package time\n\nfunc Now() Time {\n\treturn now()\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Overlay(goroot, t.TempDir()); err == nil || !strings.Contains(err.Error(), "test/lab/clock has to follow") {
		t.Errorf("overlay of another library: %v, want what to do", err)
	}
}

// TestClock sets a clock, and reads it as the programs do.
func TestClock(t *testing.T) {
	t.Parallel()
	c, err := New(filepath.Join(t.TempDir(), "clock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Set(-3 * time.Second)
	other, err := open(c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if other.Offset() != -3*time.Second || c.Seen() != 0 {
		t.Errorf("the other sees %v, and has seen %v; want -3s and 0s", other.Offset(), c.Seen())
	}
	other.words[1].Store(int64(-3 * time.Second))
	if c.Seen() != -3*time.Second {
		t.Errorf("seen was %v, want -3s", c.Seen())
	}
}

// goroot is that of the compiler at hand.
func goroot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
