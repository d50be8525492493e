package workflow

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestReportsAreRecordedOnce: also if the code runs again, and from branches side by side.
func TestReportsAreRecordedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(parks(), Define("w", func(ctx context.Context, e Event[int]) (any, error) {
		if err := ReportProgress(ctx, "begun"); err != nil {
			return nil, err
		}
		g := NewGroup(ctx)
		for range 3 {
			g.Go(func(ctx context.Context) error {
				return errors.Join(ReportProgress(ctx, 1), ReportEvent(ctx, "seat", 2))
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		if _, err := WaitForEvent[int](ctx, "wait", "go"); err != nil {
			return nil, err
		}
		return nil, ReportProgress(ctx, "done")
	}))
	b.create("w", "a", 1)
	b.reaches("w", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	b.send("w", "a", "go", 1)
	if s := b.complete("w", "a"); len(s.Steps) != 1 || len(s.Runs) != 2 {
		t.Errorf("status has %d steps and %d runs: reports are no steps", len(s.Steps), len(s.Runs))
	}
	if n := b.kinds("w", "a")[protocol.EntryReported]; n != 8 {
		t.Errorf("%d reports are recorded, want 8", n)
	}
}

// TestReportsMayChange: code that reports something else than the one before it goes on.
func TestReportsMayChange(t *testing.T) {
	t.Parallel()
	b := setup(t)
	waits := func(before, after bool) Definition {
		return Define("w", func(ctx context.Context, e Event[int]) (any, error) {
			if before {
				if err := ReportProgress(ctx, "before"); err != nil {
					return nil, err
				}
			}
			if _, err := WaitForEvent[int](ctx, "wait", "go"); err != nil {
				return nil, err
			}
			if after {
				return nil, ReportEvent(ctx, "after", 1)
			}
			return nil, nil
		})
	}
	for _, change := range []struct {
		id           string
		first, later Definition
	}{{"added", waits(false, false), waits(true, true)}, {"removed", waits(true, true), waits(false, false)}} {
		stop := b.serve(parks(), change.first)
		b.create("w", change.id, 1)
		b.reaches("w", change.id, "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
		stop()
		stop = b.serve(parks(), change.later)
		b.send("w", change.id, "go", 1)
		b.complete("w", change.id)
		stop()
	}
}

// TestReportMisuse: each mistake is an error that says what is wrong, and nothing is recorded.
func TestReportMisuse(t *testing.T) {
	t.Parallel()
	if err := ReportProgress(t.Context(), 1); !errors.Is(err, ErrNoWorkflow) {
		t.Errorf("outside of a workflow: %v", err)
	}
	b := setup(t)
	b.limits = engine.Limits{Steps: 2}
	b.serve(parks(), Define("w", func(ctx context.Context, e Event[int]) (any, error) {
		if e.Payload == 2 { // a report is a step
			return nil, errors.Join(ReportProgress(ctx, 1), ReportProgress(ctx, 2), ReportProgress(ctx, 3))
		}
		large := ReportProgress(ctx, strings.Repeat("x", protocol.InlinePayload))
		if size, ok := errors.AsType[*SizeError](large); !ok || size.Limit != protocol.InlinePayload || !strings.Contains(large.Error(), "report progress") {
			t.Errorf("too large: %v", large)
		}
		if err := ReportEvent(ctx, "a b", 1); !errors.Is(err, protocol.ErrName) {
			t.Errorf("bad type: %v", err)
		}
		if encoding, ok := errors.AsType[*EncodingError](ReportEvent(ctx, "e", func() {})); !ok {
			t.Errorf("no JSON: %v", encoding)
		}
		return nil, Exec(ctx, "step", func(ctx context.Context) error {
			if err := ReportProgress(ctx, 1); !errors.Is(err, ErrNested) {
				t.Errorf("in a body: %v", err)
			}
			return nil
		})
	}))
	b.create("w", "a", 1)
	b.complete("w", "a")
	if n := b.kinds("w", "a")[protocol.EntryReported]; n != 0 {
		t.Errorf("%d reports are recorded", n)
	}
	b.create("w", "limit", 2)
	if f := b.errored("w", "limit"); f.Name != protocol.FailureStepLimit {
		t.Errorf("three reports with a limit of two steps: %v", f)
	}
}
