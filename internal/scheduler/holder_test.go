package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestHolderThatIsFull: at the end, what waits for a place does not wait for those that have one. They may take until there is no time
// left to hand it back, and it would lie for the whole ack_wait.
func TestHolderThatIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHolder(time.Minute)
		handled := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		for i := range held {
			if !h.take(ctx, nil, func() { <-handled }) {
				t.Fatalf("message %d has no place", i)
			}
		}
		taken := make(chan bool)
		go func() { taken <- h.take(ctx, nil, func() {}) }()
		synctest.Wait()
		stop()
		synctest.Wait()
		select {
		case ok := <-taken:
			if ok {
				t.Error("one more than there are places is taken")
			}
		default:
			t.Error("one more waits on")
			close(handled)
			<-taken
			return
		}
		close(handled)
		h.close()
		if h.take(ctx, nil, func() {}) {
			t.Error("one is taken after the end")
		}
	})
}
