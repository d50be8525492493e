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
	// handled is the firing that has just become mail, if one has, and now is when. If now is zero, it was found that the
	// schedule is paused, and the firing is kept.
	handled *protocol.Tick
	now     time.Time
	found   found
}

type verb string

const (
	leave  verb = "leave"
	arm    verb = "arm"
	disarm verb = "disarm"
	park   verb = "park"
)

// decide says what to do with the clock subject of a schedule, and for arm and park the moment and the progress. Doing it twice, or
// for several schedulers at once, comes to the same.
func decide(v view) (verb, step) {
	do, s := choose(v)
	if do != leave && do != disarm && s.moment.IsZero() {
		return v.row.over(s)
	}
	return do, s
}

// over keeps, of the schedule of a workflow that has no moment any more, what it has done: its row stays.
func (r *row) over(s step) (verb, step) {
	if r.Workflow == "" {
		return leave, step{}
	}
	s.over, s.moment = true, r.Created
	if s.progress.Last != nil {
		s.moment = *s.progress.Last
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
	s := step{moment: r.plan.First()}
	switch {
	case r.Paused != nil:
		return decidePaused(v)
	case r.made(v.handled):
		if r.isPast(v.handled, v) {
			return leave, step{} // the firing came twice
		}
		s = r.step(v.handled, v.now, v.found)
	case r.made(v.armed) && v.armed.Bounds != r.bounds && v.armed.Revision < r.revision:
		s = r.resume(v.armed)
	case r.made(v.armed) && v.armed.Parked && !v.armed.Over: // it was resumed
		s = at(v.armed)
	case r.made(v.armed), r.made(v.fired):
		// Its firing goes on from there. A row put again unchanged must not start over from its creation.
		return leave, step{}
	}
	return arm, s
}

// decidePaused keeps the moment that is next, and the progress, without a timer.
func decidePaused(v view) (verb, step) {
	r := v.row
	switch {
	case r.made(v.handled):
		if r.isPast(v.handled, v) {
			return leave, step{}
		}
		if v.now.IsZero() {
			return park, at(v.handled)
		}
		return park, r.step(v.handled, v.now, v.found)
	case r.made(v.armed) && v.armed.Parked:
		return leave, step{}
	case r.made(v.armed):
		return park, at(v.armed)
	case r.made(v.fired): // who handles that parks it
		return leave, step{}
	}
	return park, step{moment: r.plan.First()}
}

// at is where a schedule stood before a moment.
func at(t *protocol.Tick) step {
	s := step{moment: t.Planned, since: t.Since}
	if t.Progress != nil {
		s.progress = *t.Progress
	}
	return s
}

// isPast reports whether the schedule has gone on from a moment: then a later one is armed, or fires.
func (r *row) isPast(t *protocol.Tick, v view) bool {
	return r.made(v.armed) && (v.armed.Over || v.armed.Planned.After(t.Planned)) || r.made(v.fired) && v.fired.Planned.After(t.Planned)
}

// made reports whether a moment was computed from a row of the same content.
func (r *row) made(t *protocol.Tick) bool { return t != nil && t.Definition == r.definition }
