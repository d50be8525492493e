package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skein-run/skein/internal/logkey"
)

// ErrNoSpace is wrapped by NoSpaceError: NATS has no room for what was to be stored.
var ErrNoSpace = errors.New("NATS has no room to store it")

// NoSpaceError says that NATS refuses to store what was sent to a subject: its disk is full up to max_file_store, the account
// has used what it may, or the stream has. Nothing was stored. There may be room later.
type NoSpaceError struct {
	Subject string
	// Err is the server's refusal.
	Err error
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("publish to %s: %v: %v; free disk space, or raise max_file_store or the limits of the account", e.Subject, ErrNoSpace, e.Err)
}

// Unwrap makes errors.Is(err, ErrNoSpace) true.
func (e *NoSpaceError) Unwrap() []error { return []error{ErrNoSpace, e.Err} }

// FailureName is how the error is called where it is stored or answered.
func (e *NoSpaceError) FailureName() string { return "NoSpaceError" }

// refusingKey leads to what Refusing has noted in a context.
type refusingKey struct{}

// Refusing marks a context: what is stored under it comes back with a NoSpaceError if there is no room for some seconds. It is for
// those whom somebody waits for, and who can say no. Everybody else waits until there is room.
func Refusing(ctx context.Context) context.Context {
	return context.WithValue(ctx, refusingKey{}, true)
}

func refusing(ctx context.Context) bool { return ctx.Value(refusingKey{}) != nil }

const (
	// spacePatience is for how long there must have been no room until that is answered: a leader whose disk is full steps down,
	// and another one may have room.
	spacePatience = 3 * time.Second
	// firstProbe and lastProbe bound how long nobody tries again to store something where there was no room. Each refusal makes a
	// leader step down, which is in the way of those who free space.
	firstProbe = 250 * time.Millisecond
	lastProbe  = 4 * time.Second
)

// space knows where NATS has no room. There, one publish at a time tries whether there is room again, and all others wait, or are
// refused: thousands that try by themselves would keep everybody busy.
type space struct {
	tell func(subjects string, err error)
	// regained counts how often there was room again.
	regained atomic.Uint64

	mu   sync.Mutex
	full map[string]*fullness // by what begins the subjects of a stream
}

type fullness struct {
	err   error // the newest refusal
	since time.Time
	pause time.Duration
	next  time.Time
}

// OnSpace makes the Store call tell, in no goroutine of its own, when there is no room for messages of some subjects any more, with
// the refusal, and with nil when there is room again. It must be called before the Store is used.
func (s *Store) OnSpace(tell func(subjects string, err error)) { s.space.tell = tell }

// LogSpace is what a process says once when there is no room any more, and once when there is again: for OnSpace.
func LogSpace(log *slog.Logger) func(subjects string, err error) {
	return func(subjects string, err error) {
		if err != nil {
			log.Error("NATS has no room and stores nothing; all waits, and goes on by itself when there is room: free disk space, "+
				"or raise max_file_store or the limits of the account, see docs/operations.md",
				slog.String(logkey.Subject, subjects), slog.Any(logkey.Error, err))
			return
		}
		log.Info("NATS has room again", slog.String(logkey.Subject, subjects))
	}
}

// Space returns a refusal if there is no room for some messages, as far as the Store knows.
func (s *Store) Space() error {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	for _, of := range slices.Sorted(maps.Keys(s.space.full)) {
		return &NoSpaceError{Subject: of + ".>", Err: s.space.full[of].err}
	}
	return nil
}

// spaceOf is what begins the subjects of the stream that a subject belongs to: its first two tokens.
func spaceOf(subject string) string {
	first := strings.IndexByte(subject, '.')
	if first < 0 {
		return subject
	}
	if second := strings.IndexByte(subject[first+1:], '.'); second >= 0 {
		return subject[:first+1+second]
	}
	return subject
}

// awaitSpace returns when a publish may try to find room. If ctx ends before that, or is Refusing and has waited long enough, it
// returns why.
func (s *Store) awaitSpace(ctx context.Context, of string) error {
	for {
		wait, refusal := s.space.turn(of)
		switch {
		case wait == 0:
			return nil
		case refusal != nil && refusing(ctx):
			return refusal
		}
		if stop := s.replies.network.Sleep(ctx, wait); stop != nil {
			return fmt.Errorf("%w: %w", stop, s.space.refusal(of))
		}
	}
}

// refusal is the newest one.
func (s *space) refusal(of string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.full[of]; f != nil {
		return f.err
	}
	return ErrNoSpace
}

// noSpace is the error of a publish that is given up because there is no room. If an earlier try may have been stored, it says so, too.
func noSpace(subject string, uncertain bool, err error) error {
	refused := &NoSpaceError{Subject: subject, Err: err}
	if uncertain {
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, refused)
	}
	return refused
}

// turn returns how long a publish has to wait until it may try; refusal is set if there is no room for so long that those who can
// say no need not wait.
func (s *space) turn(of string) (wait time.Duration, refusal error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.full[of]
	if f == nil {
		return 0, nil
	}
	now := time.Now()
	if now.Before(f.next) {
		if now.Sub(f.since) >= spacePatience {
			refusal = f.err
		}
		return f.next.Sub(now) + rand.N(50*time.Millisecond), refusal
	}
	f.pause = min(2*f.pause, lastProbe)
	f.next = now.Add(f.pause)
	return 0, nil
}

// note learns from the outcome of a try, and returns whether there is no room. Other errors than refusals leave it as it was.
func (s *space) note(of string, err error) (full bool) {
	s.mu.Lock()
	f := s.full[of]
	switch {
	case err == nil && f != nil:
		delete(s.full, of)
		s.regained.Add(1)
	case f == nil && isNoSpace(err):
		if s.full == nil {
			s.full = map[string]*fullness{}
		}
		now := time.Now()
		s.full[of] = &fullness{err: err, since: now, pause: firstProbe, next: now.Add(firstProbe)}
	default:
		if isNoSpace(err) {
			f.err = err
		}
		s.mu.Unlock()
		return f != nil && err != nil
	}
	s.mu.Unlock()
	if s.tell != nil {
		s.tell(of+".>", err)
	}
	return err != nil
}

// Full returns the refusal if there is no room for messages of a subject, as far as the Store knows by what was sent to such
// subjects.
func (s *Store) Full(subject string) error {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	if f := s.space.full[spaceOf(subject)]; f != nil && time.Since(f.since) >= spacePatience {
		return &NoSpaceError{Subject: subject, Err: f.err}
	}
	return nil
}

// isNoSpace reports whether the server has refused a message because it has no room for it.
func isNoSpace(err error) bool {
	se, ok := errors.AsType[*ServerError](err)
	if !ok {
		return false
	}
	switch se.ErrCode {
	case codeAccountLimit, codeNoResources, codeNoFileStore, codeNoMemoryStore:
		return true
	case codeStoreFailed:
		return se.Description == "maximum bytes exceeded" || se.Description == "maximum messages exceeded"
	}
	return false
}

// notStored reports whether an error says that what was sent is not stored, and never will be.
func notStored(err error) bool {
	if _, unsure := errors.AsType[unsureError](err); unsure {
		return false
	}
	_, answered := errors.AsType[*ServerError](err)
	return answered || errors.Is(err, nats.ErrNoResponders)
}
