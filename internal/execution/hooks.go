package execution

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Hooks are what a test kit sets. They are all nil in production, but for Now.
type Hooks struct {
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Body runs an attempt of a step in place of its body.
	Body func(ctx context.Context, a *Attempt, body Body) (json.RawMessage, error)
	// Expires says that a wait for an event is over as it begins.
	Expires func(k protocol.Key) bool
	// Replays says that what ends a park always runs the code from the top, also if it is in memory still: so tests see what
	// code does wrong in a replay.
	Replays bool
	// Stored is told of entries that were stored. If it returns true the execution ends without another word, as if its
	// runner had died.
	Stored func(entries []protocol.Entry) (dies bool)
}

// ErrDied says that the execution was ended by the hook Stored.
var ErrDied = errors.New("the runner died, as a test asked for")

type settingsKey struct{}

// ContextWith hands settings on to the runner that is started with the context.
func ContextWith(ctx context.Context, s Settings) context.Context {
	return context.WithValue(ctx, settingsKey{}, s)
}

// SettingsOf are those that ContextWith handed on, else the defaults.
func SettingsOf(ctx context.Context) Settings {
	s, _ := ctx.Value(settingsKey{}).(Settings)
	return s.WithDefaults()
}
