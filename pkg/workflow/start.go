package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/protocol"
)

// startTimeout bounds one attempt to start an instance; a failed one is tried again until it succeeds.
const startTimeout = time.Minute

// Start starts an instance of the workflow that a binding leads to, as a step, and does not wait for it: exactly one,
// whatever crashes. It outlives its parent. Without [ID] its id is derived from the step. The handle is for the bodies of
// steps: what it says is not recorded.
//
// A start that cannot be made (an unknown binding, params that are too large, an id that is taken) makes Start return a
// [*CallError].
func Start[P, R any](ctx context.Context, name string, binding Binding[P, R], params P, options ...CreateOption) (*Instance[R], error) {
	var o createOptions
	for _, option := range options {
		if err := option.applyCreate(&o); err != nil {
			return nil, fmt.Errorf("start %q: %w", name, err)
		}
	}
	scope, p, err := caller(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	bound := binding.In(p)
	step, err := scope.Do(ctx, name, startConfig(), execution.Code{Body: func(ctx context.Context) (json.RawMessage, error) {
		derived := ID(protocol.DerivedID(Info(ctx).ID, Step(ctx).IdempotencyKey))
		instance, err := bound.Create(ctx, params, append([]CreateOption{derived}, options...)...)
		if err != nil {
			return nil, notStarted(bound.target(), err)
		}
		return json.Marshal(started{
			Project: instance.at.Project, Shards: instance.reader.Shards, Workflow: instance.at.Workflow, ID: instance.at.ID,
			Incarnation: instance.incarnation, Origin: instance.origin,
		})
	}})
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	var s started
	if f := step.Error; f != nil {
		_ = json.Unmarshal(f.Details, &s) // without it, nobody knows which one it is about
		return nil, &CallError{Step: name, Project: s.Project, Workflow: s.Workflow, ID: s.ID, Failure: f}
	}
	if err := json.Unmarshal(step.Result, &s); err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	return &Instance[R]{
		at:      protocol.Instance{Project: s.Project, Shard: protocol.Shard(s.ID, s.Shards), Workflow: s.Workflow, ID: s.ID},
		project: p, reader: runner.Reader{Store: p.Journal(), Project: s.Project, Shards: s.Shards, Objects: p.Objects()},
		incarnation: s.Incarnation, origin: s.Origin,
	}, nil
}

func startConfig() protocol.StepConfig {
	return protocol.StepConfig{
		Retries: -1, Delay: protocol.Duration(time.Second), Backoff: engine.BackoffExponential,
		MaxDelay: protocol.Duration(time.Minute), Timeout: protocol.Duration(startTimeout), LostRuns: math.MaxInt32,
	}
}

// started is what a step of [Start] records, or of what it could not start, the names.
type started struct {
	Project     string `json:"project"`
	Shards      int    `json:"shards,omitempty"`
	Workflow    string `json:"workflow"`
	ID          string `json:"id"`
	Incarnation uint64 `json:"incarnation,omitempty"`
	Origin      Origin `json:"origin,omitempty"`
}

// notStarted makes err terminal if no repetition mends it, and says whose the id is that is taken.
func notStarted(project string, err error) error {
	refused := refuse(err)
	r, ok := errors.AsType[*refusal](refused)
	if exists, taken := errors.AsType[*ExistsError](err); ok && taken {
		r.details = started{Project: project, Workflow: exists.Workflow, ID: exists.ID}
	}
	return refused
}

// target is the project that the binding leads to, empty if that is nowhere.
func (b Bound[P, R]) target() string {
	target, err := b.project.Config.Binding(b.name)
	if err != nil {
		return ""
	}
	return target.Project
}
