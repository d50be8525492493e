package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/logkey"
)

const (
	// held is how many messages of one consumer a scheduler holds at a time, those included that wait for a slot.
	held = parallel
	// heartbeat is how often the server says that a pull still stands. Two that are missing end the session.
	heartbeat  = time.Second
	pullExpiry = 10 * time.Second
	bindLimit  = 5 * time.Second
	// handleLimit bounds one try; after it the message goes back to the server, which keeps it better than we do.
	handleLimit = 5 * time.Second
	firstPause  = 50 * time.Millisecond
	longPause   = 2 * time.Second
	// firstReturn and longReturn are how long a message whose handling failed stays away.
	firstReturn = 100 * time.Millisecond
	longReturn  = time.Minute
	// longBehind is the longest that a row stays away which waits for a firing: nothing has failed, and until it is looked at again its
	// schedule may have nothing armed.
	longBehind = 3 * time.Second
	// longEarly is the longest that a firing which came early stays away; then it is looked at again.
	longEarly = time.Hour
)

// feed is a durable consumer and what is done with its messages.
type feed struct {
	stream, consumer string
	// handle returns nil if the message can be acked.
	handle func(context.Context, jetstream.Msg) error
	// bound is called when messages can come, lost when they cannot.
	bound func()
	lost  func(error)
}

// follow hands the messages of a feed to its handler until ctx is done. It returns an error only if the connection was
// closed for good.
func (s *Scheduler) follow(ctx, work context.Context, f feed) error {
	told := false
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := s.session(ctx, work, f, func() {
			if told {
				s.log.InfoContext(ctx, "following again", slog.String(logkey.Stream, f.stream))
			}
			told, pause = false, firstPause
			f.bound()
		})
		if ctx.Err() != nil {
			return nil
		}
		f.lost(err)
		if s.opts.NC.IsClosed() {
			return fmt.Errorf("follow %s: %w", f.stream, nats.ErrConnectionClosed)
		}
		if !told && pause > firstPause { // a session that was interrupted once is not worth a line
			told = true
			s.log.WarnContext(ctx, "cannot follow, trying on", slog.String(logkey.Stream, f.stream),
				slog.String(logkey.Consumer, f.consumer), slog.Any(logkey.Error, err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// session follows a feed until ctx is done or the consumer fails, and waits for everything it handles.
func (s *Scheduler) session(ctx, work context.Context, f feed, bound func()) error {
	bindCtx, cancel := context.WithTimeout(ctx, bindLimit)
	defer cancel()
	consumer, err := s.js.Consumer(bindCtx, f.stream, f.consumer)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(held/2), jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer messages.Stop()
	bound()
	h := newHolder(consumer.CachedInfo().Config.AckWait / 4)
	defer h.close()
	last, release := draining(ctx, messages)
	defer release()
	for {
		m, err := messages.Next(jetstream.NextContext(last))
		if err != nil {
			return err
		}
		if !h.take(ctx, m, func() { s.handleOne(work, f, m) }) {
			s.returned(work, m, m.Nak())
		}
	}
}

// draining stops the pull when ctx is done. What was sent until then still comes out of messages; the context that it
// returns ends if that takes too long.
func draining(ctx context.Context, messages jetstream.MessagesContext) (context.Context, func()) {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		messages.Drain()
		timer := time.NewTimer(finishLimit)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-last.Done():
		}
	})
	return last, func() {
		stop()
		cancel()
	}
}

// handleOne handles a message as soon as there is a slot, and acks or returns it.
func (s *Scheduler) handleOne(work context.Context, f feed, m jetstream.Msg) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-work.Done():
		s.returned(work, m, m.Nak())
		return
	}
	ctx, cancel := context.WithTimeout(work, handleLimit)
	defer cancel()
	err := f.handle(ctx, m)
	if err == nil {
		s.returned(work, m, m.Ack())
		return
	}
	if early, ok := errors.AsType[*notYet](err); ok {
		s.returned(work, m, m.NakWithDelay(min(early.wait, longEarly)))
		return
	}
	tries := uint64(1)
	if meta, metaErr := m.Metadata(); metaErr == nil {
		tries = meta.NumDelivered
	}
	s.log.Log(ctx, s.failureLevel(work, tries), "handling failed, trying again", slog.String(logkey.Subject, m.Subject()),
		slog.Uint64(logkey.Attempt, tries), slog.Any(logkey.Error, err))
	s.returned(work, m, m.NakWithDelay(returnAfter(tries)))
}

// failureLevel keeps a message that fails again and again from filling the log. Without a connection everything fails,
// which the connection tells once.
func (s *Scheduler) failureLevel(work context.Context, tries uint64) slog.Level {
	if work.Err() != nil || !s.opts.NC.IsConnected() || tries > 1 && tries%10 != 0 {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func returnAfter(tries uint64) time.Duration {
	return min(firstReturn<<min(tries, 10), longReturn)
}

// returned is told how an ack or return went. One that is lost lets the message come again, which does no harm.
func (s *Scheduler) returned(ctx context.Context, m jetstream.Msg, err error) {
	if err != nil {
		s.log.DebugContext(ctx, "message will come again", slog.String(logkey.Subject, m.Subject()), slog.Any(logkey.Error, err))
	}
}
