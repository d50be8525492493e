package streams

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestRetryTellsWhatItHeard: who gives up hears why it did not go, also if its time was over in the middle of a try.
func TestRetryTellsWhatItHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tries := 0
		err := retry(ctx, nil, "look", func(ctx context.Context) error {
			if tries++; tries == 1 {
				return errRestoring
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if tries != 2 || !errors.Is(err, errRestoring) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d tries: %v", tries, err)
		}
	})
}
