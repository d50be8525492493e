package execution

import (
	"context"
	"encoding/json"
	"strings"
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
				natstest.Eventually(t, natstest.Patience, "both starts are stored", func() bool {
					return r.has(protocol.EntryStarted, "long") && r.has(protocol.EntryStarted, "short")
				})
				return nil, nil
			})
		})
		return nil, g.Wait()
	})
	natstest.Eventually(t, natstest.Patience, "the short step's result is stored", func() bool {
		return r.has(protocol.EntryStepCompleted, "short")
	})
	close(finish)
	r.event(x, Finished)
}

// TestWhatNoLogCanHold: an instance with an entry that can never be stored ends, instead of being tried for ever.
func TestWhatNoLogCanHold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		bad  func(ctx context.Context) error
	}{
		{"too large", func(ctx context.Context) error {
			s, err := From(ctx)
			if err != nil {
				return err
			}
			_, err = s.Value("bad", func() json.RawMessage { return json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`) })
			return err
		}},
		{"no JSON", func(ctx context.Context) error {
			return do(ctx, "bad", func(context.Context) (json.RawMessage, error) { return json.RawMessage(`{`), nil })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			x := r.start(Settings{}, func(ctx context.Context) (json.RawMessage, error) {
				if err := do(ctx, "fine", nothing); err != nil {
					return nil, err
				}
				if err := tt.bad(ctx); err != nil {
					return nil, err
				}
				return nil, do(ctx, "never", nothing)
			})
			e := r.event(x, Finished)
			if e.Done.State != protocol.StateErrored || e.Done.Error == nil || e.Done.Error.Name != protocol.FailureEncoding {
				t.Errorf("announced is %+v", e.Done)
			}
			all := r.entries()
			if last := all[len(all)-1]; last.Kind != protocol.EntryFailed || !r.has(protocol.EntryStepCompleted, "fine") || r.has(protocol.EntryStarted, "never") {
				t.Errorf("the log holds %+v", all)
			}
		})
	}
}
