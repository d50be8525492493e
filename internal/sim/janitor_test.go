package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// age is how old everything is that may be cleaned away, and how long after its end an instance can be.
const (
	age    = 24 * time.Hour
	margin = time.Hour
)

// janitor cleans the stream once: it carries over the horizon what lives, and purges what is older.
type janitor struct {
	w       *world
	r       *runner // reads like one, but takes no wakes
	horizon uint64
}

func (w *world) clean() {
	w.clients++
	r := &runner{w: w, id: "janitor", store: must(journal.OpenOn(newNetwork(w)))}
	j := &janitor{w: w, r: r, horizon: w.horizon()}
	if j.horizon == 0 {
		return
	}
	w.spawn(fmt.Sprint("janitor ", w.clients), nil, func() {
		w.tell("begins, with the horizon %d", j.horizon)
		for _, i := range w.instances {
			if !j.carry(i) {
				w.tell("gives up because of %v", i)
				return
			}
		}
		w.crew.saw["cleaned"]++
		w.faulty = true // whoever begins behind a tombstone may be refused, and begins again
		if err := r.store.Purge(context.Background(), workflows, protocol.WorkflowSubjects(project), j.horizon+1); err != nil {
			panic(err)
		}
		j.forget()
	})
}

// forget takes away the objects of snapshots that newer snapshots have superseded.
func (j *janitor) forget() {
	needed := map[string]bool{}
	for _, i := range j.w.instances {
		newest := ""
		j.r.read(i.LogSubject(), 1, 0, func(m *journal.Message) {
			var a protocol.Append
			decode(m.Data, &a)
			if s := engine.SnapshotOf(&a); s != nil {
				if newest = ""; s.Object != nil {
					newest = s.Object.Name
				}
			}
		})
		needed[newest] = true
	}
	for name, o := range j.w.objects {
		if !needed[name] && j.w.now.Sub(o.put) >= age {
			j.w.crew.saw["object collected"]++
			delete(j.w.objects, name)
		}
	}
}

// horizon is the newest sequence that may be cleaned away: all up to it are old, and no wake is among them.
func (w *world) horizon() uint64 {
	h := uint64(0)
	for _, m := range w.stream().messages {
		if w.now.Sub(m.time) < age && w.rules.AgedHorizon {
			break
		}
		if w.rules.AckFloor && slices.ContainsFunc(w.deliveries, func(d *delivery) bool { return d.message == m && !d.acked }) {
			break
		}
		h = m.sequence
	}
	return h
}

// carry makes sure that the instance loses nothing up to the horizon.
func (j *janitor) carry(i protocol.Instance) bool {
	for try := range 12 {
		s := j.r.look(i)
		situation := s.situation()
		switch {
		case s.created == 0, j.over(i, s, situation):
			return true
		case situation.Phase == engine.Finished && s.tail.Entries[len(s.tail.Entries)-1].Kind == protocol.EntryDeleted:
			return false // somebody is about to purge it
		case j.carried(i, situation):
			if j.carriedCreate(i, s) {
				return true
			}
		case !j.w.rules.VerifyCarried && try > 0:
			return true
		case try%6 == 0:
			c := protocol.Control{
				V: protocol.Version, Input: fmt.Sprint("compact ", j.w.clients, " ", try), Action: protocol.ActionCompact,
				Sent: j.w.now, Incarnation: s.created,
			}
			j.w.publish(j.r.store, i.ControlSubject(), c)
		}
		j.w.pause(pausing)
	}
	return false
}

// over reports whether nothing of the instance is before the horizon, or all that there is, and it has expired.
func (j *janitor) over(i protocol.Instance, s sight, situation engine.Situation) bool {
	create, err := j.r.store.Last(context.Background(), workflows, i.CreateSubject())
	if errors.Is(err, journal.ErrNotFound) || must(create, err).Sequence > j.horizon && s.create.Carried == 0 {
		return true
	}
	if situation.Phase != engine.Finished || create.Sequence > j.horizon {
		return false
	}
	history := j.r.load(i, s)
	if history.Expires == nil || j.w.now.Before(history.Expires.Add(margin)) {
		return false
	}
	for _, subject := range []string{i.LogSubject(), i.ControlSubject(), i.InputsSubject()} {
		m, err := j.r.store.Last(context.Background(), workflows, subject)
		if !errors.Is(err, journal.ErrNotFound) && must(m, err).Sequence > j.horizon {
			return false
		}
	}
	return true
}

// carried reports whether a snapshot after the horizon stands for all that is before it.
func (j *janitor) carried(i protocol.Instance, situation engine.Situation) bool {
	found := false
	j.r.read(i.LogSubject(), j.horizon+1, 0, func(m *journal.Message) {
		var a protocol.Append
		decode(m.Data, &a)
		e := a.Entries[0]
		found = found || e.Kind == protocol.EntrySnapshot && e.Input >= j.horizon && a.Incarnation == situation.Incarnation
	})
	return found
}

// carriedCreate publishes the create again, if it is before the horizon, and reports whether it is after it.
func (j *janitor) carriedCreate(i protocol.Instance, s sight) bool {
	m, err := j.r.store.Last(context.Background(), workflows, i.CreateSubject())
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return false
	case must(m, err).Sequence > j.horizon, !j.w.rules.CarryCreate:
		return true
	}
	var c protocol.Create
	decode(m.Data, &c)
	c.Carried = c.Incarnation(m.Sequence)
	_, err = j.r.store.Append(context.Background(), workflows, i.CreateSubject(), m.Sequence, encode(c))
	if err != nil && !errors.Is(err, journal.ErrConflict) {
		panic(err)
	}
	return !j.w.rules.VerifyCarried
}
