package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// story is everything that is known of the instances of one id.
type story struct {
	at protocol.Instance
	// created is the sequence of the create, 0 if there is none; creates is how many there are.
	created   uint64
	createdAt time.Time
	creates   int
	create    protocol.Create
	script    work.Script
	events    []event
	controls  []engine.Control
	log       []logged
	done      []protocol.Done
	kinds     map[uint64]protocol.Class // of messages that may be wakes
	// asked are the requests of clients, bodies what bodies have noted.
	asked  []asked
	bodies []notes.Note

	// truth is the log, folded; gone is set if it ends with a delete, and nothing else is left.
	truth *engine.History
	gone  bool
}

type event struct {
	engine.Input
	stored time.Time
}

// logged is one message of a log.
type logged struct {
	sequence uint64
	stored   time.Time
	protocol.Append
}

// asked is a request with its answer. One without answer is not known.
type asked struct {
	notes.Note
	begun time.Time
	until time.Time // when it was answered
}

// tell puts the stories together.
func tell(rec *Recorded, c *court) map[protocol.Instance]*story {
	stories := map[protocol.Instance]*story{}
	of := func(at protocol.Instance) *story {
		s := stories[at]
		if s == nil {
			s = &story{at: at, kinds: map[uint64]protocol.Class{}}
			stories[at] = s
		}
		return s
	}
	shards := map[string]int{}
	for _, project := range rec.Projects {
		shards[project] = max(1, rec.Shards[project])
		for _, stream := range rec.workflows(project) {
			for i := range rec.Streams[stream] {
				m := &rec.Streams[stream][i]
				at, class, err := protocol.ParseInstanceSubject(m.Subject)
				if err == nil {
					err = of(at).add(class, m)
				}
				if err != nil {
					c.find(Readable, m.Subject, fmt.Sprintf("message %d: %v", m.Sequence, err))
				}
			}
		}
	}
	named := func(n notes.Note) *story {
		return of(protocol.Instance{Project: n.Project, Shard: protocol.Shard(n.ID, max(1, shards[n.Project])), Workflow: n.Workflow, ID: n.ID})
	}
	for _, a := range pair(rec.Notes) {
		if a.Workflow == work.Any || a.Workflow == work.Few || a.Workflow == work.Tick {
			s := named(a.Note)
			s.asked = append(s.asked, a)
		}
	}
	for _, n := range rec.Notes {
		if n.Kind == notes.Body || n.Kind == notes.Returned {
			s := named(n)
			s.bodies = append(s.bodies, n)
		}
	}
	return stories
}

// pair joins the two ends of requests.
func pair(all []notes.Note) []asked {
	var requests []asked
	index := map[string]int{}
	for _, n := range all {
		switch n.Kind {
		case notes.Begun:
			index[n.By+n.Request] = len(requests)
			unknown := asked{Note: n, begun: n.At}
			unknown.Outcome = notes.Unknown
			requests = append(requests, unknown)
		case notes.Answered:
			if i, ok := index[n.By+n.Request]; ok {
				requests[i] = asked{Note: n, begun: requests[i].begun, until: n.At}
			}
		}
	}
	return requests
}

// add takes a message of the stream.
func (s *story) add(class protocol.Class, m *journal.Message) (err error) {
	s.kinds[m.Sequence] = class
	switch class {
	case protocol.ClassCreate:
		s.created, s.createdAt, s.create, s.script = m.Sequence, m.Time, protocol.Create{}, work.Script{}
		s.creates++
		if err = json.Unmarshal(m.Data, &s.create); err == nil && s.create.Params != nil {
			err = json.Unmarshal(s.create.Params, &s.script)
		}
	case protocol.ClassEvent:
		var e protocol.Event
		err = json.Unmarshal(m.Data, &e)
		s.events = append(s.events, event{
			Input:  engine.Input{Sequence: m.Sequence, ID: e.Input, Type: e.Type, Payload: e.Payload, Object: e.PayloadObject, Sent: e.Sent},
			stored: m.Time,
		})
	case protocol.ClassControl:
		control := engine.Control{Sequence: m.Sequence, Stored: m.Time}
		err = json.Unmarshal(m.Data, &control.Control)
		s.controls = append(s.controls, control)
	case protocol.ClassLog:
		l := logged{sequence: m.Sequence, stored: m.Time}
		if err = json.Unmarshal(m.Data, &l.Append); err == nil {
			s.log = append(s.log, l)
		}
	case protocol.ClassDone:
		var d protocol.Done
		err = json.Unmarshal(m.Data, &d)
		s.done = append(s.done, d)
	}
	return err
}

// deleting reports whether somebody has deleted the instance, or may have: then what was there before is gone.
func (s *story) deleting() bool {
	return slices.ContainsFunc(s.asked, func(a asked) bool { return a.Action == "delete" && a.Outcome != notes.Refused })
}

// acknowledged is when a client first knew of an event that it is stored, by the ids of the events.
func (s *story) acknowledged() map[string]time.Time {
	all := map[string]time.Time{}
	for _, a := range s.asked {
		if at, known := all[a.Lane]; a.Action == "event" && a.Outcome == notes.OK && (!known || a.until.Before(at)) {
			all[a.Lane] = a.until
		}
	}
	return all
}

// inputs are the events as the engine takes them.
func (s *story) inputs() []engine.Input {
	all := make([]engine.Input, 0, len(s.events))
	for _, e := range s.events {
		all = append(all, e.Input)
	}
	return all
}

// nap is a sleep of the code: how long it takes, and the step before it.
type nap struct {
	after string
	takes time.Duration
}

// sleeps are those of the script that follow a step at once, by their names.
func (s *story) sleeps() map[string]nap {
	all := map[string]nap{}
	var look func(ops []work.Op)
	look = func(ops []work.Op) {
		for i, o := range ops {
			if o.Sleep != "" && i > 0 && ops[i-1].Do != "" {
				all[o.Sleep] = nap{ops[i-1].Do, o.For}
			}
			for _, branch := range o.Branches {
				look(branch)
			}
		}
	}
	look(s.script.Ops)
	return all
}

// returned is when bodies returned, by what they did.
func (s *story) returned() map[string]time.Time {
	all := map[string]time.Time{}
	for _, n := range s.bodies {
		var text string
		if n.Kind == notes.Returned && json.Unmarshal(n.Value, &text) == nil {
			all[text] = n.At
		}
	}
	return all
}

// around is what was noted and stored of the story at a sequence and near it, for people.
func (s *story) around(sequence uint64) []string {
	const most = 6
	at := len(s.log)
	for i, l := range s.log {
		if l.sequence >= sequence {
			at = i
			break
		}
	}
	if sequence == 0 {
		at = len(s.log)
	}
	var lines []string
	for _, l := range s.log[max(0, at-most):min(len(s.log), at+most/2)] {
		text, err := json.Marshal(l.Append)
		if err != nil {
			text = []byte(err.Error())
		}
		lines = append(lines, fmt.Sprintf("%d %s %s", l.sequence, l.stored.Format(clock), text))
	}
	for _, e := range s.events {
		lines = append(lines, fmt.Sprintf("event %d %s %s %q", e.Sequence, e.stored.Format(clock), e.Type, e.ID))
	}
	for _, c := range s.controls {
		lines = append(lines, fmt.Sprintf("control %d %s %s by %s", c.Sequence, c.Stored.Format(clock), c.Action, c.Source.Kind))
	}
	for _, a := range s.asked {
		lines = append(lines, fmt.Sprintf("%s %s %s to %s: %s %s", a.Request, a.Action, a.begun.Format(clock), a.until.Format(clock), a.Outcome, a.Detail))
	}
	return lines
}

const clock = "15:04:05.000"

func (s *story) counts() string {
	return fmt.Sprintf("created at %d, %d in the log, %d announced", s.created, len(s.log), len(s.done))
}
