package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// blob is a value that is too large for a message.
func blob(of string) string { return strings.Repeat(of, protocol.InlinePayload/len(of)+1) }

// TestExportIsWhole: a history has with it what is in the object store. The code that is replayed gets the same values as
// when it was run, no body runs, and no server is there.
func TestExportIsWhole(t *testing.T) {
	t.Parallel()
	r := newRollout(t)
	p := r.open("p", own("w"), own("child"))
	var bodies atomic.Int32
	w := Define("w", func(ctx context.Context, e Event[string]) (string, error) {
		if e.Payload != blob("params") {
			return "", fmt.Errorf("params have %d bytes", len(e.Payload))
		}
		made, err := Do(ctx, "make", func(context.Context) (string, error) { bodies.Add(1); return blob("result"), nil }, Sensitive())
		if err != nil || made != blob("result") {
			return "", fmt.Errorf("made are %d bytes: %w", len(made), err)
		}
		for range 2 { // so that no message can hold the history
			if _, err := Do(ctx, "bulk", func(context.Context) (string, error) { return blob("bulk")[:100_000], nil }); err != nil {
				return "", err
			}
		}
		got, err := Call(ctx, "call", Bind[int, string]("child"), 7)
		if err != nil || got != blob("child") {
			return "", fmt.Errorf("the child returned %d bytes: %w", len(got), err)
		}
		sent, err := WaitForEvent[string](ctx, "gate", "go")
		if err != nil || sent.Payload != blob("event") {
			return "", fmt.Errorf("sent were %d bytes: %w", len(sent.Payload), err)
		}
		return blob("output"), Exec(ctx, "last", func(context.Context) error { bodies.Add(1); return nil })
	})
	stop := r.start(p, w, Define("child", func(context.Context, Event[int]) (string, error) { return blob("child"), nil }))
	instance, err := Bind[string, string]("w").In(p).Create(t.Context(), blob("params"), ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	c := change{name: "w"}
	r.reaches("w", "a", "is at the gate", func(s Status) bool { return s.State == Waiting && len(s.Steps) == 5 })
	r.compact(c, "a")
	if err := instance.SendEvent(t.Context(), "go", blob("event")); err != nil {
		t.Fatal(err)
	}
	r.complete("w", "a")
	h, err := instance.Export(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	r.nc.Close()

	var read History
	if err := json.Unmarshal(body, &read); err != nil {
		t.Fatal(err)
	}
	var values []string
	for v := range maps.Values(read.Objects) {
		values = append(values, string(v)[:4])
	}
	slices.Sort(values)
	if want := []string{`"chi`, `"eve`, `"out`, `"par`, `"res`}; !slices.Equal(values, want) {
		t.Errorf("the values are %q, want %q", values, want)
	}
	read.Log = read.Log[snapshotAt(read):] // as if the log had been cleaned
	for _, h := range []History{h, read} {
		ran := bodies.Load()
		if err := Replay(t.Context(), w, h); err != nil || bodies.Load() != ran {
			t.Errorf("replayed with %v, %d bodies ran", err, bodies.Load()-ran)
		}
	}
	for name := range read.Objects {
		lacks := read
		lacks.Objects = maps.Clone(read.Objects)
		delete(lacks.Objects, name)
		if err := Replay(t.Context(), w, lacks); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without a value: %v", err)
		}
	}
}

// snapshotAt is where the snapshot stands in a log.
func snapshotAt(h History) int {
	return slices.IndexFunc(h.Log, func(l protocol.LoggedAppend) bool { return l.Append.Entries[0].Kind == protocol.EntrySnapshot })
}

func TestExportThatCannotBe(t *testing.T) {
	t.Parallel()
	b := setup(t)
	between := make(chan error, 1)
	p := b.open("p", own("w"))
	b.start(p, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
		i, err := Bind[int, int]("w").In(p).Get(ctx, "a")
		if err == nil {
			_, err = i.Export(ctx)
		}
		between <- err
		return 1, nil
	}))
	created, err := Bind[int, int]("w").In(p).Create(t.Context(), 1, ID("a"))
	if err != nil {
		t.Fatal(err)
	}
	b.complete("w", "a")
	if err := <-between; !errors.Is(err, ErrBetweenSteps) {
		t.Errorf("between steps: %v", err)
	}
	other, err := Bind[int, int]("w").In(b.open("q", from("p", "w"))).Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Export(t.Context())
	if foreign, ok := errors.AsType[*NotOwnerError](err); !ok || *foreign != (NotOwnerError{"w", "a", "p", "q"}) || !errors.Is(err, ErrNotOwner) {
		t.Errorf("from another project: %v", err)
	}
	if err := created.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "it is deleted", func() bool {
		_, err := created.Export(t.Context())
		return errors.Is(err, ErrNotFound)
	})
}

func TestReplayThatCannotBe(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	history := func(entries ...protocol.Entry) History {
		return History{V: 1, Project: "p", Sequence: 1, Create: protocol.Create{V: 1, Workflow: "w", ID: "a", Created: noon}, Log: []protocol.LoggedAppend{
			{Sequence: 2, Append: protocol.Append{V: 1, ID: "1", Incarnation: 1, Time: noon.Add(time.Hour), Version: "v1", Entries: entries}},
		}}
	}
	completed := protocol.Entry{Kind: protocol.EntryCompleted}
	newer := history(completed)
	newer.Log[0].Append.V = 2
	ok := func(context.Context) error { return nil }
	for _, row := range []struct {
		name    string
		history History
		code    script
		want    string // part of the error; empty: none
		is      error
	}{
		{name: "no history", code: ok, want: "this is no history", history: History{}},
		{name: "a newer form", code: ok, want: "newer version", is: engine.ErrNewer, history: History{V: 2, Sequence: 1, Create: protocol.Create{ID: "a"}}},
		{name: "a newer entry", code: ok, want: "newer version", is: engine.ErrNewer, history: newer},
		{name: "it never returns", code: func(ctx context.Context) error { <-ctx.Done(); return nil }, history: history(completed),
			want: context.DeadlineExceeded.Error(), is: context.DeadlineExceeded},
		{name: "it completed and fails now", code: broken, history: history(completed), is: ErrDivergence,
			want: `recorded by version "v1": the code contradicts the history: it completed, but now the code fails: on purpose`},
		{name: "it completed and panics now", code: func(context.Context) error { panic("boom") }, history: history(completed), is: ErrDivergence,
			want: "panic: boom"},
		{name: "it failed and fails now", code: broken, history: history(protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Message: "x"}})},
		{name: "it failed and completes now", code: ok, history: history(protocol.Entry{Kind: protocol.EntryFailed, Error: &protocol.Failure{Message: "x"}})},
		{name: "it has not begun", code: steps("a"), history: History{V: 1, Sequence: 1, Create: protocol.Create{ID: "a"}}},
		{name: "the clock stands", history: history(completed), code: func(ctx context.Context) error {
			if at := Now(ctx); !at.Equal(noon.Add(time.Hour)) {
				return fmt.Errorf("it is %v", at)
			}
			return nil
		}},
		{name: "runs were lost in a step", code: steps("a"), history: history(
			protocol.Entry{Kind: protocol.EntryStarted, Step: &protocol.Key{Op: protocol.OpDo, Name: "a", Count: 1}, Attempt: 1, Charged: true,
				Config: &protocol.StepConfig{LostRuns: 0, Retries: 1}})},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			within := 10 * time.Second
			if errors.Is(row.is, context.DeadlineExceeded) {
				within = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(execution.ContextWith(t.Context(), execution.Settings{Hold: 100 * time.Millisecond}), within)
			defer cancel()
			err := Replay(ctx, change{name: "w"}.define([]script{row.code}), row.history)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) || row.is != nil && !errors.Is(err, row.is) {
				t.Errorf("the error is %v, want %q", err, row.want)
			}
		})
	}
}
