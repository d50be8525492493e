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
