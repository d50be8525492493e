package ctxtime

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		start := time.Now()
		if err := Sleep(ctx, time.Hour); err != nil || time.Since(start) != time.Hour {
			t.Errorf("it waited %s: %v, want an hour", time.Since(start), err)
		}
		cause := errors.New("enough")
		time.AfterFunc(time.Minute, func() { cancel(cause) })
		start = time.Now()
		if err := Sleep(ctx, time.Hour); !errors.Is(err, cause) || time.Since(start) != time.Minute {
			t.Errorf("it waited %s: %v, want a minute and %v", time.Since(start), err, cause)
		}
	})
}
