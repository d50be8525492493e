//go:build lab

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMounted does to a mounted disk what the NATS server does, and takes its power.
func TestMounted(t *testing.T) {
	d, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	at := func(name string) string { return filepath.Join(d.Path, name) }
	write := func(name string, flags int, text string, sync bool) {
		t.Helper()
		f, err := os.OpenFile(at(name), flags|os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.WriteString(text); err == nil && sync {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(at("a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("a/b/synced", os.O_APPEND, "one", true)
	write("a/b/synced", os.O_APPEND, " two", false)
	write("a/by flag", os.O_SYNC|os.O_TRUNC, "kept", false)
	write("a/by flag", os.O_SYNC|os.O_TRUNC, "kept, too", false)
	write("a/truncated", 0, "before", true)
	write("a/truncated", os.O_TRUNC, "x", false) // what is synced below makes it empty for good
	write("a/replaced", 0, "old", true)
	write("a/replaced.tmp", 0, "new", true)
	if err := os.Rename(at("a/replaced.tmp"), at("a/replaced")); err != nil {
		t.Fatal(err)
	}
	write("a/never", 0, "nobody has synced this", false)
	lost, err := d.LosePower()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(lost)
	for name, want := range map[string]string{
		"a/b/synced": "one", "a/by flag": "kept, too", "a/truncated": "", "a/replaced": "old", "a/replaced.tmp": "new",
	} {
		if have, err := os.ReadFile(at(name)); err != nil || string(have) != want {
			t.Errorf("%s has %q (%v), want %q", name, have, err, want)
		}
	}
	if _, err := os.Stat(at("a/never")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a/never: %v, want that it is not there", err)
	}
	d.SetFull(true)
	if err := os.WriteFile(at("more"), []byte("x"), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write to a full disk: %v, want %v", err, syscall.ENOSPC)
	}
	if d.Refused() == 0 {
		t.Error("the full disk has refused nothing")
	}
}
