package execution

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Check goes over what is recorded with the code at hand and returns where the two contradict each other, nil if they do
// not. No body runs and nothing is stored. It ends when the code has returned or waits for what is not recorded; Hold of
// the settings is how long it waits for a call that is missing. The error is the cause of the end of ctx.
func Check(ctx context.Context, settings Settings, h *engine.History, instance protocol.Instance, code func(context.Context) (json.RawMessage, error)) (*protocol.Divergence, error) {
	x := newExecution(ctx, Config{Settings: settings, History: h, Instance: instance, Log: slog.New(slog.DiscardHandler)})
	x.m.Recall()
	x.recall.on, x.recall.checks, x.loaded = true, true, true
	x.launch(code)
	defer x.Drop(ErrEnded)
	select {
	case e := <-x.events:
		return e.Divergence, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// checked ends a check: nothing moves. x.mu is held.
func (x *Execution) checked() {
	e := Event{Kind: Finished}
	if x.exempt(); x.m.Missing() > 0 {
		d := x.m.Divergence(x.m.Root(), "", "")
		if !x.recall.returned {
			d.Called = &x.recall.at
		}
		e.Divergence = &d
	}
	x.end(e, ErrEnded)
}
