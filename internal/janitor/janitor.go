package janitor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// Options are what a Janitor works with. All but Settings and Every are needed.
type Options struct {
	Store *journal.Store
	JS    jetstream.JetStream
	Log   *slog.Logger
	// ID names this janitor among others.
	ID       string
	Settings Settings
	// Every is how long it is from one look at all projects to the next. Default 5 min, or half of RoundsEvery if that is less.
	Every time.Duration
	// Replicas of the bucket by which janitors share their work, if it is not there.
	Replicas int
	// Rounds looks after the instances of a project, RoundsEvery is how long it rests after that, or nine times as long as it took if that
	// is longer. Nil: nobody does. Default that of the setting doctor_every.
	Rounds      Rounds
	RoundsEvery time.Duration
}

// Rounds has those instances of a project go on that have lost what they need for that.
type Rounds func(ctx context.Context, store *journal.Store, row protocol.Project, log *slog.Logger) error

const (
	// defaultEvery is the time between two looks.
	defaultEvery = 5 * time.Minute
	// restsAfter is how many times as long as a round took it is to the next, at least: it reads all instances.
	restsAfter = 9
	// breath is how long a janitor with much to do leaves the server to others.
	breath = 50 * time.Millisecond
	// tellAgain is after how long what holds up the cleaning of a project is told once more.
	tellAgain = time.Hour
	// sweepEvery is the time between two looks for values that nobody needs, the first comes within firstSweep.
	sweepEvery = 24 * time.Hour
	firstSweep = time.Hour
)

// Janitor cleans up after all projects. Run runs it once.
type Janitor struct {
	Options
	objects  *objects.Store
	projects map[string]*project
}

// project is what a janitor remembers of one.
type project struct {
	// shards are the cleaners of its shards, unacked what holds them up for long, in their order.
	shards  []*Cleaner
	unacked []*UnackedError
	// sweepAt is when it is next looked for values that nobody needs, roundsAt when its instances are next looked after.
	sweepAt, roundsAt time.Time
	// failed is of what could not be done, held of a message that holds up the cleaning.
	failed, held warning
}

// warning is the newest of a kind, and when it was given.
type warning struct {
	text string
	at   time.Time
}

// New makes a Janitor.
func New(o Options) *Janitor {
	o.RoundsEvery = cmp.Or(o.RoundsEvery, time.Duration(process.Defaults().DoctorEvery))
	o.Every = cmp.Or(o.Every, min(defaultEvery, o.RoundsEvery/2))
	return &Janitor{Options: o, objects: objects.New(o.Store), projects: map[string]*project{}}
}

// Run cleans until ctx is done. What fails is tried again at the next look: nobody waits for it.
func (j *Janitor) Run(ctx context.Context) error {
	opts := streams.Options{Replicas: j.Replicas, Log: j.Log}
	if err := streams.EnsureJanitors(ctx, j.JS, opts); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for pause := j.Every / 10; j.Store.Sleep(ctx, pause/2+rand.N(pause)) == nil; pause = j.Every {
		rows, err := streams.Projects(ctx, j.JS)
		if err != nil {
			if ctx.Err() == nil {
				j.Log.WarnContext(ctx, "cannot look after the logs of projects now", logkey.Error, err)
			}
			continue
		}
		for _, row := range rows {
			if len(row.Workflows) > 0 && ctx.Err() == nil {
				j.look(ctx, row)
			}
		}
	}
	return nil
}

// look cleans up after one project, as long as there is much to do and nobody else does it.
func (j *Janitor) look(ctx context.Context, row protocol.Project) {
	p := j.projects[row.Name]
	if p == nil {
		p = &project{sweepAt: time.Now().Add(rand.N(firstSweep)), roundsAt: time.Now().Add(rand.N(j.RoundsEvery))}
		j.projects[row.Name] = p
	}
	var turn []*Cleaner // nil: the first one, which is that of all
	for more := true; more && ctx.Err() == nil; {
		mine, err := j.mine(ctx, row.Name, p.held.text)
		if err != nil {
			p.failed.tell(ctx, j.Log, row.Name, err)
			return
		}
		if !mine {
			p.shards = nil // what it has weighed becomes old
			return
		}
		if len(p.shards) == 0 {
			p.shards, p.unacked = j.cleaners(row), make([]*UnackedError, row.Shards)
		}
		if turn == nil {
			turn = p.shards
		}
		if turn, err = p.round(ctx, turn); err != nil {
			p.failed.tell(ctx, j.Log, row.Name, err)
		}
		if u := p.oldest(); (err == nil || u != nil) && p.holds(ctx, j.Log, row.Name, u) {
			if _, err = j.mine(ctx, row.Name, p.held.text); err != nil {
				return
			}
		}
		more = len(turn) > 0 && j.Store.Sleep(ctx, breath) == nil
	}
	if ctx.Err() != nil || len(p.shards) == 0 {
		return
	}
	j.lookAfter(ctx, row, p)
	if time.Now().Before(p.sweepAt) || ctx.Err() != nil {
		return
	}
	if _, err := Sweep(ctx, p.shards); err != nil {
		p.failed.tell(ctx, j.Log, row.Name, err)
		return
	}
	p.sweepAt = time.Now().Add(sweepEvery)
}

// lookAfter looks after the instances of a project when it is time for that.
func (j *Janitor) lookAfter(ctx context.Context, row protocol.Project, p *project) {
	if j.Rounds == nil || time.Now().Before(p.roundsAt) {
		return
	}
	began := time.Now()
	if err := j.Rounds(ctx, j.Store, row, j.Log); err != nil && ctx.Err() == nil && !errors.Is(err, journal.ErrNoStream) {
		j.Log.WarnContext(ctx, "cannot look after the instances of a project now", logkey.Project, row.Name, logkey.Error, err)
	}
	p.roundsAt = time.Now().Add(max(j.RoundsEvery, restsAfter*time.Since(began)))
}

// cleaners makes those of the shards of a project.
func (j *Janitor) cleaners(row protocol.Project) []*Cleaner {
	all := make([]*Cleaner, row.Shards)
	for shard := range all {
		all[shard] = &Cleaner{
			Store: j.Store, Floors: Consumers{j.JS}, Project: row.Name, Shard: shard, Objects: j.objects, Log: j.Log, Settings: j.Settings,
		}
	}
	return all
}

// round is a Round of each shard whose turn it is. It returns those that have more to do: what holds up one does not hold up
// the others.
func (p *project) round(ctx context.Context, turn []*Cleaner) (more []*Cleaner, err error) {
	for _, c := range turn {
		r, failed := c.Round(ctx)
		p.unacked[c.Shard], err = r.Unacked, errors.Join(err, failed)
		if r.More && failed == nil {
			more = append(more, c)
		}
	}
	return more, err
}

// oldest is of what holds up shards for long what has been there longest; nil if there is nothing.
func (p *project) oldest() (oldest *UnackedError) {
	for _, u := range p.unacked {
		if u != nil && (oldest == nil || u.Stored.Before(oldest.Stored)) {
			oldest = u
		}
	}
	return oldest
}

// tell warns of what holds up the cleaning of a project, and not all the time. A project whose streams are not there yet
// is none of the janitor's business. It returns whether something else holds it up than before.
func (w *warning) tell(ctx context.Context, log *slog.Logger, name string, err error) bool {
	if errors.Is(err, journal.ErrNoStream) || errors.Is(err, nats.ErrConnectionClosed) || ctx.Err() != nil {
		return false
	}
	if w.text == err.Error() && time.Since(w.at) < tellAgain {
		return false
	}
	changed := w.text != err.Error()
	w.text, w.at = err.Error(), time.Now()
	log.WarnContext(ctx, "cannot clean the log of a project now", logkey.Project, name, logkey.Error, err)
	return changed
}

// holds notes which message holds up the cleaning of a project for long, nil: none, and warns of it. It returns whether it is
// another than before.
func (p *project) holds(ctx context.Context, log *slog.Logger, name string, u *UnackedError) bool {
	if u != nil {
		return p.held.tell(ctx, log, name, u)
	}
	changed := p.held.text != ""
	p.held = warning{}
	return changed
}

// Consumers are the Floors of a server.
type Consumers struct{ JS jetstream.JetStream }

// AckFloor asks for the state of a consumer.
func (c Consumers) AckFloor(ctx context.Context, stream, consumer string) (uint64, error) {
	found, err := c.JS.Consumer(ctx, stream, consumer)
	if err != nil {
		return 0, err
	}
	return found.CachedInfo().AckFloor.Stream, nil
}
