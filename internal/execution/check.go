package execution

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// Finding is what a check found wrong.
type Finding struct {
	// Divergence says where the code contradicts the log; nil if it does nowhere, and fails where the log says that it
	// completed.
	Divergence *protocol.Divergence
	// Failure is what the code returned, if that was an error.
	Failure *protocol.Failure
}

// Check goes over what is recorded with the code at hand and returns what contradicts each other, nil if nothing does. No
// body runs and nothing is stored: of the settings, Now and Hold count, which is how long it waits for a call that is
// missing. It ends when the code has returned or waits for what is not recorded. The history must have its values in
// place. The error is the cause of the end of ctx.
func Check(ctx context.Context, settings Settings, h *engine.History, instance protocol.Instance, code func(context.Context) (json.RawMessage, error)) (*Finding, error) {
	x := newExecution(ctx, Config{Settings: settings, History: h, Instance: instance, Log: slog.New(slog.DiscardHandler)})
	x.m.Recall()
	x.recall.on, x.recall.checks, x.loaded = true, true, true
	x.launch(code)
	defer x.Drop(ErrEnded)
	select {
	case e := <-x.events:
		return e.Finding, e.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// checked ends a check: nothing moves. x.mu is held.
func (x *Execution) checked() {
	failure := x.recall.failure
	if x.exempt(); x.m.Missing() > 0 {
		d := x.m.Divergence(x.m.Root(), "", "")
		if !x.recall.returned {
			d.Called = &x.recall.at
		}
		x.contradicted(&d, failure)
		return
	}
	if d := x.m.Uncompensated(x.undoable); len(d.Recorded) > 0 {
		x.contradicted(&d, nil)
		return
	}
	if failure != nil && x.History.End == protocol.EntryCompleted {
		x.contradicted(nil, failure)
		return
	}
	x.end(Event{Kind: Finished}, ErrEnded)
}

// contradicted ends a check that found something. x.mu is held.
func (x *Execution) contradicted(d *protocol.Divergence, failure *protocol.Failure) {
	x.end(Event{Kind: Finished, Finding: &Finding{Divergence: d, Failure: failure}}, ErrEnded)
}
