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
			t.Fatal(err)
		}
	}
	add("a")
	if err := quiesce.Ask(t.Context(), nc, []string{"shop"}, protocol.MaxQuiesce); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, natstest.Patience, "the gate is closed", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		return errors.Is(o.Gate.Pass(ctx), context.DeadlineExceeded)
	})
	added := make(chan struct{})
	go func() { defer close(added); add("b") }()
	if err := o.Gate.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	opened := time.Now()
	<-added
	m, err := store.Last(t.Context(), protocol.PostStream("shop"), protocol.PostSubject("shop", "bank", protocol.DoorWorkflow, "pay", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if early := opened.Sub(m.Time); early > time.Millisecond {
		t.Errorf("it was stored %s before the gate was open", early)
	}
}
