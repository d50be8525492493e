package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestHeartbeatOutlivesItsRunner: what a body said before its runner died is what the next attempt finds.
func TestHeartbeatOutlivesItsRunner(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	found := make(chan string, 2)
	code := func(ctx context.Context) (json.RawMessage, error) {
		return nil, do(ctx, "long", func(ctx context.Context) (json.RawMessage, error) {
			a := AttemptFrom(ctx)
			found <- fmt.Sprintf("%d %s", a.Number, a.Heartbeat)
			if a.Number > 1 {
				return nil, nil
			}
			if err := Heartbeat(ctx, json.RawMessage(`"half"`)); err != nil {
				return nil, err
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}
	x := r.start(Settings{}, code)
	natstest.Eventually(t, natstest.Patience, "the heartbeat is stored", func() bool { return r.has(protocol.EntryHeartbeat, "long") })
	x.Drop(ErrOutOfTouch)
	r.event(r.again(Settings{}, code), Finished)
	if first, second := <-found, <-found; first != "1 " || second != `2 "half"` {
		t.Errorf("the attempts found %q and %q", first, second)
	}
}

func TestBeatEvery(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]time.Duration{
		0: 30 * time.Second, time.Millisecond: time.Second, 10 * time.Second: 5 * time.Second, time.Hour: 30 * time.Second,
	} {
		if got := beatEvery(timeout); got != want {
			t.Errorf("with a timeout of %v one beat in %v is recorded, want %v", timeout, got, want)
		}
	}
}

// TestIdempotencyKeyOfARestart: a step that runs again because somebody wanted it to has another key than before, one
// that was named before the restart and kept has the same.
func TestIdempotencyKeyOfARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	keys := make(chan string, 10)
	working := make(chan struct{}, 10)
	step := func(ctx context.Context, name string, waits bool) error {
		return do(ctx, name, func(ctx context.Context) (json.RawMessage, error) {
			keys <- AttemptFrom(ctx).IdempotencyKey
			if waits && AttemptFrom(ctx).Number == 1 {
				working <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		})
	}
	code := func(ctx context.Context) (json.RawMessage, error) {
		s, err := From(ctx)
		if err != nil {
			return nil, err
		}
		g := s.Group(ctx)
		g.Go(func(ctx context.Context) error { return step(ctx, "kept", true) })
		g.Go(func(ctx context.Context) error {
			<-working // so that it begins after the other
			return step(ctx, "again", false)
		})
		return nil, g.Wait()
	}
	x := r.start(Settings{}, code)
	natstest.Eventually(t, natstest.Patience, "both have begun", func() bool {
		return r.has(protocol.EntryStarted, "kept") && r.has(protocol.EntryStepCompleted, "again")
	})
	x.Drop(ErrSuperseded)
	h := r.history()
	from := protocol.Key{Op: protocol.OpDo, Name: "again", Count: 1}
	holder := h.Holder
	r.append(h, 1, protocol.Entry{Kind: protocol.EntryRestarted, From: &from, Wake: &holder, Input: 1, InputID: "c"})
	working <- struct{}{}
	r.event(r.over(Settings{}, h, code), Finished)
	life := fmt.Sprintf("p/w/a/%d", r.created)
	want := map[string]int{life + "/kept/1": 2, life + "/again/1": 1, life + ".1/again/1": 1}
	for range 4 {
		want[<-keys]--
	}
	for key, n := range want {
		if n != 0 {
			t.Errorf("%q was given %d times less than it should be", key, n)
		}
	}
}
