package workflow

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/execution"
)

// Now is the time, recorded: the same in every run. Outside of workflow code, bodies of steps included, it is the wall
// clock's.
func Now(ctx context.Context) time.Time {
	return recorded(ctx, "now", func() time.Time {
		if scope := execution.Enclosing(ctx); scope != nil {
			return scope.Execution().Now().UTC()
		}
		return time.Now().UTC()
	})
}

// NewID is a random UUID, recorded: the same in every run. Outside of workflow code it is a new one at each call.
func NewID(ctx context.Context) string {
	return recorded(ctx, "id", uuid.NewString)
}

// Random is a random number from 0 to below 1, recorded: the same in every run. Outside of workflow code it is a new one
// at each call. It is not for secrets: who may read the project's stream sees it.
func Random(ctx context.Context) float64 {
	return recorded(ctx, "random", rand.Float64)
}

func recorded[T any](ctx context.Context, kind string, produce func() T) T {
	scope, err := execution.From(ctx)
	if err != nil {
		return produce()
	}
	raw, err := scope.Value(kind, func() json.RawMessage {
		raw, err := json.Marshal(produce())
		if err != nil {
			panic(err) // a time, a string or a number
		}
		return raw
	})
	var v T
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		panic(err) // a goroutine of the caller's own raced it for a value: the run cannot be repeated
	}
	return v
}

// Logger is a logger that knows the instance and is silent while the code goes over what is recorded, so that every
// line appears once. Outside of a workflow it is slog.Default.
func Logger(ctx context.Context) *slog.Logger {
	scope := execution.Enclosing(ctx)
	if scope == nil {
		return slog.Default()
	}
	return slog.New(quiet{scope.Execution().Logger().Handler(), scope})
}

// quiet drops what is logged during replay.
type quiet struct {
	slog.Handler
	scope *execution.Scope
}

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return !q.scope.Replaying() && q.Handler.Enabled(ctx, level)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.scope}
}
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.scope} }

// Info names the instance that ctx belongs to, in workflow code and in bodies of steps; elsewhere it is zero.
func Info(ctx context.Context) InstanceInfo {
	scope := execution.Enclosing(ctx)
	if scope == nil {
		return InstanceInfo{}
	}
	i := scope.Execution().Instance
	info := InstanceInfo{Project: i.Project, Workflow: i.Workflow, ID: i.ID}
	if t := scope.Execution().History.Create.Tracker; t != nil {
		info.Agent = AgentInfo{Project: t.Project, Class: t.Class, Name: t.Name}
	}
	return info
}

// InstanceInfo names an instance.
type InstanceInfo struct {
	Project, Workflow, ID string
	// Agent is who has started it with agent.RunWorkflow; zero if nobody.
	Agent AgentInfo `json:",omitzero"`
}

// AgentInfo names an agent.
type AgentInfo struct{ Project, Class, Name string }
