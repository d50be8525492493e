package workflow

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/client"
	"github.com/skein-run/skein/internal/ctxtime"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// SubscribeOption is an option of Subscribe.
type SubscribeOption interface {
	applySubscribe(*protocol.Following) error
}

// After lets Subscribe begin after the notice that has this cursor: the one that was processed last.
func After(c Cursor) SubscribeOption { return afterCursor(c) }

type afterCursor Cursor

func (c afterCursor) applySubscribe(f *protocol.Following) error {
	f.After = Cursor(c)
	return nil
}

// Only lets Subscribe tell of these kinds alone. The subscription ends with the instance also if that is not among them.
func Only(kinds ...NoticeKind) SubscribeOption { return only(kinds) }

type only []NoticeKind

func (o only) applySubscribe(f *protocol.Following) error {
	f.Kinds = append(f.Kinds, o...)
	known := protocol.NoticeKinds()
	for _, kind := range o {
		if !slices.Contains(known, kind) {
			return &OptionError{Option: "Only", Value: kind, Allowed: fmt.Sprintf("one of %q", known)}
		}
	}
	return nil
}

// Subscribe tells what happened to the instance so far, and then what happens to it, until it has ended, ctx ends, or the
// loop stops. Each notice comes once and in order, whatever becomes of runners and servers meanwhile; its Cursor is where
// another Subscribe goes on ([After]).
//
// A restart goes on with the same subscription. What ended and was restarted since is told with both ends, and so is a
// Delete. What log cleaning has taken away is not told: then the first notice after that of the create is a NoticeCleaned.
//
// An error is the last that the loop gets: a [*NotFoundError] if the instance is gone, an [*OptionError], the cause for
// which ctx ended. Of another project's instance, runners of that project tell: ErrNoRunner if none has answered for 30
// seconds. In an agent's turn it is ErrWouldBlock, between steps ErrBetweenSteps.
func (i *Instance[R]) Subscribe(ctx context.Context, options ...SubscribeOption) iter.Seq2[Notice, error] {
	return func(yield func(Notice, error) bool) {
		f, err := i.following(ctx, options)
		if err == nil {
			var more bool
			if more, err = i.follow(ctx, f, yield); !more {
				return
			}
		}
		if errors.Is(err, journal.ErrNotFound) {
			err = i.notFound()
		}
		if err != nil {
			yield(Notice{}, fmt.Errorf("subscribe to instance %s: %w", i.at, err))
		}
	}
}

func (i *Instance[R]) following(ctx context.Context, options []SubscribeOption) (protocol.Following, error) {
	f := protocol.Following{Incarnation: i.incarnation, Wait: protocol.Duration(askWait)}
	if _, ok := turn.From(ctx); ok {
		return f, ErrWouldBlock
	}
	if err := betweenSteps(ctx); err != nil {
		return f, err
	}
	for _, option := range options {
		if err := option.applySubscribe(&f); err != nil {
			return f, err
		}
	}
	return f, nil
}

// follow yields notices. It returns false if the loop stopped.
func (i *Instance[R]) follow(ctx context.Context, f protocol.Following, yield func(Notice, error) bool) (more bool, err error) {
	if i.at.Project != i.project.Config.Name {
		return i.followForeign(ctx, f, yield)
	}
	for n, err := range i.reader.Follow(ctx, i.at, f.Incarnation, f.After) {
		if err != nil {
			return true, err
		}
		if wanted := len(f.Kinds) == 0 || slices.Contains(f.Kinds, n.Kind); wanted && !yield(n, nil) {
			return false, nil
		}
	}
	return true, nil
}

const (
	// askWait is how long a runner waits with its answer until something happens.
	askWait = 5 * time.Second
	// silenceAtMost is for how long there may be no runner that answers.
	silenceAtMost = 30 * time.Second
	// askAgain is the pause after a question that nobody answered.
	askAgain = 250 * time.Millisecond
)

// followForeign yields what runners of the owning project tell. The one that has told something goes on most easily.
func (i *Instance[R]) followForeign(ctx context.Context, f protocol.Following, yield func(Notice, error) bool) (more bool, err error) {
	runner, heard := "", time.Now()
	for {
		page, err := i.askNotices(ctx, runner, f)
		switch {
		case ctx.Err() != nil:
			return true, context.Cause(ctx)
		case unanswered(err) && runner != "":
			runner = "" // it is gone: any other
			continue
		case unanswered(err) && time.Since(heard) < silenceAtMost:
			if err := ctxtime.Sleep(ctx, askAgain); err != nil {
				return true, err
			}
			continue
		case unanswered(err):
			return true, fmt.Errorf("%w: %w", ErrNoRunner, err)
		case err != nil:
			return true, err
		}
		for _, n := range page.Notices {
			if !yield(n, nil) {
				return false, nil
			}
		}
		if page.End {
			return true, nil
		}
		runner, heard = page.Runner, time.Now()
		f.Incarnation, f.After = page.Incarnation, page.Cursor
	}
}

func (i *Instance[R]) askNotices(ctx context.Context, runner string, f protocol.Following) (protocol.Notices, error) {
	answer, err := i.question(ctx, runner, protocol.Ask{Follow: &f}, askWait+askTimeout)
	switch {
	case err != nil:
		return protocol.Notices{}, err
	case answer.Notices == nil:
		return protocol.Notices{}, errors.New("a runner of an older version answered: it cannot tell what happens to an instance")
	}
	return *answer.Notices, nil
}

// unanswered reports whether a question came to no answer.
func unanswered(err error) bool { return client.Unanswered(err) }

// question asks a runner about the instance, by its id, or with "" any.
func (i *Instance[R]) question(ctx context.Context, runner string, ask protocol.Ask, within time.Duration) (protocol.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	answer, err := i.client().Ask(ctx, i.at, runner, ask)
	switch {
	case err != nil:
		return answer, err
	case answer.Error != nil && answer.Error.Name == protocol.FailureNotFound:
		return answer, journal.ErrNotFound
	case answer.Error != nil:
		return answer, answer.Error
	}
	return answer, nil
}
