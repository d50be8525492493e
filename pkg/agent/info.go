package agent

import (
	"context"
	"log/slog"
	"time"
)

// TurnInfo says which turn of which agent runs.
type TurnInfo struct {
	Project string
	Class   string
	Name    string
	// Life tells this agent from an earlier one of its name, Epoch this stay on a host from others. Both only grow.
	Life  uint64
	Epoch uint64
	// Turn is the number that the turn gets if it is stored.
	Turn uint64
}

// Info says which turn ctx belongs to.
func Info(ctx context.Context) (TurnInfo, error) {
	d, err := anyDraft(ctx)
	if err != nil {
		return TurnInfo{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return TurnInfo{
		Project: d.agent.Project, Class: d.agent.Class, Name: d.agent.Name,
		Life: d.stored.Life, Epoch: d.stored.Epoch, Turn: d.number(),
	}, nil
}

// Moment says which firing of a schedule a callback runs for.
type Moment struct {
	// Schedule is the id of the schedule.
	Schedule string
	// Planned is when it wanted to fire, Actual when this attempt began.
	Planned time.Time
	Actual  time.Time
	// Attempt counts from 1.
	Attempt int
}

// Firing returns the firing that ctx belongs to; false if the turn is not the callback of a schedule.
func Firing(ctx context.Context) (Moment, bool) {
	d, err := anyDraft(ctx)
	if err != nil || d.firing == nil {
		return Moment{}, false
	}
	return *d.firing, true
}

// Logger returns a logger that names the agent and the turn; outside of a turn, one that writes nothing.
func Logger(ctx context.Context) *slog.Logger {
	d, err := anyDraft(ctx)
	if err != nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.logger()
}
