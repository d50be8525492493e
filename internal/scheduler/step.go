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
	// over is set on what is kept of the schedule of a workflow that has no moment any more.
	over bool
}

// step follows from the moment that came due, the time and what was found then alone, so that whoever repeats it comes to the
// same, or to a later moment.
func (r *row) step(t *protocol.Tick, now time.Time, f found) step {
	s := step{fires: true}
	if t.Progress != nil {
		s.progress = *t.Progress
	}
	if r.inPause(t.Planned) {
		s.fires = false
		if t.Since != nil { // it would have fired before the pause
			s.skip(t.Planned)
		}
		s.moment = r.plan.After(*r.Resumed)
		return s
	}
	if r.excludes(t.Planned) || r.Times != 0 && s.progress.Runs >= r.Times { // the row was changed since it was armed
		s.fires = false
		if r.Times == 0 || s.progress.Runs < r.Times {
			s.moment = r.plan.After(t.Planned)
		}
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
	s.moment = r.plan.After(t.Planned)
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

// excludes reports whether a moment is outside the bounds of the row.
func (r *row) excludes(moment time.Time) bool {
	return r.Kind.Recurs() && (r.From != nil && moment.Before(*r.From) || r.Until != nil && moment.After(*r.Until))
}

// resume is where a schedule stands whose bounds were changed since t was put onto the clock. What is due stays due, unless it
// is outside the new bounds. What the old bounds left out does not come after the fact.
func (r *row) resume(t *protocol.Tick) step {
	s := at(t)
	s.moment = time.Time{}
	if r.Times != 0 && s.progress.Runs >= r.Times {
		return s
	}
	after := t.Planned.Add(-1)
	if r.Updated != nil && (t.Over || t.Planned.After(*r.Updated)) {
		after = *r.Updated
		if last := s.progress.Last; last != nil && last.After(after) {
			after = *last
		}
	}
	if s.moment = r.plan.After(after); !s.moment.Equal(t.Planned) {
		s.since = nil
	}
	return s
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
