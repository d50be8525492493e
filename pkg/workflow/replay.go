package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Divergence names both sides where code contradicts what is recorded.
type Divergence = protocol.Divergence

// Replay goes over an exported history with the code at hand, as a runner does that takes the instance: nil says that
// instances like this one can go on with it. No body of a step runs, nothing is stored, and no server is needed. It ends
// where the code has returned or comes to what is not recorded; the clock stands at the last recorded moment.
//
// A [*DivergenceError] names both sides. A contradiction takes 5 seconds to show: a goroutine might still be about to
// make the call that is missing. It is an error, too, if the code fails where the history says that it completed.
//
// If the code neither returns nor calls anything, Replay returns when ctx ends.
func Replay(ctx context.Context, definition Definition, history History) error {
	if history.Create.ID == "" || history.Sequence == 0 {
		return errors.New("replay: this is no history: export one with Instance.Export or skein workflows export")
	}
	h, err := engine.Exported(history, func(*protocol.Snapshot) error { return engine.ErrSnapshot })
	if err == nil {
		err = h.Inline(history.Value)
	}
	if err != nil {
		return fmt.Errorf("replay instance %q of workflow %q: %w", history.Create.ID, history.Create.Workflow, err)
	}
	settings := execution.SettingsOf(ctx)
	settings.Hooks = execution.Hooks{Now: func() time.Time { return lastMoment(history) }}
	offline := project.Offline(project.Config{Name: history.Project})
	at := protocol.Instance{Project: history.Project, Shard: history.Shard, Workflow: history.Create.Workflow, ID: history.Create.ID}
	finding, err := execution.Check(ctx, settings, h, at, func(ctx context.Context) (json.RawMessage, error) {
		return definition.code(project.With(ctx, offline), h.Create)
	})
	if err != nil {
		return fmt.Errorf("replay instance %q of workflow %q: %w", at.ID, at.Workflow, err)
	}
	if finding == nil {
		return nil
	}
	return &DivergenceError{
		Workflow: at.Workflow, ID: at.ID, Version: h.Version(), Divergence: finding.Divergence, Failure: finding.Failure,
	}
}

// lastMoment is when the newest message of a history was written.
func lastMoment(h History) time.Time {
	if len(h.Log) == 0 {
		return h.Create.Created
	}
	return h.Log[len(h.Log)-1].Append.Time
}

// DivergenceError says where code contradicts the history of an instance.
type DivergenceError struct {
	Workflow, ID string
	// Version is that of the code of the newest run that the history holds; empty if it is not known.
	Version string
	// Divergence has both sides. It is nil if all steps agree: then the code fails where the history says that it
	// completed.
	*Divergence
	// Failure is what the code returned, nil if that was no error.
	Failure *Failure
}

func (e *DivergenceError) Error() string {
	version := ""
	if e.Version != "" {
		version = fmt.Sprintf(", recorded by version %q", e.Version)
	}
	what := ""
	if e.Divergence != nil {
		what = engine.Contradiction(*e.Divergence, e.Failure)
	} else {
		what = "it completed, but now the code fails: " + e.Failure.Message
	}
	return fmt.Sprintf("instance %q of workflow %q%s: %v: %s", e.ID, e.Workflow, version, ErrDivergence, what)
}

// Unwrap makes errors.Is(err, ErrDivergence) true.
func (e *DivergenceError) Unwrap() error { return ErrDivergence }
