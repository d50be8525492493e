package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/logkey"
	"github.com/skein-run/skein/internal/objects"
	"github.com/skein-run/skein/pkg/protocol"
)

// states keeps the states of one agent that are too large for its record in the object store. An object is there before
// the record that refers to it, and goes when one is stored that does not. No two puts share an object, so once it is
// replaced nobody can come to need it again, and a host that was frozen harms no other by deleting what it has replaced.
type states struct {
	id      protocol.Agent
	store   *journal.Store
	objects *objects.Store
	log     *slog.Logger
	within  time.Duration // bounds one round of deleting

	epoch  uint64
	puts   uint64
	listed bool                   // what earlier owners left is known
	litter []protocol.ObjectOwner // no record refers to them
}

// open returns the whole state of a record.
func (s *states) open(ctx context.Context, r protocol.Record) (json.RawMessage, error) {
	if r.StateObject == nil {
		return r.State, nil
	}
	whole, err := s.objects.Get(ctx, s.id.Project, *r.StateObject)
	if err != nil {
		return nil, fmt.Errorf("state of agent %q: %w", s.id, err)
	}
	return whole, nil
}

// list finds what earlier owners have put and the record does not refer to: they died between a put and a commit, or
// before they could delete what a commit had replaced. What an owner after this one has put is none of its business.
func (s *states) list(ctx context.Context, r protocol.Record) error {
	for offset, total := 0, 1; offset < total; {
		l, err := s.store.Subjects(ctx, protocol.ObjectsStream(s.id.Project), s.id.StateSubjects(), offset)
		if err != nil {
			return fmt.Errorf("list states of agent %q: %w", s.id, err)
		}
		for _, subject := range l.Subjects {
			owner, epoch, err := s.id.ParseStateSubject(subject)
			if err != nil {
				return err
			}
			if epoch < s.epoch && !s.refersTo(r, owner) {
				s.litter = append(s.litter, owner)
			}
		}
		if len(l.Subjects) == 0 {
			break
		}
		offset, total = offset+len(l.Subjects), l.Total
	}
	s.listed = true
	return nil
}

func (s *states) refersTo(r protocol.Record, owner protocol.ObjectOwner) bool {
	if r.StateObject == nil {
		return false
	}
	current, err := s.id.ParseStateObject(*r.StateObject)
	return err != nil || current == owner // what cannot be told apart stays
}

// put stores a state and returns what stands for it in the record.
func (s *states) put(ctx context.Context, whole json.RawMessage) (*protocol.Object, protocol.ObjectOwner, error) {
	s.puts++
	owner := protocol.StateOwner(s.id, s.epoch, s.puts)
	object, err := s.objects.Put(ctx, objects.Value{Owner: owner, JSON: whole})
	if err != nil {
		return nil, owner, fmt.Errorf("state of agent %q: %w", s.id, err)
	}
	return object, owner, nil
}

// tidy deletes what no record refers to. What it cannot delete now it tries again after the next turn.
func (s *states) tidy(ctx context.Context) {
	if len(s.litter) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.within)
	defer cancel()
	for len(s.litter) > 0 {
		if err := s.objects.DeleteInstance(ctx, s.litter[0]); err != nil {
			s.log.DebugContext(ctx, "cannot delete a state that was replaced", slog.Any(logkey.Error, err))
			return
		}
		s.litter = s.litter[1:]
	}
}

// tidied is a record that says whether objects of earlier states may still be there.
func (s *states) tidied(r protocol.Record) protocol.Record {
	r.Large = r.StateObject != nil || r.Large && (!s.listed || len(s.litter) > 0)
	return r
}

// statePut is a state on its way into the record.
type statePut struct {
	actor   *actor
	changed bool
	whole   json.RawMessage
	owner   *protocol.ObjectOwner // of the object that was put for it
	before  *protocol.Object
}

// putState takes the state out of a record that is to be stored if it is too large for it.
func (a *actor) putState(ctx context.Context, next *protocol.Record) (*statePut, error) {
	p := &statePut{actor: a, changed: next.Revision != a.at.record.Revision, whole: next.State, before: a.at.record.StateObject}
	if !p.changed || len(next.State) <= protocol.InlineState {
		return p, nil
	}
	if !a.states.listed {
		if err := a.states.list(ctx, a.at.record); err != nil {
			return nil, err
		}
	}
	object, owner, err := a.states.put(ctx, next.State)
	p.owner = &owner
	if err != nil {
		p.refused(ctx)
		return nil, err
	}
	next.State, next.StateObject, next.Large = nil, object, true
	return p, nil
}

// stored notes that the record is stored.
func (p *statePut) stored() {
	if !p.changed {
		return
	}
	a := p.actor
	if p.before != nil {
		if owner, err := a.id.ParseStateObject(*p.before); err == nil {
			a.states.litter = append(a.states.litter, owner)
		}
	}
	a.whole, a.changed = p.whole, true
}

// refused deletes what was put for a record that is not stored and never will be.
func (p *statePut) refused(ctx context.Context) {
	if p.owner != nil {
		p.actor.states.litter = append(p.actor.states.litter, *p.owner)
		p.actor.states.tidy(ctx)
	}
}

// observe gives the agent a turn for a state that has changed.
func (a *actor) observe(ctx context.Context) error {
	if !a.changed {
		return nil
	}
	a.changed = false
	if !a.class.observesState() {
		return nil
	}
	_, err := a.turn(ctx, nil, func(ctx context.Context, d *draft) error { return d.self.stateChanged(ctx, d.self) })
	a.changed = false // by itself
	if isEnd(err) {
		return err
	}
	if err != nil {
		a.refused = append(a.refused, fmt.Errorf("OnStateChanged: %w", err))
	}
	return nil
}
