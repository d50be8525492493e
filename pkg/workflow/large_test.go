package workflow

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestManyLargeInstances: what a runner reads of many instances at once does not fit into one answer of the server.
func TestManyLargeInstances(t *testing.T) {
	t.Parallel()
	const instances = 14
	b := setup(t)
	code := func(ctx context.Context, e Event[string]) (int, error) {
		_, err := WaitForEvent[int](ctx, "go on", "go")
		return len(e.Payload), err
	}
	stop := b.serve(execution.Settings{}, Define("w", code))
	params := strings.Repeat("x", 500<<10)
	for n := range instances {
		b.create("w", fmt.Sprint(n), params)
	}
	for n := range instances {
		b.reaches("w", fmt.Sprint(n), "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	}
	stop()
	for n := range instances {
		b.send("w", fmt.Sprint(n), "go", n)
	}
	b.serve(execution.Settings{}, Define("w", code))
	for n := range instances {
		if got := string(b.complete("w", fmt.Sprint(n)).Output); got != fmt.Sprint(len(params)) {
			t.Errorf("instance %d returned %s", n, got)
		}
	}
}
