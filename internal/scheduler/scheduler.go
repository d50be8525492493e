package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/janitor"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// Parts of the process's health.
const (
	partClock    = "clock"
	partProjects = "projects"
)

// warnSchedules is what the process's health warns of while schedules are late.
const warnSchedules = "schedules"

// warnSpace is what it warns of while NATS has no room.
const warnSpace = "space"

const (
	// parallel is how many messages a scheduler handles at a time, over all projects.
	parallel = 64
	// finishLimit is how long what is being handled may take when the scheduler is told to stop.
	finishLimit = 5 * time.Second
)

// errStopping ends what was not finished within finishLimit.
var errStopping = errors.New("scheduler is stopping")

// Options are what a scheduler works with. NC, JS and Log are needed.
type Options struct {
	NC  *nats.Conn
	JS  jetstream.JetStream
	Log *slog.Logger
	// Health is told when the scheduler takes work. Nil: nobody is.
	Health *process.Health
	// Replicas of the streams that the scheduler makes, if they are not there.
	Replicas int
	// Monitor and Production are as in durability.Options.
	Monitor    string
	Production bool
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
	// Cleaning is how the logs of projects are cleaned, CleanEvery how often it is looked whether there is something to
	// do; 0: the default of package janitor.
	Cleaning   janitor.Settings
	CleanEvery time.Duration
	// Rounds looks after the instances of projects, RoundsEvery is how often; 0: the default of package janitor.
	Rounds      janitor.Rounds
	RoundsEvery time.Duration
	// Metrics takes what the scheduler counts. Nil: nobody does.
	Metrics prometheus.Registerer
	// LateAfter is how long a firing may wait before the health warns, LookEvery how often that is looked at; 0: the
	// default of the setting schedule_late_after, and 5 s.
	LateAfter, LookEvery time.Duration
}

// Scheduler makes schedules come due. Run runs it once.
type Scheduler struct {
	opts   Options
	js     jetstream.JetStream
	log    *slog.Logger
	health *process.Health
	now    func() time.Time
	store  *journal.Store
	// slots bounds what is handled at a time.
	slots chan struct{}
	// shards has the number of shards of the projects for whose workflows something has fired.
	shards sync.Map
	// fired, late and taken are what Stats tells.
	fired, late, taken atomic.Uint64
	metrics            *metrics
	overdue            *overdue
}

// Stats counts what a scheduler did since it was started.
type Stats struct {
	// Fired counts mail put into inboxes and instances started, Late those that were more than 5 s late.
	Fired, Late uint64
	// Taken counts instances that were not started because somebody else had taken the id.
	Taken uint64
}

// New makes a Scheduler.
func New(opts Options) *Scheduler {
	s := &Scheduler{
		opts: opts, js: opts.JS, log: opts.Log, health: opts.Health, now: opts.Now, slots: make(chan struct{}, parallel),
	}
	if s.health == nil {
		s.health = process.NewHealth()
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.metrics, s.overdue = newMetrics(opts.Metrics), newOverdue(s)
	s.health.Warn(warnSchedules, s.overdue.err)
	s.health.Expect(partClock, partProjects)
	return s
}

// Stats returns what was done so far.
func (s *Scheduler) Stats() Stats {
	return Stats{Fired: s.fired.Load(), Late: s.late.Load(), Taken: s.taken.Load()}
}

// Run works until ctx is done; then it takes nothing more, finishes what it handles and hands the rest back. It outlives
// restarts of the server; it returns an error only if it cannot work at all.
func (s *Scheduler) Run(ctx context.Context) error {
	store, err := journal.Open(s.opts.NC)
	if err != nil {
		return err
	}
	store.OnSpace(journal.LogSpace(s.log))
	s.health.Warn(warnSpace, store.Space)
	s.store = store
	err = s.run(ctx)
	stats := s.Stats()
	s.log.InfoContext(ctx, "scheduler ended", slog.Uint64(logkey.Count, stats.Fired), slog.Uint64(logkey.Late, stats.Late))
	if s.opts.NC.IsClosed() {
		return err
	}
	return errors.Join(err, store.Close())
}

func (s *Scheduler) run(ctx context.Context) error {
	if err := s.ensure(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	work, stopWork := finishing(ctx)
	defer stopWork()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.follow(ctx, work, feed{
			stream: protocol.StreamClock, consumer: protocol.ConsumerClock, handle: s.handleDue,
			bound: func() { s.health.Ready(partClock) },
			lost:  func(err error) { s.health.NotReady(partClock, err.Error()) },
		})
	})
	g.Go(func() error { return s.followProjects(ctx, work) })
	g.Go(func() error { return s.overdue.Run(ctx) })
	g.Go(func() error { s.watchFirings(ctx); return nil })
	g.Go(func() error {
		return janitor.New(janitor.Options{
			Store: s.store, JS: s.js, Log: s.log, ID: "scheduler-" + uuid.NewString()[:8], Settings: s.opts.Cleaning, Every: s.opts.CleanEvery,
			Replicas: s.opts.Replicas, Rounds: s.opts.Rounds, RoundsEvery: s.opts.RoundsEvery,
		}).Run(ctx)
	})
	return g.Wait()
}

// watchFirings arms moments again that should have fired and did not, because NATS had no room at that moment.
func (s *Scheduler) watchFirings(ctx context.Context) {
	s.store.WatchFirings(ctx, protocol.StreamClock, protocol.ClockArmSubjects, func(fired int, err error) {
		if err != nil {
			s.log.WarnContext(ctx, "cannot look for moments that have not fired", slog.Any(logkey.Error, err))
			return
		}
		s.log.WarnContext(ctx, "moments were overdue, as after a time when NATS had no room or was down, and were armed again", slog.Int(logkey.Count, fired))
	})
}

// ensure makes the streams that all schedulers share, and tells what they survive.
func (s *Scheduler) ensure(ctx context.Context) error {
	var found durability.Streams
	opts := streams.Options{Replicas: s.opts.Replicas, Log: s.log, Found: found.Add}
	if err := errors.Join(streams.EnsureProjects(ctx, s.js, opts), streams.EnsureClock(ctx, s.js, opts)); err != nil {
		return err
	}
	return durability.Tell(ctx, durability.Options{
		NC: s.opts.NC, Log: s.log, Monitor: s.opts.Monitor, Production: s.opts.Production,
	}, &found)
}

// finishing returns the context of what is being handled: it ends some time after ctx.
func finishing(ctx context.Context) (context.Context, func()) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(finishLimit)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(errStopping)
		case <-work.Done():
		}
	})
	return work, func() {
		stop()
		cancel(nil)
	}
}
