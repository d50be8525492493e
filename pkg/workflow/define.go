package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/pkg/protocol"
)

// Event is what a workflow function is started with.
type Event[P any] struct {
	// Payload is the params that the creator gave.
	Payload P
	// InstanceID and Workflow name the instance.
	InstanceID string
	Workflow   string
	// Timestamp is when the instance was created. It is the same in every run.
	Timestamp time.Time
	// Schedule is set if a schedule of skein.jsonc has started the instance.
	Schedule *Schedule
}

// Definition is a workflow function with the class name under which skein.jsonc knows it. Make it with [Define].
type Definition struct {
	class string
	code  runner.Code
}

// Class is the name that "class_name" in skein.jsonc refers to.
func (d Definition) Class() string { return d.class }

// Define makes a workflow of a function. Params and result travel as JSON.
//
// What the function returns ends the instance: a result as complete, an error (or panic) as errored. Params that do
// not decode into P end it as errored, too.
func Define[P, R any](class string, run func(ctx context.Context, event Event[P]) (R, error)) Definition {
	if run == nil {
		return Definition{class: class}
	}
	code := func(ctx context.Context, create protocol.Create) (json.RawMessage, error) {
		event := Event[P]{InstanceID: create.ID, Workflow: create.Workflow, Timestamp: create.Created, Schedule: scheduleOf(create)}
		scope, err := execution.From(ctx)
		if err != nil {
			return nil, err
		}
		params, err := scope.Fetch(ctx, create.Params, create.ParamsObject)
		if err != nil {
			return nil, err
		}
		if len(params) > 0 {
			if err := json.Unmarshal(params, &event.Payload); err != nil {
				return nil, &EncodingError{What: "params of " + create.Workflow, Err: err}
			}
		}
		result, err := run(ctx, event)
		if err != nil {
			return nil, err
		}
		return encode(result, fmt.Sprintf("result of workflow %q", create.Workflow), scope.MaxValue())
	}
	return Definition{class: class, code: code}
}

// encode turns a value into JSON of at most limit bytes.
func encode(v any, what string, limit int64) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, &EncodingError{What: what, Err: err}
	}
	if size := int64(len(raw)); size > limit {
		return nil, &SizeError{What: what, Size: size, Limit: limit, Setting: process.SettingMaxValueSize}
	}
	return raw, nil
}

func decode[T any](raw json.RawMessage, what string) (T, error) {
	var v T
	if len(raw) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, &EncodingError{What: what, Err: err}
	}
	return v, nil
}
