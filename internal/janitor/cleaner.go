package janitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// MinAge is how old messages must be, at least, to be cleaned away: by then nobody has an append under way that does
// not know them (P10).
const MinAge = 24 * time.Hour

// Settings are how a Cleaner works. The zero value has the defaults.
type Settings struct {
	// Age is how old messages are that may be cleaned away. Default MinAge; a test may have a shorter one.
	Age time.Duration
	// Margin is how much later than it has expired an instance is gone for good: no two servers' clocks differ by more.
	// Default 1 h.
	Margin time.Duration
	// Chunk is how many messages go with one purge, at most: a purge holds up who appends. Default 4,096.
	Chunk int
	// Share is how much of what a purge takes must not be needed any more. Default 0.5.
	Share float64
	// Tries is how often the janitor looks whether snapshots are there that it has asked for. Default 30: about 10 s.
	Tries int
	// AtOnce is how many chunks are weighed, and how many are cleaned, before others have their turn. Default 64.
	AtOnce int
}

// withDefaults fills in what is not set.
func (s Settings) withDefaults() Settings {
	return Settings{
		Age: cmp.Or(s.Age, MinAge), Margin: cmp.Or(s.Margin, time.Hour), Chunk: cmp.Or(s.Chunk, 4096), Share: cmp.Or(s.Share, 0.5),
		Tries: cmp.Or(s.Tries, 30), AtOnce: cmp.Or(s.AtOnce, 64),
	}
}

// Floors tells up to where the wakes of a consumer are acked.
type Floors interface {
	// AckFloor is the sequence of its stream up to which a consumer has nothing left to deliver or to ack. A consumer
	// that does not exist is an error.
	AckFloor(ctx context.Context, stream, consumer string) (uint64, error)
}

// Cleaner cleans the stream of one shard of a project. It remembers what it has weighed from one round to the next; nothing
// is lost if it is made anew. It is not safe for concurrent use.
type Cleaner struct {
	Store   *journal.Store
	Floors  Floors
	Project string
	Shard   int
	// Objects has the values that are too large for messages. Nil: there are none.
	Objects  *objects.Store
	Log      *slog.Logger
	Settings Settings
	// Decide is the function Decide, unless a test wants to see what comes of another.
	Decide func(Facts, Horizon) Fate
	// NewID makes the ids of controls. Nil: random ones.
	NewID func() string

	segments []segment
}

func (c *Cleaner) stream() string { return protocol.WorkflowsStream(c.Project, c.Shard) }

func (c *Cleaner) newID() string {
	if c.NewID != nil {
		return c.NewID()
	}
	return uuid.NewString()
}

// Report says what a round did.
type Report struct {
	// Purged is how many messages went, UpTo the newest sequence that was purged.
	Purged int
	UpTo   uint64
	// Carried and Dropped are how many instances were brought over a horizon, and how many went for good.
	Carried, Dropped int
	// More is set if there is more to do at once.
	More bool
	// Unacked is set if a message holds up the cleaning for long.
	Unacked *UnackedError
}

// Round weighs what has become old enough, and cleans the beginning of the stream as far as that is worth it. The error
// is a *HeldUpError if something that is needed cannot be brought away now.
func (c *Cleaner) Round(ctx context.Context) (Report, error) {
	c.Settings = c.Settings.withDefaults()
	var r Report
	state, err := c.Store.State(ctx, c.stream())
	if err != nil || state.Messages == 0 || state.FirstTime.After(state.Now.Add(-c.Settings.Age)) {
		c.segments = nil
		return r, err
	}
	h, err := c.horizon(ctx, state)
	if err != nil {
		return r, err
	}
	if u := h.Unacked; u != nil && u.Stored.Before(state.Now.Add(-2*c.Settings.Age)) {
		r.Unacked = u
	}
	if r.More, err = c.survey(ctx, state, h); err != nil {
		return r, err
	}
	for n := range min(worth(c.segments, state.Now, c.Settings.Share), c.Settings.AtOnce) {
		r.More = r.More || n == c.Settings.AtOnce-1
		if err = c.clean(ctx, c.segments[0], h, &r); err != nil {
			r.More = false
			break
		}
		c.segments = c.segments[1:]
	}
	if r.Purged > 0 {
		c.Log.InfoContext(ctx, "cleaned the log of a project", logkey.Project, c.Project, logkey.Shard, c.Shard, "purged", r.Purged,
			"carried", r.Carried, "dropped", r.Dropped, logkey.Sequence, r.UpTo)
	}
	return r, err
}

// horizon asks what is settled. Whatever cannot be found out forbids to clean.
func (c *Cleaner) horizon(ctx context.Context, state journal.State) (Horizon, error) {
	h := Horizon{Last: state.Last, Settled: state.Last, Expired: state.Now.Add(-c.Settings.Margin)}
	for _, wakes := range []struct{ consumer, subjects string }{
		{protocol.ConsumerWakes(c.Shard), protocol.InputSubjects(c.Project, c.Shard)},
		{protocol.ConsumerControls(c.Shard), protocol.ControlSubjects(c.Project, c.Shard)},
	} {
		floor, first, err := c.floor(ctx, c.stream(), wakes.consumer, wakes.subjects, state.Last)
		if err != nil {
			return h, err
		}
		if first != nil && floor < h.Settled {
			h.Unacked = &UnackedError{Consumer: wakes.consumer, Subject: first.Subject, Sequence: first.Sequence, Stored: first.Time}
		}
		h.Settled = min(h.Settled, floor)
	}
	h.Sequence = h.Settled
	timers := protocol.TimersStream(c.Project)
	state, err := c.Store.State(ctx, timers)
	if err != nil {
		return h, err
	}
	h.SettledTimers, _, err = c.floor(ctx, timers, protocol.ConsumerDue, protocol.DueSubjects(c.Project), state.Last)
	return h, err
}

// floor is the sequence up to which everything is acked that a consumer is for. Its ack floor is that of the newest
// message for it, which may be old: what comes after it and is not for it does not count. First is the one that is not acked.
func (c *Cleaner) floor(ctx context.Context, stream, consumer, subjects string, last uint64) (floor uint64, first *journal.Message, err error) {
	floor, err = c.Floors.AckFloor(ctx, stream, consumer)
	if err != nil {
		return 0, nil, fmt.Errorf("ack floor of consumer %s of %s: %w", consumer, stream, err)
	}
	first, err = c.Store.NextFromLeader(ctx, stream, subjects, floor+1)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return last, nil, nil
	case err != nil:
		return 0, nil, err
	}
	return min(last, first.Sequence-1), first, nil
}

// UnackedError says that nothing can be cleaned away from a message on, because nobody has acknowledged it for long: what it
// asks for may still be to be done.
type UnackedError struct {
	Consumer, Subject string
	Sequence          uint64
	Stored            time.Time
}

func (e *UnackedError) Error() string {
	what := "message " + e.Subject
	if i, class, err := protocol.ParseInstanceSubject(e.Subject); err == nil {
		what = fmt.Sprintf("the %s of instance %s", class, i)
	}
	return fmt.Sprintf("%s, stored at %s under sequence %d, is not acknowledged (consumer %s): a body runs, or no runner can serve it",
		what, e.Stored.UTC().Format(time.RFC3339), e.Sequence, e.Consumer)
}
