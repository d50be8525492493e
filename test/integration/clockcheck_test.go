package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
)

// calm waits until everything has fired that is due, and pauses all schedules: then the clock tells of each what it has done,
// and which moment would be next.
func (s *clockStorm) calm() {
	s.t.Helper()
	after := time.Now()
	late := maps.Clone(s.rows)
	maps.DeleteFunc(late, func(subject string, _ protocol.Schedule) bool { return !s.goesOn(subject) })
	eventually(s.t, patience, "all schedules that go on have a moment to come", func() bool {
		for subject, tick := range s.ticks() { // one that fires has none
			if tick.Planned.After(after) {
				delete(late, subject)
			}
		}
		return len(late) == 0
	})
	for subject, row := range s.rows {
		if !s.goesOn(subject) {
			continue
		}
		row.Paused = &protocol.Pause{Since: time.Now().UTC(), Note: "calm"}
		row.SetVersion()
		s.overwrite(subject, row)
	}
	eventually(s.t, patience, "all schedules that go on are paused, the others gone", func() bool {
		ticks := s.ticks()
		for subject := range s.rows {
			if tick, there := ticks[subject]; there != s.goesOn(subject) || there && !tick.Parked {
				return false
			}
		}
		return true
	})
	for _, c := range []struct{ stream, name string }{
		{protocol.StreamClock, protocol.ConsumerClock},
		{protocol.KVStream(protocol.SchedulesBucket(s.bare)), protocol.ConsumerScheduler},
		{protocol.KVStream(protocol.SchedulesBucket(s.name)), protocol.ConsumerScheduler},
		{protocol.InboxStream(s.name), protocol.ConsumerDoorbell},
	} {
		eventually(s.t, patience, "all is acked in "+c.stream, func() bool {
			consumer, err := s.js.Consumer(s.t.Context(), c.stream, c.name)
			return err == nil && consumer.CachedInfo().NumAckPending == 0 && consumer.CachedInfo().NumPending == 0
		})
	}
	s.quiesce()
}

// goesOn reports whether a schedule fires without end.
func (s *clockStorm) goesOn(subject string) bool {
	row := s.rows[subject]
	return row.Kind.Recurs() && row.Times == 0 && row.Until == nil
}

// overwrite replaces a row.
func (s *clockStorm) overwrite(subject string, row protocol.Schedule) {
	s.t.Helper()
	body, err := json.Marshal(row)
	if err == nil {
		_, err = s.store.Publish(s.t.Context(), subject, nil, body)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// ticks are what stands on the clock, by the subject of the row.
func (s *clockStorm) ticks() map[string]protocol.Tick {
	s.t.Helper()
	ticks := map[string]protocol.Tick{}
	s.each(protocol.StreamClock, "clock.at.>", func(m *journal.Message) {
		rest := strings.TrimPrefix(m.Subject, "clock.at.")
		project, key, _ := strings.Cut(rest, ".")
		var tick protocol.Tick
		if len(m.Data) == 0 {
			return // it was cancelled
		}
		if err := json.Unmarshal(m.Data, &tick); err != nil {
			s.t.Fatal(err)
		}
		ticks[protocol.KVSubject(protocol.SchedulesBucket(project), key)] = tick
	})
	return ticks
}

// firing is mail of a schedule, or an instance of one.
type firing struct {
	planned, stored time.Time
	callback        bool
	last            bool
}

// check compares plan and deliveries.
func (s *clockStorm) check() {
	s.t.Helper()
	ticks := s.ticks()
	fired, again := s.fired()
	count := map[string]int{}
	for _, subject := range slices.Sorted(maps.Keys(s.rows)) {
		row := s.rows[subject]
		plan, err := moments.Of(&row)
		if err != nil {
			s.t.Fatal(err)
		}
		o := oneSchedule{clockStorm: s, subject: subject, row: row, plan: plan, fired: fired[subject]}
		if tick, ok := ticks[subject]; ok {
			o.tick = &tick
		}
		o.check(count)
		delete(fired, subject)
	}
	for subject := range fired {
		s.t.Errorf("%s has fired, and is no schedule", subject)
	}
	s.t.Logf("%d schedules: %d moments planned, %d fired, %d missed; %d times mail came again; no scheduler for %v; %v",
		len(s.rows), count["planned"], count["fired"], count["missed"], again, s.away.Round(time.Millisecond), s.faults)
	if again == 0 {
		s.t.Error("no mail came again: no scheduler was killed between mail and ack")
	}
	if count["missed"] == 0 {
		s.t.Error("no moment was missed: the schedulers were not away")
	}
}

// oneSchedule is what is checked of one.
type oneSchedule struct {
	*clockStorm
	subject string
	row     protocol.Schedule
	plan    moments.Plan
	tick    *protocol.Tick
	fired   []firing
}

func (o oneSchedule) fault(format string, args ...any) {
	o.t.Helper()
	o.t.Errorf("%s (%s, %d fired): %s", o.subject, o.row.Kind, len(o.fired), fmt.Sprintf(format, args...))
}

// planned are the moments up to where the schedule stands.
func (o oneSchedule) planned() (all []time.Time) {
	for next := o.plan.First(); !next.IsZero(); next = o.plan.After(next) {
		if o.tick != nil && !next.Before(o.tick.Planned) || o.row.Times != 0 && len(all) == o.row.Times {
			break
		}
		all = append(all, next)
	}
	return all
}

func (o oneSchedule) check(count map[string]int) {
	o.t.Helper()
	planned := o.planned()
	missed, runs := 0, len(planned)
	if o.tick != nil {
		missed, runs = 0, 0
		if p := o.tick.Progress; p != nil {
			missed, runs = p.Missed, p.Runs
		}
	}
	count["planned"] += len(planned)
	count["fired"] += len(o.fired)
	count["missed"] += missed
	if len(o.fired) != runs || runs+missed != len(planned) {
		o.fault("it counts %d runs and %d missed, planned are %d: %v", runs, missed, len(planned), o.moments())
	}
	if o.row.CatchUp != nil && *o.row.CatchUp == protocol.MaxCatchUp && missed > 0 {
		o.fault("%d missed", missed)
	}
	for i, f := range o.fired {
		if !slices.ContainsFunc(planned, f.planned.Equal) {
			o.fault("%s is not planned", f.planned)
		}
		if i > 0 && !f.planned.After(o.fired[i-1].planned) {
			o.fault("%s comes after %s", f.planned, o.fired[i-1].planned)
		}
		if due := o.plan.Due(f.planned); f.stored.Before(due) {
			o.fault("%s came at %s, due is %s", f.planned, f.stored, due)
		}
		if !f.callback {
			o.fault("%s calls nothing", f.planned)
		}
		if f.last != (i == len(o.fired)-1 && o.row.Kind.Recurs() && o.tick == nil) {
			o.fault("%s says %v to: is it the last?", f.planned, f.last)
		}
	}
}

func (o oneSchedule) moments() (all []string) {
	for _, f := range o.fired {
		all = append(all, f.planned.Format("05.000"))
	}
	return all
}

// fired are the firings of all schedules by the subjects of their rows, those that came again left out.
func (s *clockStorm) fired() (all map[string][]firing, again int) {
	s.t.Helper()
	all = map[string][]firing{}
	seen := map[string]bool{}
	s.each(protocol.InboxStream(s.bare), protocol.InboxSubjects(s.bare), func(m *journal.Message) {
		to, _, err := protocol.ParseInboxSubject(m.Subject)
		var mail protocol.Mail
		if err = errors.Join(err, json.Unmarshal(m.Data, &mail)); err != nil {
			s.t.Fatal(err)
		}
		id := strings.TrimPrefix(mail.Source, protocol.ScheduleSource(""))
		subject := rowSubject(s.bare, protocol.Schedule{Class: to.Class, Name: to.Name, ID: id})
		if mail.Number != protocol.FiringNumber(*mail.Planned) {
			s.t.Errorf("%s: mail of %s has number %d", subject, mail.Planned, mail.Number)
		}
		if key := fmt.Sprint(subject, mail.Number); !seen[key] {
			seen[key] = true
			all[subject] = append(all[subject], firing{*mail.Planned, m.Time, mail.Callback == "Ring", mail.Last})
			return
		}
		again++
	})
	s.addBells(all)
	s.addInstances(all)
	return all, again
}

// addBells adds what agents have applied, as often as they have.
func (s *clockStorm) addBells(all map[string][]firing) {
	s.t.Helper()
	for subject, row := range s.rows {
		if row.Class != "Bell" {
			continue
		}
		record, _ := s.recordIn("Bell", row.Name)
		var rung []int64
		if err := json.Unmarshal(record.State, &rung); err != nil {
			s.t.Fatal(err)
		}
		for _, milli := range rung {
			// The agent tells milliseconds, as its mail is numbered; the moments of an interval have more digits.
			planned := time.UnixMilli(milli)
			plan, err := moments.Of(&row)
			if err != nil {
				s.t.Fatal(err)
			}
			if next := plan.After(planned.Add(-1)); next.UnixMilli() == milli {
				planned = next
			}
			all[subject] = append(all[subject], firing{planned, record.Updated, true, false})
		}
	}
}

// addInstances adds the instances that were started, all of which must have ended well.
func (s *clockStorm) addInstances(all map[string][]firing) {
	s.t.Helper()
	s.each(protocol.WorkflowsStream(s.name, 0), protocol.InputSubjects(s.name, 0), func(m *journal.Message) {
		at, class, err := protocol.ParseInstanceSubject(m.Subject)
		var create protocol.Create
		if err = errors.Join(err, json.Unmarshal(m.Data, &create)); err != nil || class != protocol.ClassCreate || create.Schedule == nil {
			s.t.Fatalf("%s is not what a schedule stores: %v", m.Subject, err)
		}
		planned := create.Schedule.Planned
		id := create.Source.Name
		if at.ID != protocol.CronInstance(id, planned) {
			s.t.Errorf("instance %s is of %s", at.ID, planned)
		}
		subject := rowSubject(s.name, protocol.Schedule{Class: protocol.ClassCron, Name: at.Workflow, ID: id})
		all[subject] = append(all[subject], firing{planned, m.Time, true, false})
	})
	for _, tr := range s.trails() {
		tr.audit(s.t)
		completes(s.t, tr, script{})
	}
}
