package execution

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestResultDoesNotWaitForOthers: a result becomes durable soon, even if no effect follows that needs it to be.
func TestResultDoesNotWaitForOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	finish := make(chan struct{})
	x := r.start(Settings{Gather: 5 * time.Millisecond}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		g := s.Group(ctx)
		started := make(chan struct{})
		g.Go(func(ctx context.Context) error {
			return do(ctx, "long", func(context.Context) (json.RawMessage, error) { close(started); <-finish; return nil, nil })
		})
		g.Go(func(ctx context.Context) error {
			return do(ctx, "short", func(context.Context) (json.RawMessage, error) {
				<-started
				natstest.Eventually(t, 10*time.Second, "both starts are stored", func() bool {
					return r.has(protocol.EntryStarted, "long") && r.has(protocol.EntryStarted, "short")
				})
				return nil, nil
			})
		})
		return nil, g.Wait()
	})
	natstest.Eventually(t, 10*time.Second, "the short step's result is stored", func() bool {
		return r.has(protocol.EntryStepCompleted, "short")
	})
	close(finish)
	r.event(x, Finished)
}
