package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/pkg/protocol"
)

// Refire publishes again, unchanged, what a stream has under subjects and should have fired before a moment, and returns how
// many those were. A server that refuses to store what a schedule fires, because it has no room, never tries again by itself until it is
// restarted or another leads (nats-server 2.15.2); a schedule that is published again fires at once. It is harmless if it has fired
// meanwhile, or was replaced: then nothing is published. It rests after each page for as long as that took.
func (s *Store) Refire(ctx context.Context, stream, subjects string, before time.Time) (fired int, err error) {
	const page = 256
	for from := uint64(1); ; {
		began := time.Now()
		messages, more, err := s.Page(ctx, stream, subjects, from, page)
		if err != nil {
			return fired, fmt.Errorf("look for what has not fired: %w", err)
		}
		for _, m := range messages {
			from = m.Sequence + 1
			if at, ok := firesAt(&m); !ok || !at.Before(before) {
				continue
			}
			switch err := s.fireAgain(ctx, stream, &m); {
			case err == nil:
				fired++
			case !errors.Is(err, ErrConflict):
				return fired, fmt.Errorf("publish again what has not fired: %w", err)
			}
		}
		if !more {
			return fired, nil
		}
		if err := ctxtime.Sleep(ctx, time.Since(began)); err != nil {
			return fired, err
		}
	}
}

// firesAt is when a stored schedule fires. ok is false for what is none, or no single moment.
func firesAt(m *Message) (at time.Time, ok bool) {
	text, ok := strings.CutPrefix(m.Header.Get(protocol.HeaderSchedule), "@at ")
	if !ok {
		return at, false
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return at, err == nil
}

func (s *Store) fireAgain(ctx context.Context, stream string, m *Message) error {
	header := nats.Header{protocol.HeaderRollup: {protocol.RollupSubject}}
	for _, name := range []string{protocol.HeaderSchedule, protocol.HeaderScheduleTarget} {
		header[name] = m.Header[name]
	}
	_, err := s.AppendWith(ctx, stream, m.Subject, m.Sequence, header, m.Data)
	return err
}

// WatchFirings calls Refire when it begins, whenever there is room again after there was none, and every ten minutes, until ctx ends:
// others may have seen that there was no room. told is called with how many were published again, if any, or why that cannot be known.
func (s *Store) WatchFirings(ctx context.Context, stream, subjects string, told func(fired int, err error)) {
	const (
		look, often = 5 * time.Second, 10 * time.Minute
		// overdue is how late a firing must be. What came due while there was no room is looked for twice: it may have come at the last moment.
		overdue = 3 * time.Second
	)
	for due, regained, again := time.Now(), s.space.regained.Load(), false; ctx.Err() == nil; {
		if now := s.space.regained.Load(); now != regained {
			due, regained, again = time.Now(), now, true
		}
		if !time.Now().Before(due) {
			fired, err := s.Refire(ctx, stream, subjects, time.Now().Add(-overdue))
			if (fired > 0 || err != nil) && ctx.Err() == nil {
				told(fired, err)
			}
			due = time.Now().Add(often)
			if again {
				due, again = time.Now().Add(look), false
			}
		}
		_ = s.Sleep(ctx, look)
	}
}
