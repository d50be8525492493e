package scheduler

import (
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// view is what is known of a schedule when it is decided what its clock subject has to hold. The fields were read in
// the order clock, due, row. So a row that is there has not been served completely, and a moment that is armed stems
// from this row or an older one.
type view struct {
	// armed is the moment that waits on the clock subject, fired the newest firing that is not acked.
	armed, fired *protocol.Tick
	row          *row
	// handled is the firing that has just become mail, if one has, and now is when. by is the row as it was then; nil: row. If
	// now is zero, it was found that the schedule is paused, and the firing is kept.
	handled *protocol.Tick
	by      *row
	now     time.Time
	found   found
}

type verb string

const (
	leave  verb = "leave"
	arm    verb = "arm"
	disarm verb = "disarm"
	park   verb = "park"
	// await is to leave it, and to look again when what fires is acked.
	await verb = "await"
)

// decide says what to do with the clock subject of a schedule, and for arm and park the moment and the progress. Doing it twice, or
// for several schedulers at once, comes to the same.
func decide(v view) (verb, step) {
	do, s := choose(v)
	if (do == arm || do == park) && s.moment.IsZero() {
		return v.row.over(s)
	}
	return do, s
}

// over ends a schedule that has no moment any more. What one of a workflow has done is kept, and its row stays. That of an agent
// comes due at once, for the last time, and is taken away.
func (r *row) over(s step) (verb, step) {
	s.over, s.moment = true, r.Created
	if s.progress.Last != nil {
		s.moment = *s.progress.Last
	}
	if r.Workflow == "" {
		return arm, s
	}
	return park, s
}

// choose is decide without what becomes of a schedule that is over: then the step has no moment.
func choose(v view) (verb, step) {
	r := v.row
	if r == nil {
		if v.armed == nil {
			return leave, step{}
		}
		return disarm, step{}
	}
	if v.armed != nil && v.armed.Revision > r.revision && !r.made(v.armed) {
		return leave, step{}
	}
	do := arm
	if r.Paused != nil {
		do = park // the moment that is next, and the progress, without a timer
	}
	switch {
	case r.made(v.handled):
		if r.isPast(v.handled, v) {
			return leave, step{} // the firing came twice
		}
		return do, r.next(v)
	case r.made(v.armed) && r.replaced(v.armed) && v.armed.Revision < r.revision:
		return do, r.resume(v.armed)
	case r.made(v.armed):
		if v.armed.Over || v.armed.Parked == (r.Paused != nil) {
			return leave, step{} // a row put again unchanged must not start over from its creation
		}
		return do, at(v.armed) // it was paused, or resumed
	case r.made(v.fired) && v.fired.Revision < r.revision:
		return await, step{} // its firing goes on from there, unless it has deleted the row that was there before
	case r.made(v.fired):
		return leave, step{} // its firing goes on from there
	}
	return do, step{moment: r.first()}
}

// next is where a schedule stands after a moment that was handled, also if the row was changed since.
func (r *row) next(v view) step {
	if v.now.IsZero() {
		return r.stand(v.handled)
	}
	by := r
	if v.by != nil {
		by = v.by
	}
	s := by.step(v.handled, v.now, v.found)
	if by.bounds == r.bounds {
		return s
	}
	s.over = s.moment.IsZero()
	return r.stand(new(by.tick(s)))
}

// stand is where a schedule stands whose next moment is t, also if that was found as of another row.
func (r *row) stand(t *protocol.Tick) step {
	if r.replaced(t) {
		return r.resume(t)
	}
	s := at(t)
	if t.Over {
		s.moment = time.Time{}
	}
	return s
}

// at is where a schedule stood before a moment.
func at(t *protocol.Tick) step {
	s := step{moment: t.Planned, since: t.Since}
	if t.Progress != nil {
		s.progress = *t.Progress
	}
	return s
}

// isPast reports whether the schedule has gone on from a moment: then a later one is armed, or fires. Or the same one does, to which
// others have come without missing as much on the way.
func (r *row) isPast(t *protocol.Tick, v view) bool {
	return r.made(v.armed) && (v.armed.Over || v.armed.Planned.After(t.Planned)) ||
		r.made(v.fired) && (v.fired.Planned.After(t.Planned) || v.fired.Planned.Equal(t.Planned) && missed(v.fired) < missed(t))
}

func missed(t *protocol.Tick) int {
	if t.Progress == nil {
		return 0
	}
	return t.Progress.Missed
}

// wasArmedLate reports whether a moment that recurs was put onto the clock after it was due, by the time at which it fired. Then others may
// have come to it in time.
func (r *row) wasArmedLate(t *protocol.Tick, fired time.Time) bool {
	return r.Kind.Recurs() && fired.Sub(r.plan.Due(t.Planned)) > firesWithin
}

// mayBeLeft reports whether the schedule may have gone on from a firing to a moment that is not the next one: then the next
// one has passed, and does not come late by itself.
func (r *row) mayBeLeft(t *protocol.Tick, now time.Time) bool {
	if t.Progress != nil && t.Progress.CaughtUp > 0 || r.replaced(t) {
		return false // it is the next one, or what is later may be of other moments
	}
	next := r.plan.After(t.Planned)
	return !next.IsZero() && !r.plan.Due(next).After(now)
}

// made reports whether a moment is one of this schedule.
func (r *row) made(t *protocol.Tick) bool { return t != nil && t.Definition == r.definition }

// replaced reports whether a moment of this schedule was computed before the row was changed in what decides the moments. An older
// scheduler did not note that for agents, nor could it be changed then.
func (r *row) replaced(t *protocol.Tick) bool {
	return t.Bounds != r.bounds && (t.Bounds != "" || r.Updated != nil)
}
