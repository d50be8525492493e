package quiesce

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestGate: a gate is closed for as long as is asked, at most for MaxQuiesce, and then open for half as long at least.
func TestGate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		asked, after time.Duration // again, after so long
		passed       time.Duration
		again        bool
	}{
		{name: "for as long as is asked", asked: 200 * time.Millisecond, passed: 200 * time.Millisecond, after: 299 * time.Millisecond},
		{name: "again after half as long", asked: 200 * time.Millisecond, passed: 200 * time.Millisecond, after: 300 * time.Millisecond, again: true},
		{name: "two seconds at most", asked: time.Hour, passed: protocol.MaxQuiesce, after: 3*time.Second - 1},
		{name: "nothing", asked: 0, again: true},
		{name: "less than nothing", asked: -time.Second, again: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var g Gate
				began := time.Now()
				if closed := g.hold(tt.asked); closed != (tt.asked > 0) {
					t.Errorf("it closes: %v", closed)
				}
				if err := g.Pass(t.Context()); err != nil || time.Since(began) != tt.passed {
					t.Errorf("passed after %s, %v", time.Since(began), err)
				}
				if err := ctxtime.Sleep(t.Context(), tt.after-time.Since(began)); err != nil {
					t.Fatal(err)
				}
				if again := g.hold(time.Millisecond); again != tt.again {
					t.Errorf("it closes again: %v", again)
				}
			})
		})
	}
}

// TestWhoGoesDoesNotWait: the end of a context ends the wait, and no gate is an open one.
func TestWhoGoesDoesNotWait(t *testing.T) {
	t.Parallel()
	var none *Gate
	if err := none.Pass(t.Context()); err != nil {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) { // or the gate may be open again
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		var g Gate
		g.hold(time.Second)
		if err := g.Pass(ctx); !errors.Is(err, gone) {
			t.Errorf("passed: %v", err)
		}
	})
}

// TestAsk: who listens to a project closes its gate, for what can be read; who listens to another one does not.
func TestAsk(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect(t)
	gates := map[string]*Gate{"shop": {}, "bank": {}, "mill": {}}
	for project, g := range gates {
		if _, err := g.Listen(nc, project, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil { // or who asks may come first
		t.Fatal(err)
	}
	asks := server.Connect(t)
	if err := asks.Publish(protocol.QuiesceSubject("shop"), []byte("quiet, please")); err != nil {
		t.Fatal(err)
	}
	if err := Ask(t.Context(), asks, []string{"shop", "bank"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, project := range []string{"shop", "bank"} {
		natstest.Eventually(t, natstest.Patience, "the gate of "+project+" has been closed", func() bool {
			return !gates[project].closedUntil().IsZero()
		})
	}
	if at := gates["mill"].closedUntil(); !at.IsZero() {
		t.Errorf("the gate of who was not asked is closed until %s", at)
	}
}
