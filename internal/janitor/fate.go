package janitor

import (
	"time"

	"github.com/skein-run/skein/internal/engine"
)

// Horizon is up to where a stream may be cleaned, with what is settled. All of it is what leaders said before anything
// else was read.
type Horizon struct {
	// Sequence is the newest that goes with the purge.
	Sequence uint64
	// Last is the newest message that the stream had: a read that reaches it lacks nothing.
	Last uint64
	// Settled is the sequence up to which all wakes of the stream are acked, SettledTimers that of the timers' stream.
	Settled, SettledTimers uint64
	// Unacked is the message after Settled that is not acked; nil if there is none.
	Unacked *UnackedError
	// Expired is the moment before which an instance must have expired to be gone for good.
	Expired time.Time
}

// Facts are what a stream holds of an instance.
type Facts struct {
	engine.Situation
	// Newer is set if a newer version wrote it, Garbage if the create says nothing.
	Newer, Garbage bool
	// Create is the sequence of the create. Carried is set if cleaning has put it there.
	Create  uint64
	Carried bool
	// Deleted is set if the log ends with the delete, ByTimer if the holder is a timer that fired. Expires is when the
	// instance expires.
	Deleted, ByTimer bool
	Expires          *time.Time
	// Input and Control are the sequences of the newest ones, Asked that of the newest control if it asks for a snapshot.
	Input, Control, Asked uint64
	// Snapshot is the sequence of one after the horizon that holds all that is before it; 0 if there is none.
	Snapshot uint64
	// Announced is the sequence of the newest announcement if it is about the end that the log has. Misleading is set if
	// it is about another end, and what says so would go with the purge, but not the announcement.
	Announced  uint64
	Misleading bool
}

// Fate is what must become of an instance before a stream is purged up to a horizon.
type Fate int

// Fates.
const (
	// Leave it: nothing of it is needed that would go.
	Leave Fate = iota
	// Drop it: it goes with the purge, after the values that it owns.
	Drop
	// Renew its create: published again, it comes after the horizon.
	Renew
	// Ask for a snapshot, which also brings its end after the horizon if it has ended.
	Ask
	// Wait for a snapshot that was asked for, or for the end of a delete.
	Wait
	// Remove its create, which another janitor carried when the rest was about to go: nothing else is left of it.
	Remove
	// Stuck: it is as it is, and the purge must not be done now.
	Stuck
)

func (f Fate) String() string {
	return [...]string{"leave", "drop", "renew", "ask", "wait", "remove", "stuck"}[f]
}

// Decide says what must become of an instance. The create is renewed first: a purge takes a beginning of the stream, so
// that a create without its log is never left behind.
func Decide(f Facts, h Horizon) Fate {
	switch {
	case !f.Exists, f.Create > h.Sequence && !f.Carried:
		return Leave // what is left of an instance that is gone, or that had the id of one that is newer
	case f.Carried && !f.Begun && !f.Newer:
		return Remove
	case f.Newer, !f.Begun:
		return Stuck // a newer janitor will know it; its wake was acked for nothing
	case f.Deleted:
		return Wait // whoever deletes it is at it
	case f.Create <= h.Sequence && f.over(h):
		return Drop
	case f.Garbage:
		return Stuck // until it has ended
	case f.Create <= h.Sequence:
		return Renew
	case f.Snapshot == 0, f.Phase == engine.Finished && f.Announced <= h.Sequence:
		if f.Asked > h.Settled {
			return Wait
		}
		return Ask
	case f.Misleading:
		return Stuck
	}
	return Leave
}

// over reports whether nobody will ever see anything of the instance again: it has expired, and nothing that was sent to
// it before is open. What is sent later is in vain.
func (f Facts) over(h Horizon) bool {
	expired := f.Garbage || f.Expires != nil && f.Expires.Before(h.Expired)
	return f.Phase == engine.Finished && expired && f.Input <= h.Settled && f.Control <= h.Settled && f.projected(h)
}

// projected reports whether the wake is acked under which the instance ended: then everybody is told of the end.
func (f Facts) projected(h Horizon) bool {
	if f.ByTimer {
		return f.Holder.Sequence <= h.SettledTimers
	}
	return f.Holder.Sequence <= h.Settled
}
