package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestDamage: whatever is damaged is named, and nothing of it is restored.
func TestDamage(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	for _, id := range []string{"a", "b", "c"} {
		p.create("shop", id)
	}
	whole, _ := p.backup()
	to := onServer(t)
	file := fileOf(protocol.WorkflowsStream("shop", 0))
	change := func(name string, how func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, how(data), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, string)
		why    string
	}{
		{"a bit of a file", change(file, func(b []byte) []byte { b[len(b)/2] ^= 4; return b }), "was changed: its SHA-256 is"},
		{"a file cut short", change(file, func(b []byte) []byte { return b[:len(b)-20] }), "bytes,"},
		{"a file is gone", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, file))) }, "no such file"},
		{"a file of another stream", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, fileOf(protocol.TimersStream("shop"))), filepath.Join(dir, file)))
		}, "bytes,"},
		{"a bit of the manifest", change(manifestFile, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"messages": 3`), []byte(`"messages": 2`), 1)
		}), "was changed: its digest is"},
		{"no manifest", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, manifestFile))) }, "was not finished"},
		{"no JSON", change(manifestFile, func(b []byte) []byte { return b[:len(b)/2] }), "cannot be read"},
		{"another version", change(manifestFile, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"v": 1`), []byte(`"v": 2`), 1)
		}), "it has version 2, this program knows 1"},
		{"a stream left out", rewrite(func(m *Manifest) {
			for i, s := range m.Streams {
				if s.Name == protocol.TimersStream("shop") {
					m.Streams = append(m.Streams[:i], m.Streams[i+1:]...)
					return
				}
			}
		}), `stream "TIMERS_shop" is missing`},
		{"a message too few", rewrite(func(m *Manifest) {
			for i := range m.Streams {
				if m.Streams[i].File == file {
					m.Streams[i].Messages++
				}
			}
		}), "were written"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "backup")
			must(t, os.CopyFS(dir, os.DirFS(whole)))
			tt.damage(t, dir)
			for what, do := range map[string]func() error{
				"check":   func() error { _, err := Check(t.Context(), dir); return err },
				"verify":  func() error { _, err := Verify(t.Context(), VerifyOptions{Dir: dir}); return err },
				"restore": func() error { _, err := to.restore(dir, 1); return err },
			} {
				err := do()
				if _, ok := errors.AsType[*DamagedError](err); !ok || !strings.Contains(err.Error(), tt.why) {
					t.Errorf("%s: %v, want %q", what, err, tt.why)
				}
			}
		})
	}
	for name := range to.js.StreamNames(t.Context()).Name() {
		t.Errorf("stream %s was restored", name)
	}
}

// rewrite changes a manifest as nobody but a program does.
func rewrite(how func(*Manifest)) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		m, err := ReadManifest(dir)
		must(t, err)
		how(m)
		must(t, m.write(dir))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestoreBreaksOff: until a restore is done no process works with what it has restored, and it can be repeated.
func TestRestoreBreaksOff(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	p.create("shop", "a")
	dir, m := p.backup()
	q := onServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Restore(ctx, RestoreOptions{JS: q.js, Store: q.store, Dir: dir, Progress: func(what string, done, _ int) {
		if what == "streams" && done == 8 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("it was told to stop after 8 streams: %v", err)
	}
	wait, stop := context.WithTimeout(t.Context(), natstest.Patience)
	defer stop()
	log := slog.New(slog.NewTextHandler(hears{"is being restored", stop}, nil))
	if err := streams.EnsureWorkflows(wait, q.js, "shop", 1, streams.Options{Log: log}); err == nil || !strings.Contains(err.Error(), "is being restored") {
		t.Errorf("a process that is started meanwhile: %v", err)
	}
	if _, err := Create(t.Context(), Options{JS: q.js, Store: q.store, Dir: filepath.Join(t.TempDir(), "b")}); err == nil || !strings.Contains(err.Error(), "is being restored") {
		t.Errorf("a backup meanwhile: %v", err)
	}
	if _, err := q.restore(dir, 1); err != nil {
		t.Fatalf("repeated: %v", err)
	}
	q.project("shop")
	// It can break off when all is restored, and the last streams are not released.
	s, err := q.js.Stream(t.Context(), m.Streams[len(m.Streams)-1].Name)
	must(t, err)
	config := s.CachedInfo().Config
	config.Metadata[protocol.MetadataRestore] = m.ID
	_, err = q.js.UpdateStream(t.Context(), config)
	must(t, err)
	if _, err := q.restore(dir, 1); err != nil {
		t.Errorf("repeated after all: %v", err)
	}
	q.project("shop")
	if exists := (*ExistsError)(nil); true {
		if _, err := q.restore(dir, 1); !errors.As(err, &exists) || len(exists.Streams) != len(m.Streams) {
			t.Errorf("repeated once more: %v", err)
		}
	}
	if got := q.contents("WORKFLOWS_shop"); len(got) != 1 {
		t.Errorf("the stream of instances holds %q", got)
	}
}

// hears calls heard for what is written and has text in it.
type hears struct {
	text  string
	heard func()
}

func (h hears) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(h.text)) {
		h.heard()
	}
	return len(p), nil
}

// TestManifestIsStable: what a manifest says of itself is found again after it was read.
func TestManifestIsStable(t *testing.T) {
	t.Parallel()
	p := onServer(t)
	p.project("shop")
	dir, m := p.backup()
	read, err := ReadManifest(dir)
	must(t, err)
	was, err := json.Marshal(m)
	must(t, err)
	is, err := json.Marshal(read)
	must(t, err)
	if !bytes.Equal(was, is) {
		t.Errorf("read:\n%s\nwritten:\n%s", is, was)
	}
}
