package workflow

import (
	"context"
	"fmt"
	"testing"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

func five(ctx context.Context, e Event[int]) (int, error) {
	n := e.Payload
	for i := range 5 {
		var err error
		if n, err = Do(ctx, fmt.Sprintf("step %d", i), func(context.Context) (int, error) { return n + 1, nil }); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func TestStepsRunInOrderAndAreRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(execution.Settings{}, Define("five", five))
	b.create("five", "a", 10)
	s := b.complete("five", "a")
	if string(s.Output) != "15" || len(s.Steps) != 5 {
		t.Errorf("output %s after %d steps, want 15 after 5", s.Output, len(s.Steps))
	}
}

func TestSleepParksAndGoesOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	runs := make(chan struct{}, 10)
	b.serve(parks(), Define("nap", func(ctx context.Context, _ Event[int]) (string, error) {
		runs <- struct{}{}
		if err := Sleep(ctx, "nap", nap); err != nil {
			return "", err
		}
		return "rested", nil
	}))
	b.create("nap", "a", 1)
	s := b.complete("nap", "a")
	if len(runs) != 2 || len(s.Runs) != 2 {
		t.Errorf("the function ran %d times, the log shows %d runs; want 2: it parks and goes on", len(runs), len(s.Runs))
	}
	if took := s.Finished.Sub(s.Created); took < nap {
		t.Errorf("ended after %v, before the sleep was over", took)
	}
}

func TestEventEndsWait(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		t.Run("sent "+when+" it parks", func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			wait := Define("wait", func(ctx context.Context, _ Event[int]) (string, error) {
				got, err := WaitForEvent[string](ctx, "answer", "answer")
				return got.Payload, err
			})
			b.create("wait", "a", 1)
			if when == "before" {
				b.send("wait", "a", "answer", "yes")
			}
			b.serve(execution.Settings{}, wait)
			if when == "after" {
				b.reaches("wait", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
				b.send("wait", "a", "answer", "yes")
			}
			if s := b.complete("wait", "a"); string(s.Output) != `"yes"` {
				t.Errorf("output %s, want yes", s.Output)
			}
		})
	}
}
