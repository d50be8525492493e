package scheduler

import (
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

const (
	// missedAfter is how late a moment of a schedule that catches up nothing may still fire.
	missedAfter = time.Minute
	// mostCounted bounds how many missed moments are counted at a time: a line of every second that nobody served for a
	// year has 30 million.
	mostCounted = 1000
)

// step is what a schedule does at a moment that came due, and where it stands after that.
type step struct {
	// fires is false if the moment has come too late, or in a pause, or is none any more, or what came before it is not done.
	fires bool
	// moment is the next to arm; zero: there is none, the schedule is over.
	moment   time.Time
	progress protocol.Progress
	// since is set if the moment waits for the end of what an earlier one has started. at is when that is looked at; zero: when
	// the moment is due.
	since *time.Time
	at    time.Time
	// over is set on what is kept of a schedule that has no moment any more.
	over bool
}

// step follows from the moment that came due, the time and what was found then alone, so that whoever repeats it comes to the
// same, or to a later moment.
func (r *row) step(t *protocol.Tick, now time.Time, f found) step {
	s := r.stand(t)
	if s.moment.IsZero() || !s.moment.Equal(t.Planned) { // the row was changed since it was armed, or it is over
		return s
	}
	s.fires, s.moment, s.since = true, time.Time{}, nil
	if r.inPause(t.Planned) {
		s.fires = false
		if t.Since != nil { // it would have fired before the pause
			s.skip(t.Planned)
		}
		s.moment = r.after(*r.Resumed)
		return s
	}
	switch {
	case t.Since == nil && r.catchUp() == 0 && now.Sub(r.plan.Due(t.Planned)) > missedAfter:
		s.fires = false
		s.progress.Missed++
	case r.skips(f):
		s.fires = false
		s.skip(t.Planned)
	case r.holds(f):
		s.fires = false
		s.hold(t, now)
		return s
	default:
		s.run(r, t, f)
	}
	if r.Times == 0 || s.progress.Runs < r.Times {
		r.goOn(&s, t, now)
	}
	return s
}

// run counts a moment that fires.
func (s *step) run(r *row, t *protocol.Tick, f found) {
	s.progress.Runs++
	s.progress.Previous, s.progress.Mail = nil, 0
	if r.judgesMail() {
		s.progress.Previous, s.progress.Mail = s.progress.Last, f.mail
	}
	s.progress.Last = new(t.Planned.UTC())
}

// goOn finds the moment after the one that came due. One that has passed as well fires late, too, while there is something
// left to catch up; else all that have passed collapse into the one that came due, and count as missed.
func (r *row) goOn(s *step, t *protocol.Tick, now time.Time) {
	s.moment = r.after(t.Planned)
	if s.moment.IsZero() || r.plan.Due(s.moment).After(now) {
		s.progress.CaughtUp = 0
		return
	}
	if t.Since != nil {
		r.goOnAfterWait(s, now)
		return
	}
	if s.progress.CaughtUp++; s.progress.CaughtUp < r.catchUp() {
		return
	}
	s.progress.CaughtUp = 0
	var passed []time.Time
	passed, s.moment = r.passed(s.moment, now)
	s.progress.Missed += len(passed)
}

// passed are the moments from next on that are due by now, as far as they are counted, and the first that is not.
func (r *row) passed(next, now time.Time) (all []time.Time, first time.Time) {
	for range mostCounted {
		all = append(all, next)
		next = r.plan.After(next)
		if next.IsZero() || r.plan.Due(next).After(now) {
			return all, next
		}
	}
	return all, r.plan.After(now)
}

// first is the moment at which a schedule fires if it never did.
func (r *row) first() time.Time {
	if r.Moved != nil {
		return r.after(r.Created)
	}
	return r.plan.First()
}

// after is the first moment after t of a schedule that recurs. Those of before it was given others do not come any more.
func (r *row) after(t time.Time) time.Time {
	if r.Moved != nil && t.Before(*r.Moved) {
		t = *r.Moved
	}
	return r.plan.After(t)
}

// resume is where a schedule stands that was changed since t was put onto the clock. What is due stays due, unless it is no
// moment any more. What was no moment then does not come after the fact.
func (r *row) resume(t *protocol.Tick) step {
	s := at(t)
	if s.moment = r.resumeAt(t, s.progress); !s.moment.Equal(t.Planned) {
		s.since = nil
	}
	return s
}

// resumeAt is the moment of resume; zero if there is none.
func (r *row) resumeAt(t *protocol.Tick, p protocol.Progress) time.Time {
	if !r.Kind.Recurs() {
		if t.Over && p.Last != nil && p.Last.Equal(*r.At) {
			return time.Time{} // it has fired
		}
		return *r.At
	}
	if r.Times != 0 && p.Runs >= r.Times {
		return time.Time{}
	}
	if !t.Over && (r.Updated == nil || !t.Planned.After(*r.Updated)) {
		due := r.plan.After(t.Planned.Add(-1))
		if due.Equal(t.Planned) || r.Moved == nil || t.Planned.After(*r.Moved) {
			return due
		}
	}
	after := r.Created
	if r.Updated != nil {
		after = *r.Updated
	}
	if last := p.Last; last != nil && !last.Before(after) {
		after = last.Truncate(time.Millisecond).Add(time.Millisecond - 1) // firings are numbered by it
	}
	return r.after(after)
}

// inPause reports whether a moment does not fire because it came before the schedule was resumed. What fires once is not
// lost by a pause.
func (r *row) inPause(moment time.Time) bool {
	return r.Kind.Recurs() && r.Resumed != nil && !moment.After(*r.Resumed)
}

// catchUp is how many moments fire that nobody could serve in time.
func (r *row) catchUp() int {
	if r.CatchUp == nil {
		return 1
	}
	return *r.CatchUp
}
