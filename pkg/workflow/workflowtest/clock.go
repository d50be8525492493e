package workflowtest

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// settle waits until nothing moves: every wake is acked, so that what has not ended is parked, paused or queued.
func (e *Env) settle() {
	e.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		before, _ := e.moved()
		if e.idle() {
			if after, rests := e.moved(); rests && after == before {
				return
			}
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("workflowtest: something goes on for more than %v of real time: a step's body that blocks?", patience)
		}
	}
}

// idle reports whether no wake is with a runner or on its way to one.
func (e *Env) idle() bool {
	e.t.Helper()
	for _, name := range append(e.streams(), protocol.TimersStream(e.Project.Config.Name)) {
		stream, err := e.Project.JS.Stream(e.t.Context(), name)
		if err != nil {
			e.t.Fatalf("workflowtest: stream %s: %v", name, err)
		}
		consumers := stream.ListConsumers(e.t.Context())
		for info := range consumers.Info() {
			if info.Config.Durable != "" && (info.NumPending > 0 || info.NumAckPending > 0 || e.unseen(stream, info)) {
				return false
			}
		}
		if err := consumers.Err(); err != nil {
			e.t.Fatalf("workflowtest: consumers of %s: %v", name, err)
		}
	}
	return true
}

// unseen reports whether the stream holds a wake of which the consumer does not know yet: the server tells it a moment after
// the wake was stored.
func (e *Env) unseen(stream jetstream.Stream, consumer *jetstream.ConsumerInfo) bool {
	e.t.Helper()
	_, err := stream.GetMsg(e.t.Context(), consumer.Delivered.Stream+1, jetstream.WithGetMsgSubject(consumer.Config.FilterSubject))
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		e.t.Fatalf("workflowtest: consumer %s: %v", consumer.Name, err)
	}
	return err == nil
}

// next is what comes next: a moment for which an instance is parked, or something planned.
func (e *Env) next() (next moment, ok bool) {
	e.t.Helper()
	for _, m := range e.parked() {
		if !ok || m.at.Before(next.at) {
			next, ok = m, true
		}
	}
	for _, s := range e.sources {
		if at, there := s.Next(); there && (!ok || at.Before(next.at)) {
			next, ok = moment{at: at, source: s}, true
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, p := range e.planned {
		if !ok || p.at.Before(next.at) {
			next, ok = moment{at: p.at, planned: i + 1}, true
		}
	}
	return next, ok
}

// moment is one at which something happens: a park that ends, a source that moves, or the planned thing of a number from 1.
type moment struct {
	at       time.Time
	planned  int
	source   Source
	instance protocol.Instance
	engine.Situation
}

// jump lets the clock go to a moment and what waits for it begin.
func (e *Env) jump(m moment) {
	e.t.Helper()
	e.set(m.at)
	if m.planned > 0 {
		e.mu.Lock()
		p := e.planned[m.planned-1]
		e.planned = slices.Delete(e.planned, m.planned-1, m.planned)
		e.mu.Unlock()
		p.do()
		return
	}
	if m.source != nil {
		m.source.Move()
		return
	}
	body, err := json.Marshal(protocol.Timer{
		V: protocol.Version, Workflow: m.instance.Workflow, ID: m.instance.ID, Incarnation: m.Incarnation, Park: m.Park, Due: m.at,
	})
	if err == nil {
		_, err = e.Project.Journal().Publish(e.t.Context(), m.instance.DueSubject(m.Park), nil, body)
	}
	if err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
}

// parked lists the instances that are parked until a moment.
func (e *Env) parked() []moment {
	e.t.Helper()
	var all []moment
	for instance, s := range e.situations() {
		if s.Phase == engine.Parked && s.Until != nil {
			all = append(all, moment{at: *s.Until, instance: instance, Situation: s})
		}
	}
	return all
}

// situations reads where every instance stands.
func (e *Env) situations() map[protocol.Instance]engine.Situation {
	e.t.Helper()
	all := map[protocol.Instance]engine.Situation{}
	for _, stream := range e.streams() {
		for subject := range e.streamInfo(stream, protocol.WorkflowSubjects(e.Project.Config.Name)).Subjects {
			instance, class, err := protocol.ParseInstanceSubject(subject)
			if err != nil || class != protocol.ClassCreate {
				continue
			}
			create, err := e.Project.Journal().Last(e.t.Context(), stream, subject)
			if err != nil {
				continue // deleted meanwhile
			}
			var c protocol.Create
			_ = json.Unmarshal(create.Data, &c) // the runner says what is wrong with it
			var tail protocol.Append
			var at uint64
			if m, err := e.Project.Journal().Last(e.t.Context(), stream, instance.LogSubject()); err == nil && json.Unmarshal(m.Data, &tail) == nil {
				at = m.Sequence
			}
			all[instance] = engine.Situate(stream, c.Incarnation(create.Sequence), at, &tail)
		}
	}
	return all
}

// streams are those of the project's instances.
func (e *Env) streams() []string {
	all := make([]string, max(1, e.Project.Config.Settings.Shards))
	for shard := range all {
		all[shard] = protocol.WorkflowsStream(e.Project.Config.Name, shard)
	}
	return all
}

func (e *Env) streamInfo(name, subjects string) jetstream.StreamState {
	e.t.Helper()
	stream, err := e.Project.JS.Stream(e.t.Context(), name)
	if err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
	info, err := stream.Info(e.t.Context(), jetstream.WithSubjectFilter(subjects))
	if err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
	return info.State
}

// moved counts all that has ever moved, and reports whether the sources rest.
func (e *Env) moved() (moved uint64, rest bool) {
	rest = true
	for _, stream := range e.streams() {
		moved += e.streamInfo(stream, "").LastSeq
	}
	for _, s := range e.sources {
		n, rests := s.Rests()
		moved, rest = moved+n, rest && rests
	}
	return moved, rest
}
