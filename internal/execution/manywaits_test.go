package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// TestParksOnManyWaits: as many waits side by side as no message can name do not end the instance.
func TestParksOnManyWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	x := r.start(Settings{ShortWait: time.Nanosecond}, func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		g := s.Group(ctx)
		for n := range 9_000 {
			g.Go(func(ctx context.Context) error {
				s, err := From(ctx)
				if err == nil {
					_, _, err = s.WaitForEvent(ctx, fmt.Sprint("a wait with a name of its own that is rather long, number ", n), "answer", time.Hour)
				}
				return err
			})
		}
		return nil, g.Wait()
	})
	parked := r.event(x, Parked)
	if n := len(parked.Park.Waits); n == 0 || n > 200 {
		t.Errorf("the park tells of %d waits", n)
	}
}
