package workflow

import (
	"context"
	"testing"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// TestDeferredFunctionsAtShutdown: giving the instance back ends the goroutines of its code in the same way, and nothing
// that a deferred function does is recorded.
func TestDeferredFunctionsAtShutdown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	working, ran := make(chan struct{}, 2), make(chan struct{}, 2)
	code := func(ctx context.Context, _ Event[int]) (int, error) {
		defer func() {
			_ = recover()
			ran <- struct{}{}
			_ = Sleep(ctx, "never", time.Hour)
		}()
		err := Exec(ctx, "works", func(ctx context.Context) error {
			working <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		return 1, err
	}
	b.grace = 50 * time.Millisecond
	stop := b.serve(parks(), Define("w", code))
	b.create("w", "a", 1)
	<-working
	stop()
	<-ran
	if n := b.kinds("w", "a"); n[protocol.EntryWaiting]+n[protocol.EntryCompleted]+n[protocol.EntryFailed] != 0 || n[protocol.EntryReleased] != 1 {
		t.Errorf("the log has %v", n)
	}
}
