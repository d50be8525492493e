package runner

import (
	"context"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// snapshot stands for the log up to its tail, and for the events up to the control that asks for it. What is too large
// for a message is in an object before the message that refers to it.
func (r *Runner) snapshot(ctx context.Context, h *held, history *engine.History) (protocol.Entry, error) {
	inputs, err := r.inputs(ctx, addressed(h.instance, history), history.CarriedTo+1)
	if err != nil {
		return protocol.Entry{}, err
	}
	e, err := history.Snapshot(append(slices.Clone(history.Carried), inputs...), h.Sequence)
	if err != nil || len(e.Snapshot.History) <= protocol.InlinePayload {
		return e, err
	}
	object, err := r.Objects.Put(ctx, objects.Value{
		Owner: protocol.OwnerOf(h.instance, history.Create.Input), JSON: e.Snapshot.History, Snapshot: true,
	})
	if err != nil {
		return e, fmt.Errorf("snapshot: %w", err)
	}
	return e, history.PutOut(e.Snapshot, object)
}

// fetchSnapshot puts the history of a snapshot in its place that is in an object.
func (r Reader) fetchSnapshot(ctx context.Context, s *protocol.Snapshot) error {
	history, err := r.objects().Get(ctx, r.Project, *s.Object)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	engine.PutIn(s, history)
	return nil
}

func (r Reader) objects() *objects.Store {
	if r.Objects == nil {
		return objects.New(r.Store)
	}
	return r.Objects
}
