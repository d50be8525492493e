package agent

import (
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// Overlap says what becomes of a moment of a schedule that recurs if an earlier firing is not done: its callback runs, waits
// in the agent's inbox, or for another attempt. A firing is done when a turn has applied it, or it is among the dead letters.
// It is an option of Schedule and UpdateSchedule.
type Overlap protocol.Overlap

// Policies. OverlapBufferAll is that of a schedule without one.
const (
	// OverlapSkip lets the moment not fire.
	OverlapSkip = Overlap(protocol.OverlapSkip)
	// OverlapBufferOne lets one firing wait behind that which is not done, and no more.
	OverlapBufferOne = Overlap(protocol.OverlapBufferOne)
	// OverlapBufferAll lets all wait, in their order.
	OverlapBufferAll = Overlap(protocol.OverlapBufferAll)
	// OverlapCancelRunning lets the moment fire, and cancels what is not done: the context of a callback that runs ends, with
	// the cause ErrOverlapped, and what waits is dropped. Neither is tried again, nor a dead letter. What the callback asked for
	// is stored all the same if it returns nil.
	OverlapCancelRunning = Overlap(protocol.OverlapCancelRunning)
	// OverlapAllowAll lets a firing wait for no other one: what waits for another attempt does not hold up later ones. A turn
	// that runs does, as always.
	OverlapAllowAll = Overlap(protocol.OverlapAllowAll)
)

func (o Overlap) applySchedule(all *scheduleOptions) { o.bound().applySchedule(all) }

func (o Overlap) applyUpdate(u *scheduleUpdate) { o.bound().applyUpdate(u) }

func (o Overlap) bound() bound {
	return func(row *protocol.Schedule, _ bool) *ScheduleError {
		row.Overlap = protocol.Overlap(o)
		return nil
	}
}

// alone is the id of the schedule of the agent's own of which a letter is a firing that waits for no other one.
func (a *actor) alone(l *letter) (id string, ok bool) {
	if l.from != a.id.Project || !l.isAlone() {
		return "", false
	}
	return l.mail.Schedule, true
}

func (l *letter) isAlone() bool {
	return l.mail.Key != "" && l.mail.Schedule != "" && l.mail.Planned != nil && l.mail.Overlap == protocol.OverlapAllowAll
}

// voidAlone says why such a firing must not be applied. It was applied if it is the newest that was: nobody sends an older one
// again, but for copies that are on their way, which have a key.
func (a *actor) voidAlone(l *letter) string {
	applied, known := mark(a.at.record, protocol.ScheduleSource(l.mail.Schedule))
	switch {
	case l.mail.Life == 0:
		return "of the agent's own, without a life"
	case !known:
		return unknownSchedule
	case protocol.FiringNumber(*l.mail.Planned) == applied:
		return "applied before"
	}
	return ""
}

// markAlone drafts that such a firing is applied. The draft is locked.
func (d *draft) markAlone(l *letter) error {
	source := protocol.ScheduleSource(l.mail.Schedule)
	applied, known := d.applied(source)
	if !known {
		return nil // the callback has cancelled it
	}
	return d.mark(source, max(applied, protocol.FiringNumber(*l.mail.Planned)))
}

// waitsForAlone reports whether a letter is the end of a schedule some of whose firings wait for none in front of them: it
// waits until they are done, as its agent forgets the schedule then. until is when the first of them can be tried again.
func (m *mailbox) waitsForAlone(l *letter) (until time.Time, waits bool) {
	if !l.mail.Last || l.mail.Callback != "" {
		return time.Time{}, false
	}
	for _, other := range m.held {
		if other.from == l.from && other.isAlone() && protocol.ScheduleSource(other.mail.Schedule) == l.lane && other.sequence < l.sequence {
			until, waits = earliest(until, other.notBefore), true
		}
	}
	return until, waits
}
