package turn_test

import (
	"context"
	"testing"

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

type fake struct{ turn.Turn }

func (fake) Source() protocol.Source { return protocol.Source{Kind: "agent", Name: "a"} }

func TestFrom(t *testing.T) {
	t.Parallel()
	if _, ok := turn.From(t.Context()); ok {
		t.Error("From without a turn: got one")
	}
	ctx, cancel := context.WithCancel(turn.With(t.Context(), fake{}))
	defer cancel()
	got, ok := turn.From(ctx)
	if !ok || got.Source().Name != "a" {
		t.Errorf("From(With) = %v, %v, want the turn that was put in", got, ok)
	}
}
