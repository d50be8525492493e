// Package replicas changes how many copies of its streams a cluster keeps, beside what works, and waits until they are there.
//
// It must never change anything else of a stream, and never count a copy before it has all that the stream holds.
package replicas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/protocol"
)

// Options say what is changed. JS, Store and Replicas are needed.
type Options struct {
	JS    jetstream.JetStream
	Store *journal.Store
	// Replicas is 1, 3 or 5.
	Replicas int
	// Projects are those whose streams are changed, with those that all projects share; none: all that there are.
	Projects []string
	// Fewer allows that a stream has fewer copies afterwards. All processes of Skein have to be stopped then.
	Fewer bool
	// Found is called with each stream as it is in the end. Nil: nobody is.
	Found func(*jetstream.StreamInfo)
	// Progress is called with what is waited for, again and again, and how many streams are done. Nil: nobody is told.
	Progress func(what string, done, of int)
	// Patience is for how long nothing may change about what a stream lacks. Default 2 min.
	Patience time.Duration
}

// StuckError says that a copy is not made, and nothing changes about it.
type StuckError struct {
	Stream, Lacking string
	For             time.Duration
	Done, Of        int
}

func (e *StuckError) Error() string {
	return fmt.Sprintf("stream %q: for %s nothing has changed about this: %s; %d of %d streams are done", e.Stream, e.For, e.Lacking, e.Done, e.Of)
}

// Hint says what to do about it.
func (e *StuckError) Hint() string {
	return "see that all servers of the cluster run, reach each other and have room (`nats server report jetstream`; `nats stream info` and `nats consumer info` tell who leads, `nats stream cluster step-down` has another one lead), then repeat the command: it goes on with the streams that are left"
}

// FewerError says that streams would have fewer copies.
type FewerError struct {
	Stream string
	Has    int
	Wanted int
}

func (e *FewerError) Error() string {
	return fmt.Sprintf("stream %q has %d replicas, %d are fewer", e.Stream, e.Has, e.Wanted)
}

// Hint says what to do about it.
func (e *FewerError) Hint() string {
	return "stop all processes of Skein first, and add --fewer: what is stored then survives the loss of fewer servers"
}

// BusyError says that processes work with a stream that would have fewer copies.
type BusyError struct {
	Stream, Consumer string
	Waiting          int
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("stream %q: %d pulls wait at consumer %q: processes of Skein work with it", e.Stream, e.Waiting, e.Consumer)
}

// Hint says what to do about it.
func (e *BusyError) Hint() string {
	return "fewer copies are only made while nothing works: stop all runners, hosts and schedulers, wait half a minute if some were killed, and repeat this"
}

// ServersError says that there are too few servers, or no cluster.
type ServersError struct {
	Wanted int
	Err    error
}

func (e *ServersError) Error() string {
	return fmt.Sprintf("%d replicas: there are not as many servers that have room for them: %v", e.Wanted, e.Err)
}

// Unwrap gives what the server said.
func (e *ServersError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *ServersError) Hint() string {
	return fmt.Sprintf("a cluster of %d servers with JetStream is needed; one server that is no cluster does not become one: see \"Growing\" in docs/operations.md", e.Wanted)
}

const (
	// poll is how often it is asked whether copies are there.
	poll = 200 * time.Millisecond
	// sideBySide is how many streams are changed at once: most of the time, some seconds for each, they wait for who leads to be elected.
	sideBySide = 8
	patience   = 2 * time.Minute
)

// Scale changes the replicas of all streams: of the first one, which shows whether there are enough servers, then of some at a time.
// Consumers follow their streams. What is done stays if it breaks off; then it can be repeated. It returns the names of the streams.
func Scale(ctx context.Context, o Options) ([]string, error) {
	all, err := find(ctx, o)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Config.Name)
		if s.Config.Replicas > o.Replicas && !o.Fewer {
			return nil, &FewerError{Stream: s.Config.Name, Has: s.Config.Replicas, Wanted: o.Replicas}
		}
	}
	for _, s := range all {
		if s.Config.Replicas <= o.Replicas {
			continue
		}
		if err := o.idle(ctx, s.Config.Name); err != nil {
			return nil, err
		}
	}
	if err := o.scaleAll(ctx, all); err != nil {
		return nil, err
	}
	return names, o.refire(ctx, all)
}

func (o Options) scaleAll(ctx context.Context, all []*jetstream.StreamInfo) error {
	w := &work{Options: o, of: len(all)}
	if err := w.scale(ctx, all[0]); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sideBySide)
	for _, s := range all[1:] {
		group.Go(func() error { return w.scale(ctx, s) })
	}
	return group.Wait()
}

// work is how far the streams are.
type work struct {
	Options
	of int

	mu   sync.Mutex // guards what follows, and calls of Found and Progress
	done int
}

// tell tells what is waited for, and returns how many streams are done.
func (w *work) tell(what string) (done int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Progress != nil {
		w.Progress(what, w.done, w.of)
	}
	return w.done
}

func (w *work) has(s *jetstream.StreamInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done++
	if w.Found != nil {
		w.Found(s)
	}
}

// overdue is how late a firing must be to be looked after.
const overdue = 3 * time.Second

// refire has fire what came due while the leader of its stream changed: that never fires by itself (nats-server 2.15.2).
func (o Options) refire(ctx context.Context, all []*jetstream.StreamInfo) error {
	if err := ctxtime.Sleep(ctx, overdue); err != nil {
		return err
	}
	for _, s := range all {
		kind, project, _ := protocol.ParseStream(s.Config.Name)
		var subjects string
		switch kind {
		case protocol.KindTimers:
			subjects = protocol.ArmSubjects(project)
		case protocol.KindClock:
			subjects = protocol.ClockArmSubjects
		default:
			continue
		}
		if _, err := o.Store.Refire(ctx, s.Config.Name, subjects, time.Now().Add(-overdue)); err != nil {
			return fmt.Errorf("look for what has not fired in stream %q: %w", s.Config.Name, err)
		}
	}
	return nil
}

// find lists the streams, those with the most copies last: too few servers show at the first one.
func find(ctx context.Context, o Options) (all []*jetstream.StreamInfo, err error) {
	list := o.JS.ListStreams(ctx)
	known := map[string]bool{}
	for info := range list.Info() {
		_, project, ok := protocol.ParseStream(info.Config.Name)
		known[project] = known[project] || ok
		if ok && (project == "" || len(o.Projects) == 0 || slices.Contains(o.Projects, project)) {
			all = append(all, info)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	for _, project := range o.Projects {
		if !known[project] {
			return nil, fmt.Errorf("project %q: has no streams here", project)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("there are no projects here")
	}
	slices.SortFunc(all, func(a, b *jetstream.StreamInfo) int {
		if a.Config.Replicas != b.Config.Replicas {
			return a.Config.Replicas - b.Config.Replicas
		}
		return strings.Compare(a.Config.Name, b.Config.Name)
	})
	return all, nil
}

// idle makes sure that nobody waits for what a stream brings. Who has as much as it can take does not wait, so this is no proof.
func (o Options) idle(ctx context.Context, name string) error {
	s, err := o.JS.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("stream %q: %w", name, err)
	}
	list := s.ListConsumers(ctx)
	for c := range list.Info() {
		if c.Config.Durable != "" && c.NumWaiting > 0 {
			return &BusyError{Stream: name, Consumer: c.Name, Waiting: c.NumWaiting}
		}
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("consumers of stream %q: %w", name, err)
	}
	return nil
}

func (w *work) scale(ctx context.Context, s *jetstream.StreamInfo) error {
	name, limit := s.Config.Name, cmp.Or(w.Patience, patience)
	done := w.tell("streams; now " + name)
	set, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch err := streams.SetReplicas(set, w.JS, name, w.Replicas); {
	case errors.Is(err, streams.ErrTooFewServers):
		return &ServersError{Wanted: w.Replicas, Err: err}
	case err != nil && set.Err() != nil && ctx.Err() == nil:
		return &StuckError{Stream: name, Lacking: err.Error(), For: patience, Done: done, Of: w.of}
	case err != nil:
		return err
	}
	was := ""
	for since := time.Now(); ; {
		found, lacking, err := w.lacking(ctx, name)
		if err == nil && lacking == "" {
			w.has(found)
			return nil
		}
		if err != nil {
			lacking = err.Error() // while a leader is elected
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stream %q: %w, while %s", name, context.Cause(ctx), lacking)
		}
		if lacking != was {
			was, since = lacking, time.Now()
		}
		done := w.tell("streams; of " + name + " " + lacking)
		if time.Since(since) > limit {
			return &StuckError{Stream: name, Lacking: lacking, For: limit, Done: done, Of: w.of}
		}
		if err := ctxtime.Sleep(ctx, poll); err != nil {
			return fmt.Errorf("stream %q: %w, while %s", name, err, lacking)
		}
	}
}

// lacking says which copy of a stream, or of one of its consumers, is not there yet; empty: none, then the stream is found.
func (w *work) lacking(ctx context.Context, name string) (found *jetstream.StreamInfo, lacking string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := w.JS.Stream(ctx, name)
	if err != nil {
		return nil, "", err
	}
	info := s.CachedInfo()
	if why := behind("the stream", info.Cluster, w.Replicas); why != "" {
		return nil, why, nil
	}
	list := s.ListConsumers(ctx)
	for c := range list.Info() {
		if c.Config.Durable == "" {
			continue
		}
		if why := behind("consumer "+c.Name, c.Cluster, w.Replicas); why != "" {
			return nil, why, nil
		}
	}
	if err := list.Err(); err != nil {
		return nil, "", err
	}
	return info, "", nil
}

func behind(what string, c *jetstream.ClusterInfo, replicas int) string {
	if c == nil {
		if replicas > 1 {
			return what + " is on one server"
		}
		return ""
	}
	if c.Leader == "" {
		return what + " has no leader"
	}
	if 1+len(c.Replicas) != replicas {
		return fmt.Sprintf("%s has %d copies", what, 1+len(c.Replicas))
	}
	for _, r := range c.Replicas {
		if !r.Current || r.Offline {
			return fmt.Sprintf("%s is not whole on server %s, which is %d behind", what, r.Name, r.Lag)
		}
	}
	return ""
}
