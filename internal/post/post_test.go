package post

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/natstest"
	"github.com/skein-run/skein/internal/quiesce"
	"github.com/skein-run/skein/pkg/protocol"
)

// TestNothingIsPostedInQuiet: while a backup looks for a moment nothing is kept, and then it is.
func TestNothingIsPostedInQuiet(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect(t)
	store, err := journal.Open(nc)
	if err != nil {
		t.Fatal(err)
	}
	o := &Office{Store: store, JS: natstest.JetStream(t, nc), Project: "shop", Log: slog.New(slog.DiscardHandler), Gate: &quiesce.Gate{}}
	if _, err := o.Gate.Listen(nc, "shop", o.Log); err != nil {
		t.Fatal(err)
	}
	add := func(id string) {
		t.Helper()
		if err := o.Add(t.Context(), protocol.Door{Owner: "bank", Caller: "shop"}, id, protocol.Post{Kind: protocol.DoorWorkflow, Name: "pay", Op: "end"}); err != nil {
			t.Error(err)
		}
	}
	add("a")
	asked := time.Now()
	// It opens again by itself. A busy machine may not have looked by then: so it is asked again.
	natstest.Eventually(t, natstest.Patience, "the gate is closed", func() bool {
		if err := quiesce.Ask(t.Context(), nc, []string{"shop"}, protocol.MaxQuiesce); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		return errors.Is(o.Gate.Pass(ctx), context.DeadlineExceeded)
	})
	add("b")
	m, err := store.Last(t.Context(), protocol.PostStream("shop"), protocol.PostSubject("shop", "bank", protocol.DoorWorkflow, "pay", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if after := m.Time.Sub(asked); after < protocol.MaxQuiesce {
		t.Errorf("it was stored %s after it was asked for quiet", after)
	}
}
