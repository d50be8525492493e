package workflow

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestNoSpace: what executes while NATS stores nothing waits, with its results, and goes on by itself when there is room: no body
// runs twice, no timer that came due meanwhile is lost, and whoever asks for something is refused.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	d := setupDesk(t)
	var bodies atomic.Int32
	inBody, goOn := make(chan struct{}), make(chan struct{})
	d.serve(execution.Settings{ShortWait: time.Millisecond},
		Define("works", func(ctx context.Context, e Event[int]) (int, error) {
			return Do(ctx, "work", func(context.Context) (int, error) {
				bodies.Add(1)
				close(inBody)
				<-goOn
				return 7, nil
			})
		}),
		Define("sleeps", func(ctx context.Context, e Event[int]) (int, error) {
			err := Sleep(ctx, "sleep", 6*time.Second) // until all were seen to sleep
			return e.Payload, err
		}),
	)
	const sleepers = 20
	d.create("works", "a", 1)
	<-inBody
	for i := range sleepers {
		d.create("sleeps", fmt.Sprint(i), i)
	}
	var last time.Time
	for i := range sleepers {
		s := d.reaches("sleeps", fmt.Sprint(i), "sleeps", func(s protocol.Status) bool { return s.State == protocol.StateWaiting })
		last = *s.Steps[0].Until
	}
	free := d.server.Fill(t)
	close(goOn)
	if _, err := d.bound().Create(t.Context(), 1, ID("refused")); !errors.Is(err, ErrNoSpace) {
		t.Errorf("create while there is no room: %v", err)
	}
	<-time.After(max(time.Until(last)+time.Second, 3*time.Second)) // the sleeps end meanwhile, and the result waits
	free()
	freed := time.Now()
	if got := string(d.complete("works", "a").Output); got != "7" || bodies.Load() != 1 {
		t.Errorf("the step gave %s, its body ran %d times", got, bodies.Load())
	}
	for i := range sleepers {
		d.complete("sleeps", fmt.Sprint(i))
	}
	t.Logf("all was done %s after there was room", time.Since(freed).Round(100*time.Millisecond))
	natstest.Eventually(t, natstest.Patience, "creates are taken again", func() bool {
		_, err := d.bound().Create(t.Context(), 1, ID("refused"))
		return err == nil
	})
}
