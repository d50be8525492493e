package agent

import (
	"context"
	"sync"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// watchAgain is after how long the inbox is looked at again if it could not be read.
const watchAgain = time.Second

// cancels reports whether a letter is a firing that cancels those before it which are not done.
func (l *letter) cancels() bool {
	return l.malformed == nil && l.redrive == "" && l.mail.Callback != "" && l.mail.Overlap == protocol.OverlapCancelRunning
}

// overtakes reports whether a letter cancels another one.
func (l *letter) overtakes(other *letter) bool {
	return l.cancels() && l.lane == other.lane && l.mail.Number > other.mail.Number && l.mail.Life == other.mail.Life
}

// isOvertaken reports whether a letter that is read cancels another one.
func (m *mailbox) isOvertaken(l *letter) bool {
	for _, later := range m.lanes[l.lane] {
		if later.sequence > l.sequence && later.overtakes(l) {
			return true
		}
	}
	return false
}

// overtake makes the first letter of a lane due if one that was just read cancels it: it is dropped then.
func (m *mailbox) overtake(l *letter) {
	if head := m.lanes[l.lane][0]; !head.busy && l.sequence > head.sequence && l.overtakes(head) {
		head.notBefore = time.Time{}
	}
}

// listen returns a channel on which bells are heard, whoever looks at them, until ignore is called.
func (m *mailbox) listen() (heard <-chan struct{}, ignore func()) {
	rung := make(chan struct{}, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners[rung] = true
	return rung, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.listeners, rung)
	}
}

// untilOvertaken is the context of the callback of a letter. It ends, with the cause ErrOverlapped, when a firing comes that
// cancels it. The turn of which it is goes on.
func (a *actor) untilOvertaken(ctx context.Context, l *letter) (context.Context, func()) {
	if _, own := a.schedule(l); !own || !l.cancels() {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	heard, ignore := a.mail.listen()
	var watch sync.WaitGroup
	watch.Go(func() {
		if a.awaitOvertaking(ctx, l, heard) {
			cancel(ErrOverlapped)
		}
	})
	return ctx, func() {
		cancel(nil)
		watch.Wait()
		ignore()
	}
}

// awaitOvertaking waits until mail comes that cancels a letter, and returns false if ctx ends before. It reads the inbox
// besides the mailbox, which belongs to the turn.
func (a *actor) awaitOvertaking(ctx context.Context, l *letter, heard <-chan struct{}) bool {
	in, subject := a.host.inbox, a.id.InboxSubject(a.id.Project)
	for next := l.sequence + 1; ; {
		var again <-chan time.Time
		m, err := in.store.NextFromLeader(ctx, in.stream, subject, next)
		switch {
		case err == nil:
			if next = m.Sequence + 1; parseLetter(in.project, *m).overtakes(l) {
				return true
			}
			continue
		case !isNotFound(err):
			again = time.After(watchAgain)
		}
		select {
		case <-heard:
		case <-again:
		case <-ctx.Done():
			return false
		}
	}
}
