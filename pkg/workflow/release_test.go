package workflow

import (
	"context"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestReleaseWithinTheGracePeriod stops a runner whose body does not return by itself, or not at all. It must be done
// within its grace period: then the process ends.
func TestReleaseWithinTheGracePeriod(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		ignores bool
	}{{"the body stops when it is told to", false}, {"the body does not care", true}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.grace = 24 * time.Second // an eighth to a quarter of it is for what a busy machine does slowly
			working, end := make(chan struct{}, 2), make(chan struct{})
			stop := b.serve(execution.Settings{}, Define("w", func(ctx context.Context, _ Event[int]) (int, error) {
				return Do(ctx, "work", func(ctx context.Context) (int, error) {
					working <- struct{}{}
					if row.ignores {
						<-end
						return 1, nil
					}
					<-ctx.Done()
					return 0, context.Cause(ctx)
				})
			}))
			b.create("w", "a", 1)
			<-working
			began := time.Now()
			stop()
			if took := time.Since(began); took < b.grace*3/4 || took > b.grace {
				t.Errorf("it took %v, want the body to have most of %v, and the end within it", took, b.grace)
			}
			close(end)
			if n := b.kinds("w", "a"); n[protocol.EntryReleased] != 1 || n[protocol.EntryAttemptFailed] != 0 {
				t.Errorf("the log has %v, want a release and no failure of the step", n)
			}
		})
	}
}

// TestParkedNeedsNoSlot has one slot, and an instance that is parked and still in memory.
func TestParkedNeedsNoSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.slots, b.linger = 1, time.Hour
	b.serve(execution.Settings{}, Define("parked", func(ctx context.Context, _ Event[int]) (int, error) {
		got, err := WaitForEvent[int](ctx, "go", "go")
		return got.Payload, err
	}), Define("quick", five))
	b.create("parked", "a", 1)
	b.reaches("parked", "a", "waits", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
	b.create("quick", "b", 1)
	b.complete("quick", "b")
}
