package skew

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"

	"github.com/skein-run/skein/test/skew/past"
)

// TestRecorded: what earlier versions have left in the middle of everything, this one goes on with.
func TestRecorded(t *testing.T) {
	t.Parallel()
	recordings, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(recordings) < 3 {
		t.Fatalf("recordings are %q, %v", recordings, err)
	}
	for _, file := range recordings {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".tar.gz"), func(t *testing.T) {
			t.Parallel()
			w := restore(t, file)
			w.goOn()
			w.ends("sleeper", "one", "one, after")
			w.ends("sleeper", "two", "two, after")
			w.ends("waiter", "one", "one, late")
			w.ends("waiter", "two", "two, sent to nobody")
			w.ends("waiter", "unseen", "unseen, late")
			w.ends("waiter", "paused", "paused, late")
			w.ends("waiter", "done", "done, ended")
			w.ends("branches", "one", "one, slept, late")
			w.ends("parent", "one", "parent, child of one, late")
			w.ends("stuck", "one", "one, worked")
			w.ends("retried", "two", "two, tried again")
			w.ends("large", "one", "late")
			w.ends("changed", "one", "one, new, late")
			w.agents()
		})
	}
}

// world is a recording that is gone on with.
type world struct {
	*testing.T
	project *project.Project
	// old is set if the recording is so old that its waits have timed out, and what had ended has expired.
	old bool
}

func restore(t *testing.T, file string) *world {
	t.Helper()
	dir := t.TempDir()
	unpack(t, file, dir)
	recorded, err := time.Parse(time.DateOnly, filepath.Base(file)[:len(time.DateOnly)])
	if err != nil {
		t.Fatal(err)
	}
	srv := natstest.Start(t, natstest.StoreDir(dir))
	config := past.Config(srv.URL())
	p, err := project.Open(t.Context(), config, project.Logger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	clock := scheduler.New(scheduler.Options{NC: p.NC, JS: p.JS, Log: p.Log})
	go func() { done <- clock.Run(ctx) }()
	go func() {
		done <- project.Run(ctx, p, workflow.Runner(past.Workflows()...), agent.Host(past.Agents()...))
	}()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			return // one of them has ended
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	natstest.Eventually(t, natstest.Patience, "the services are ready", func() bool {
		select {
		case err := <-done:
			t.Fatalf("a service has ended: %v", errors.Join(err, ctx.Err()))
		default:
		}
		return p.IsReady()
	})
	return &world{T: t, project: p, old: time.Since(recorded) > 25*24*time.Hour}
}

func unpack(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		content, err := io.ReadAll(r)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		}
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) get(name, id string) *workflow.Instance[string] {
	w.Helper()
	i, err := workflow.Bind[string, string](name).In(w.project).Get(w.Context(), id)
	if errors.Is(err, workflow.ErrNotFound) && w.old {
		return nil
	}
	if err != nil {
		w.Fatalf("%s/%s: %v", name, id, err)
	}
	return i
}

// goOn does what the instances wait for.
func (w *world) goOn() {
	w.Helper()
	if i := w.get("waiter", "paused"); i != nil {
		w.state("waiter", "paused", protocol.StatePaused)
		if err := i.Resume(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
	for _, at := range [][2]string{
		{"waiter", "one"}, {"waiter", "unseen"}, {"waiter", "paused"}, {"branches", "one"}, {"waiter", "child-of-one"}, {"large", "one"},
	} {
		w.send(at[0], at[1])
	}
	w.send("changed", "one")
	if !w.old {
		w.state("changed", "one", protocol.StateHeld)
		if err := w.get("changed", "one").Resume(w.Context(), workflow.AcceptDivergence()); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) send(name, id string) {
	w.Helper()
	err := w.get(name, id).SendEvent(w.Context(), "go", "late")
	if err != nil && !w.old {
		w.Fatalf("%s/%s: %v", name, id, err)
	}
}

func (w *world) state(name, id string, wanted protocol.State) {
	w.Helper()
	i := w.get(name, id)
	natstest.Eventually(w, natstest.Patience, name+"/"+id+" is "+string(wanted), func() bool {
		s, err := i.Status(w.Context())
		return err == nil && s.State == wanted
	})
}

func (w *world) ends(name, id, wanted string) {
	w.Helper()
	i := w.get(name, id)
	if i == nil {
		return
	}
	ctx, cancel := context.WithTimeout(w.Context(), natstest.Patience)
	defer cancel()
	got, err := i.Result(ctx)
	if err != nil || got != wanted && (!w.old || !strings.Contains(got, past.TimedOut)) {
		w.Errorf("%s/%s has ended with %.80q, %v; wanted is %q", name, id, got, err, wanted)
	}
}

// agents have what they had, and get what was on its way to them.
func (w *world) agents() {
	w.Helper()
	for name, wanted := range map[string][]string{"ada": {"scheduled", "sent to nobody"}, "bob": {"scheduled"}} {
		var notes past.Notes
		natstest.Eventually(w, natstest.Patience, "agent "+name+" has its mail", func() bool {
			var err error
			notes, err = agent.Call(w.Context(), past.Clerk.In(w.project).Agent(name), (*past.ClerkAgent).Read, "")
			return err == nil && len(notes.Notes) >= len(wanted)
		})
		slices.Sort(notes.Notes)
		if !slices.Equal(notes.Notes, wanted) || notes.Sum != 5 {
			w.Errorf("agent %s has %+v, wanted are 5 and %q", name, notes, wanted)
		}
		w.send("waiter", "of-"+name)
		w.ends("waiter", "of-"+name, "of an agent, late")
	}
}

// TestNewer: an instance whose log holds what only a newer version knows is left alone, and its wake kept for that.
func TestNewer(t *testing.T) {
	t.Parallel()
	recordings, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(recordings) == 0 {
		t.Fatal(recordings, err)
	}
	w := restore(t, recordings[len(recordings)-1])
	if _, err := workflow.Bind[string, string]("waiter").In(w.project).Create(w.Context(), "x", workflow.ID("newer")); err != nil {
		w.Fatal(err)
	}
	w.state("waiter", "newer", protocol.StateWaiting)
	store, at := w.project.Journal(), protocol.Instance{Project: "past", Workflow: "waiter", ID: "newer"}
	stream := protocol.WorkflowsStream("past", 0)
	tail, err := store.Last(w.Context(), stream, at.LogSubject())
	if err != nil {
		w.Fatal(err)
	}
	var a protocol.Append
	if err := json.Unmarshal(tail.Data, &a); err != nil {
		w.Fatal(err)
	}
	a.ID, a.Entries = "of-a-newer-version", []protocol.Entry{{Kind: "hologram"}}
	body, err := json.Marshal(a)
	if err != nil {
		w.Fatal(err)
	}
	newer, err := store.Append(w.Context(), stream, at.LogSubject(), tail.Sequence, body)
	if err != nil {
		w.Fatal(err)
	}
	w.send("waiter", "newer")
	natstest.Eventually(w, natstest.Patience, "the wake has come again", func() bool {
		c, err := w.project.JS.Consumer(w.Context(), stream, protocol.ConsumerWakes(0))
		return err == nil && c.CachedInfo().NumRedelivered > 0
	})
	if now, err := store.Last(w.Context(), stream, at.LogSubject()); err != nil || now.Sequence != newer {
		w.Errorf("the log was gone on with: %v, %v", now, err)
	}
	w.send("waiter", "unseen")
	w.ends("waiter", "unseen", "unseen, late") // others are not held up
}
