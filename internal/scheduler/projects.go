package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/pkg/protocol"
)

// watchFor is how long one watch of the registry lasts. The next reads everything again, so that a watch which went
// deaf does no lasting harm.
const watchFor = time.Minute

// projects has the feeds of all projects that have schedules. One goroutine uses it.
type projects struct {
	*Scheduler
	feeds   sync.WaitGroup
	running map[string]*projectFeed
}

type projectFeed struct {
	stop context.CancelFunc
	// tried is closed when the consumer was bound or could not be.
	tried     chan struct{}
	closeOnce sync.Once
}

func (f *projectFeed) wasTried() { f.closeOnce.Do(func() { close(f.tried) }) }

// followProjects follows the schedules of every project that has some, until ctx is done. Those with agents may always.
func (s *Scheduler) followProjects(ctx, work context.Context) error {
	p := &projects{Scheduler: s, running: map[string]*projectFeed{}}
	defer p.feeds.Wait()
	told := false
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := p.watch(ctx, work, func() { told, pause = false, firstPause })
		switch {
		case ctx.Err() != nil:
			return nil
		case s.opts.NC.IsClosed():
			return fmt.Errorf("watch the registry of projects: %w", nats.ErrConnectionClosed)
		case err == nil:
			continue
		}
		if !told && pause > firstPause {
			told = true
			s.log.WarnContext(ctx, "cannot watch the registry of projects, trying on", slog.Any(logkey.Error, err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// watch reads the registry and follows its changes for some time. It returns nil when that has passed.
func (p *projects) watch(ctx, work context.Context, complete func()) error {
	watchCtx, cancel := context.WithTimeout(ctx, watchFor)
	defer cancel()
	kv, err := p.js.KeyValue(watchCtx, protocol.BucketProjects)
	if err != nil {
		return err
	}
	watcher, err := kv.WatchAll(watchCtx)
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Stop() }() // the connection may be gone, and the watch with it
	there := map[string]bool{}
	for initial := true; ; {
		select {
		case <-watchCtx.Done():
			return nil
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok && watchCtx.Err() == nil:
				return errors.New("the watch ended")
			case !ok:
				return nil
			case entry != nil:
				there[entry.Key()] = true
				p.change(ctx, work, entry)
			case initial: // all that was there has come
				initial = false
				p.dropOthers(there)
				p.awaitTried(ctx)
				complete()
			}
		}
	}
}

// change follows a project from now on, or no more.
func (p *projects) change(ctx, work context.Context, entry jetstream.KeyValueEntry) {
	if entry.Operation() != jetstream.KeyValuePut {
		p.drop(entry.Key())
		return
	}
	var row protocol.Project
	err := json.Unmarshal(entry.Value(), &row)
	if err = errors.Join(err, protocol.CheckProject(entry.Key())); err != nil {
		p.log.WarnContext(ctx, "ignored a row of the registry", slog.String(logkey.Project, entry.Key()), slog.Any(logkey.Error, err))
		return
	}
	if !row.Schedules && len(row.Agents) == 0 || p.running[entry.Key()] != nil {
		return
	}
	p.start(ctx, work, entry.Key())
}

func (p *projects) start(ctx, work context.Context, project string) {
	ctx, cancel := context.WithCancel(ctx)
	running := &projectFeed{stop: cancel, tried: make(chan struct{})}
	p.running[project] = running
	p.feeds.Go(func() {
		defer running.wasTried()
		// It ends with an error only if the connection is closed for good, which the watch reports.
		_ = p.follow(ctx, work, feed{
			stream:   protocol.KVStream(protocol.SchedulesBucket(project)),
			consumer: protocol.ConsumerScheduler,
			handle:   func(ctx context.Context, m jetstream.Msg) error { return p.handleRow(ctx, project, m) },
			bound: func() {
				p.log.DebugContext(ctx, "following schedules", slog.String(logkey.Project, project))
				running.wasTried()
			},
			lost: func(error) { running.wasTried() },
		})
	})
}

func (p *projects) drop(project string) {
	if running := p.running[project]; running != nil {
		running.stop()
		delete(p.running, project)
	}
}

func (p *projects) dropOthers(there map[string]bool) {
	for project := range p.running {
		if !there[project] {
			p.drop(project)
		}
	}
}

// awaitTried makes the scheduler ready once it follows what can be followed. A project whose streams are missing does
// not hold it up.
func (p *projects) awaitTried(ctx context.Context) {
	for _, running := range p.running {
		select {
		case <-running.tried:
		case <-ctx.Done():
			return
		}
	}
	p.health.Ready(partProjects)
}
