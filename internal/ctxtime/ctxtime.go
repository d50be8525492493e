// Package ctxtime waits for a time that nobody else ends but the context: between two tries, or two looks. It must never
// be used to wait for something that could be heard of.
package ctxtime

import (
	"context"
	"time"
)

// Sleep waits for d. If ctx ends before, it returns the cause.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
