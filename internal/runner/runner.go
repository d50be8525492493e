package runner

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/door"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/post"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// Code is a workflow function over its encoded params.
type Code func(ctx context.Context, create protocol.Create) (json.RawMessage, error)

// Config is what a runner needs.
type Config struct {
	execution.Settings
	Reader
	// Code holds the workflow functions by the names under which they are created.
	Code map[string]Code
	// Slots is how many instances execute at a time.
	Slots int
	// Limits, Retention and Concurrency are limits by workflow. What is missing or 0 has the default of pkg/protocol;
	// without a Concurrency, as many instances execute, over all runners, as there are slots.
	Limits      map[string]engine.Limits
	Retention   map[string]protocol.Retention
	Concurrency map[string]int
	// Version is that of the code, which every run records. Empty if it is not known.
	Version string
	// MaxValueSize is the most bytes that a value may have as JSON. Default objects.DefaultLimit.
	MaxValueSize int64
	// Grace is how long it may take at shutdown to hand back all work. Running bodies get three quarters of it to
	// finish. Default 10 s.
	Grace time.Duration
	// Linger is how long a parked execution stays in memory, so that a wake that ends the park finds it there, and a goroutine that
	// nobody counted can revive it. Default 1 s. One of a long-lived instance stays for a minute, if there is room.
	Linger time.Duration
	// GoneAfter is how long the stream of another project must be missing until what was to be said to an instance there
	// is given up. Default 30 s.
	GoneAfter time.Duration
	// Hearing is how long whoever executes an instance may take to answer that it will obey a control. Default 200 ms.
	Hearing time.Duration
	JS      jetstream.JetStream
	Log     *slog.Logger
	// Doors lead to projects that have an account of their own, Post keeps what is to be said there. Nil: there are no such
	// projects, and no door is served.
	Doors *door.Caller
	Post  *post.Office
	// Ready is called when the runner takes work.
	Ready func()
}

const (
	// marksPerWait is how often a held wake is marked in progress while its consumer would wait for that: one may be lost, and the
	// next late. At least every markEvery.
	marksPerWait = 10.0 / 3
	markEvery    = 1500 * time.Millisecond
	// outOfTouch is how long executions go on without contact to the server. The log is cleaned on the promise that
	// no runner comes back after longer.
	outOfTouch = 10 * time.Minute
	// deciders is how many reads are under way at a time.
	deciders = 2
	// retryDelay is how long a wake waits that this runner cannot serve now.
	retryDelay = 5 * time.Second
)

// Runner serves a project. Make it with New.
type Runner struct {
	Config
	ID string
	nc *nats.Conn
	// markEvery is how often held wakes are marked in progress: well below the consumers' ack_wait.
	markEvery time.Duration
	// settles is how long a wake waits for an execution that is about to be parked, before a new run takes its place.
	settles time.Duration
	// queueRoom is how many controls may wait for a slot.
	queueRoom int
	slots     chan struct{}
	// queues are what is known of those that wait for a slot, by workflow.
	queues sync.Map
	// incoming carries wakes to the goroutines that read and decide.
	incoming chan *held
	// stopping ends when the runner takes no more work, stopped when what it had is handed back.
	stopping context.Context
	work     sync.WaitGroup
	appends  atomic.Uint64
	// following are those that were told something of an instance a moment ago.
	following following
	// staying is how many bytes the parked executions have that stay in memory for long.
	staying atomic.Int64
	// listings are statuses of which a part was told a moment ago.
	listings idle[listing, *protocol.Status]

	mu     sync.Mutex
	room   *sync.Cond
	inHand map[protocol.Wake]*held
	taken  [rooms]int // how many of inHand are in each room
	active map[protocol.Instance]*active
	warned map[string]bool
}

// New makes a runner.
func New(c Config) *Runner {
	if c.Grace == 0 {
		c.Grace = 10 * time.Second
	}
	if c.Linger == 0 {
		c.Linger = time.Second
	}
	if c.Objects == nil {
		c.Objects = objects.New(c.Store)
	}
	if c.GoneAfter == 0 {
		c.GoneAfter = 30 * time.Second
	}
	if c.Hearing == 0 {
		c.Hearing = answerSoon
	}
	if c.Folds == nil {
		c.Folds = NewFolds()
	}
	c.Settings = c.Settings.WithDefaults()
	r := &Runner{
		Config: c, ID: "runner-" + uuid.NewString()[:8], nc: c.Store.Conn(), markEvery: markEvery, settles: settlesWithin, queueRoom: queueRoom,
		stopping: context.Background(),
		slots:    make(chan struct{}, c.Slots), incoming: make(chan *held, 4*c.Slots),
		inHand: map[protocol.Wake]*held{}, active: map[protocol.Instance]*active{}, warned: map[string]bool{},
	}
	r.room = sync.NewCond(&r.mu)
	return r
}

// Run serves until ctx ends; then it hands back what it holds and returns nil.
func (r *Runner) Run(ctx context.Context) error {
	stopping, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r.stopping = stopping
	deaf, err := r.listen()
	if err != nil {
		return err
	}
	defer deaf()
	shut, err := r.openDoor()
	if err != nil {
		return err
	}
	defer shut()
	sources, err := r.sources(ctx)
	if err != nil {
		return err
	}
	// What is in hand is worked on, and marked, until it is handed back: beyond ctx.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	var marking errgroup.Group
	marking.Go(func() error { r.mark(work); return nil })
	front, fetching := errgroup.WithContext(stopping)
	for _, s := range sources {
		front.Go(func() error { return r.fetch(fetching, s) })
	}
	for range deciders {
		front.Go(func() error { r.decide(fetching, work); return nil })
	}
	front.Go(func() error { <-fetching.Done(); r.roomAgain(); return nil })
	front.Go(func() error {
		if err := r.checkSlots(fetching); fetching.Err() == nil {
			return err
		}
		return nil // it is done again at the next start; what is in hand has to be handed back
	})
	front.Go(func() error { r.watchTimers(fetching); return nil })
	if r.Post != nil {
		front.Go(func() error { return r.Post.Run(fetching) })
	}
	r.Log.InfoContext(ctx, "runner takes work", logkey.Runner, r.ID)
	if r.Ready != nil {
		r.Ready()
	}
	err = front.Wait()
	deaf()
	shut()
	stop(execution.ErrReleased)
	r.handBack(ctx)
	endWork()
	return errors.Join(err, marking.Wait())
}

// nextID makes the id of an append: the runner's id is fresh in every process.
func (r *Runner) nextID() string { return r.ID + "." + strconv.FormatUint(r.appends.Add(1), 10) }

// source is a durable consumer, and where what it delivers is counted. Those of the shards share the room: none fetches more
// than its part of what is free, so that a long backlog in one shard leaves room for the others, and a runner with many
// shards takes no more away from other runners than one with few.
type source struct {
	jetstream.Consumer
	room  room
	share int
}

// sources finds the durable consumers of the project: they are made when it is registered.
func (r *Runner) sources(ctx context.Context) ([]source, error) {
	var all []source
	find := func(stream, name string, into room, share int) error {
		c, err := streams.Consumer(ctx, r.JS, stream, name)
		if err != nil {
			return err
		}
		if wait := c.CachedInfo().Config.AckWait; wait >= time.Second { // take_over_after is at least that
			r.markEvery = min(r.markEvery, time.Duration(float64(wait)/marksPerWait))
		}
		all = append(all, source{c, into, share})
		return nil
	}
	for shard := range r.Shards {
		stream := protocol.WorkflowsStream(r.Project, shard)
		if err := errors.Join(
			find(stream, protocol.ConsumerWakes(shard), forInputs, r.Shards),
			find(stream, protocol.ConsumerControls(shard), forControls, r.Shards),
		); err != nil {
			return nil, err
		}
	}
	return all, find(protocol.TimersStream(r.Project), protocol.ConsumerDue, forInputs, 1)
}

// handBack returns what nobody decided about, and waits until executions have released what they hold.
func (r *Runner) handBack(ctx context.Context) {
	r.mu.Lock()
	executing := len(r.active)
	r.mu.Unlock()
	r.Log.InfoContext(ctx, "runner hands back its work", logkey.Runner, r.ID, "executing", executing)
	for {
		select {
		case h := <-r.incoming:
			r.work.Go(func() { r.giveBackUntouched(ctx, h) })
		default:
			r.work.Wait()
			return
		}
	}
}

// release gives an execution back at shutdown. When the grace period is over the process ends: by then the body has
// stopped, that is recorded, and the wake has gone back.
func (r *Runner) release(x *execution.Execution) {
	patience, cancel := context.WithTimeoutCause(context.Background(), r.Grace*3/4, execution.ErrReleased)
	defer cancel()
	x.Release(patience, r.Grace/8)
}

// mark tells the server that wakes are being worked on, and drops all work if there is no contact for too long.
func (r *Runner) mark(ctx context.Context) {
	ticker := time.NewTicker(r.markEvery)
	defer ticker.Stop()
	contact := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		wakes := make([]*held, 0, len(r.inHand))
		for _, h := range r.inHand {
			wakes = append(wakes, h)
		}
		r.mu.Unlock()
		for _, h := range wakes {
			h.inProgress()
		}
		if r.nc.FlushTimeout(r.markEvery) == nil {
			contact = time.Now()
		}
		if time.Since(contact) > outOfTouch {
			r.dropAll(execution.ErrOutOfTouch)
		}
	}
}

func (r *Runner) dropAll(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.active {
		go x.Drop(cause)
	}
}
