package history

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// copied is a recording whose messages and notes can be changed.
func copied(rec *Recorded) *Recorded {
	c := *rec
	c.Streams = map[string][]journal.Message{}
	for name, all := range rec.Streams {
		c.Streams[name] = slices.Clone(all)
	}
	c.Notes, c.Texts = slices.Clone(rec.Notes), maps.Clone(rec.Texts)
	return &c
}

// spoilable are the streams of instances, those of the project first that is to be spoiled.
func spoilable(rec *Recorded) (names []string) {
	for _, p := range rec.Projects {
		names = append(names, rec.workflows(p)...)
	}
	return names
}

// edit changes messages of the streams of instances: f gets each of a class, until it says that it has changed one.
func edit[T any](rec *Recorded, class protocol.Class, f func(at protocol.Instance, m *journal.Message, body *T) bool) bool {
	for _, stream := range spoilable(rec) {
		all := rec.Streams[stream]
		for i := range all {
			at, is, err := protocol.ParseInstanceSubject(all[i].Subject)
			if err != nil || is != class {
				continue
			}
			var body T
			if json.Unmarshal(all[i].Data, &body) != nil || !f(at, &all[i], &body) {
				continue
			}
			text, err := json.Marshal(body)
			if err != nil {
				panic(err)
			}
			all[i].Data = text
			return true
		}
	}
	return false
}

// entry changes the first entry of a kind that f says it has changed, anywhere in a log.
func entry(rec *Recorded, kind protocol.EntryKind, f func(at protocol.Instance, a *protocol.Append, e *protocol.Entry) bool) bool {
	return edit(rec, protocol.ClassLog, func(at protocol.Instance, _ *journal.Message, a *protocol.Append) bool {
		for i := 0; i < len(a.Entries); i++ {
			if a.Entries[i].Kind == kind && f(at, a, &a.Entries[i]) {
				return true
			}
		}
		return false
	})
}

// drop removes the messages of a class that f names.
func drop[T any](rec *Recorded, class protocol.Class, f func(at protocol.Instance, body *T) bool) bool {
	dropped := false
	for _, stream := range spoilable(rec) {
		rec.Streams[stream] = slices.DeleteFunc(rec.Streams[stream], func(m journal.Message) bool {
			at, is, err := protocol.ParseInstanceSubject(m.Subject)
			var body T
			if err != nil || dropped || is != class || json.Unmarshal(m.Data, &body) != nil || !f(at, &body) {
				return false
			}
			dropped = true
			return true
		})
	}
	return dropped
}

// add stores another message behind all of a stream, or before the one at a sequence.
func add(rec *Recorded, stream, subject string, body any, before uint64, at time.Time) bool {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	all := rec.Streams[stream]
	m := journal.Message{Subject: subject, Sequence: all[len(all)-1].Sequence + 1, Time: all[len(all)-1].Time, Data: text}
	place := len(all)
	if before > 0 {
		place = slices.IndexFunc(all, func(m journal.Message) bool { return m.Sequence == before })
		m.Sequence, m.Time = before-1, at
	}
	rec.Streams[stream] = slices.Insert(slices.Clip(all), place, m) // edit goes on with what it has
	return true
}

// note changes the first note that f says it has changed.
func note(rec *Recorded, f func(n *notes.Note) bool) bool {
	for _, p := range rec.Projects {
		for i := range rec.Notes {
			n := rec.Notes[i]
			if n.Project == p && f(&n) {
				rec.Notes[i] = n
				return true
			}
		}
	}
	return false
}

func kindOf(at protocol.Instance, kind string) bool { return strings.HasPrefix(at.ID, kind+"-") }

// plant is a violation of a rule, as a recording would have it.
type plant struct {
	name  string
	rule  Rule
	plant func(rec *Recorded) bool
}

// plants are those about instances.
var plants = []plant{
	{"a message is garbled", Readable, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassLog, func(_ protocol.Instance, m *journal.Message, a *protocol.Append) bool {
			a.Entries[0].Kind = "unheard-of"
			return true
		})
	}},
	{"an acknowledged create is lost", CreateKept, func(rec *Recorded) bool {
		lost := ""
		drop(rec, protocol.ClassCreate, func(at protocol.Instance, _ *protocol.Create) bool {
			lost = at.ID
			return kindOf(at, "works")
		})
		for drop(rec, protocol.ClassLog, func(at protocol.Instance, _ *protocol.Append) bool { return at.ID == lost }) {
			continue
		}
		return drop(rec, protocol.ClassDone, func(at protocol.Instance, _ *protocol.Done) bool { return at.ID == lost })
	}},
	{"two are told that they have created it", CreateKept, func(rec *Recorded) bool {
		return note(rec, func(n *notes.Note) bool {
			refused := n.Kind == notes.Answered && n.Action == "create" && n.Outcome == notes.Refused
			n.Outcome = notes.OK
			return refused
		})
	}},
	{"a create that was refused is there", CreateKept, func(rec *Recorded) bool {
		return note(rec, func(n *notes.Note) bool {
			ok := n.Kind == notes.Answered && n.Action == "create" && n.Outcome == notes.OK
			n.Outcome = notes.Refused
			return ok
		})
	}},
	{"nobody has asked for an instance", CreateKept, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassCreate, func(at protocol.Instance, _ *journal.Message, c *protocol.Create) bool {
			var s work.Script
			if !kindOf(at, "works") || json.Unmarshal(c.Params, &s) != nil {
				return false
			}
			s.By = "r0"
			c.Params, _ = json.Marshal(s)
			return true
		})
	}},
	{"an instance is where its id does not say", Placed, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassCreate, func(at protocol.Instance, m *journal.Message, c *protocol.Create) bool {
			at.Shard++
			m.Subject = at.CreateSubject()
			return c.Schedule != nil // of which no client knows
		})
	}},
	{"a create is stored twice", CreateKept, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassCreate, func(at protocol.Instance, _ *journal.Message, c *protocol.Create) bool {
			return kindOf(at, "naps") && add(rec, at.Stream(), at.CreateSubject(), c, 0, time.Time{})
		})
	}},
	{"an acknowledged event is lost", InputKept, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassEvent, func(at protocol.Instance, e *protocol.Event) bool { return kindOf(at, "is-large") })
	}},
	{"an acknowledged control is lost", InputKept, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassControl, func(at protocol.Instance, c *protocol.Control) bool {
			return kindOf(at, "is-steered") && c.Source.Kind == "program"
		})
	}},
	{"a zombie writes", Owned, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryCompleted, func(at protocol.Instance, a *protocol.Append, _ *protocol.Entry) bool {
			a.Runner += "-other"
			return a.Entries[0].Kind != protocol.EntryClaimed && !kindOf(at, "cron")
		})
	}},
	{"an append is stored twice", Owned, func(rec *Recorded) bool {
		before := ""
		return edit(rec, protocol.ClassLog, func(at protocol.Instance, _ *journal.Message, a *protocol.Append) bool {
			if before != "" && kindOf(at, "works") {
				a.ID = strings.TrimPrefix(before, at.ID+" ")
				return before != a.ID
			}
			if kindOf(at, "works") {
				before = at.ID + " " + a.ID
			}
			return false
		})
	}},
	{"somebody claims under the wake of another instance", Owned, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryClaimed, func(_ protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			a.Holder.Sequence++
			e.Wake = &a.Holder
			return true
		})
	}},
	{"somebody claims under the create what is parked", Owned, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryClaimed, func(at protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			if !kindOf(at, "naps") {
				return false
			}
			a.Holder = protocol.Wake{Stream: at.Stream(), Sequence: a.Incarnation}
			e.Wake = &a.Holder
			return true
		})
	}},
	{"a run counts as lost that was not", Owned, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryClaimed, func(_ protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			e.Lost = !e.Lost
			return true
		})
	}},
	{"it goes on without a claim", Owned, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassLog, func(at protocol.Instance, a *protocol.Append) bool {
			return kindOf(at, "naps") && a.Entries[0].Kind == protocol.EntryClaimed && len(a.Entries) == 1
		})
	}},
	{"it goes on after its end", Legal, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryCompleted, func(at protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			more := *a
			more.ID, more.Entries = "more", []protocol.Entry{{Kind: protocol.EntryStarted, Attempt: 1, Step: &protocol.Key{Op: protocol.OpDo, Name: "z", Count: 1}}}
			return add(rec, at.Stream(), at.LogSubject(), more, 0, time.Time{})
		})
	}},
	{"it goes on although it is paused", Legal, func(rec *Recorded) bool {
		before := map[protocol.Instance]protocol.EntryKind{}
		return edit(rec, protocol.ClassLog, func(at protocol.Instance, _ *journal.Message, a *protocol.Append) bool {
			paused := before[at] == protocol.EntryPaused && a.Entries[0].Kind == protocol.EntryResumed
			if before[at] = last(a.Entries).Kind; paused {
				a.Entries[0] = protocol.Entry{Kind: protocol.EntryClaimed, Wake: &a.Holder}
			}
			return paused
		})
	}},
	{"a step has two results", OneResult, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryStepCompleted, func(at protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			a.Entries = append(a.Entries[:1:1], a.Entries...)
			return a.Entries[0].Kind == protocol.EntryStepCompleted
		})
	}},
	{"a result is of no body", OneResult, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryStepCompleted, func(at protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			e.Result = json.RawMessage(`"made up"`)
			return e.Step.Op == protocol.OpDo && e.Object == nil
		})
	}},
	{"two steps have one key", OneKey, func(rec *Recorded) bool {
		first := map[string]notes.Note{} // by instance
		return note(rec, func(n *notes.Note) bool {
			if n.Kind != notes.Body {
				return false
			}
			one, known := first[n.ID]
			if !known {
				first[n.ID] = *n
			}
			n.Key = one.Key
			return known && n.Step != one.Step
		})
	}},
	{"a step has two keys", OneKey, func(rec *Recorded) bool {
		for _, n := range rec.Notes {
			if n.Project == rec.Projects[0] && n.Kind == notes.Body && n.Attempt > 1 {
				n.Key = "another"
				rec.Notes = append(rec.Notes, n)
				return true
			}
		}
		return false
	}},
	{"a body runs over what is not stored", Licensed, func(rec *Recorded) bool {
		return note(rec, func(n *notes.Note) bool {
			n.Fence = 1 << 40
			return n.Kind == notes.Body
		})
	}},
	{"an event is taken twice", OneEnd, func(rec *Recorded) bool {
		taken := map[string]protocol.Entry{}
		return entry(rec, protocol.EntryReceived, func(at protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			before, twice := taken[at.ID]
			taken[at.ID] = *e
			if twice = twice && before.Type == e.Type; twice {
				step := e.Step
				*e = before
				e.Step = step
			}
			return twice
		})
	}},
	{"an event is taken that nobody has sent", OneEnd, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryReceived, func(_ protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			e.Result = json.RawMessage(`"other"`)
			return e.Step.Op == protocol.OpEvent && e.Object == nil
		})
	}},
	{"a sleep ends twice", OneEnd, func(rec *Recorded) bool {
		return entry(rec, protocol.EntrySlept, func(at protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			a.Entries = append(a.Entries, *e)
			return !terminal(a.Entries[len(a.Entries)-2].Kind)
		})
	}},
	{"a wait times out although an event is there", OneEnd, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassLog, func(at protocol.Instance, m *journal.Message, a *protocol.Append) bool {
			for _, e := range a.Entries {
				if e.Kind == protocol.EntryTimedOut && e.Step.Op == protocol.OpEvent {
					for _, kind := range []notes.Kind{notes.Begun, notes.Answered} {
						rec.Notes = append(rec.Notes, notes.Note{
							At: m.Time.Add(-time.Minute), By: "plant", Kind: kind, Request: "late", Action: "event", Outcome: notes.OK,
							Project: at.Project, Workflow: at.Workflow, ID: at.ID, Lane: "late",
						})
					}
					body := protocol.Event{V: 1, Input: "late", Type: "news", Sent: m.Time}
					return add(rec, at.Stream(), at.EventSubject(), body, m.Sequence, m.Time.Add(-time.Minute))
				}
			}
			return false
		})
	}},
	{"a sleep is short", NotEarly, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryWaiting, func(at protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			if e.Until == nil || e.Step.Op != protocol.OpSleep || !kindOf(at, "naps") {
				return false
			}
			e.Until = new(e.Until.Add(time.Minute))
			return true
		})
	}},
	{"a sleep is short that left no trace", NotEarly, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassCreate, func(at protocol.Instance, _ *journal.Message, c *protocol.Create) bool {
			var s work.Script
			if !kindOf(at, "naps") || json.Unmarshal(c.Params, &s) != nil {
				return false
			}
			s.Ops[1].For += time.Minute
			c.Params, _ = json.Marshal(s)
			return true
		})
	}},
	{"an instance starts before its moment", NotEarly, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassCreate, func(_ protocol.Instance, m *journal.Message, c *protocol.Create) bool {
			m.Time = m.Time.Add(-time.Minute)
			return c.Schedule != nil
		})
	}},
	{"a control is obeyed that nobody has sent", Obeyed, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryPaused, func(_ protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			e.InputID = "made up"
			return true
		})
	}},
	{"a control is obeyed twice", Obeyed, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryPaused, func(_ protocol.Instance, a *protocol.Append, e *protocol.Entry) bool {
			a.Entries = append([]protocol.Entry{*e}, a.Entries...)
			return true
		})
	}},
	{"a control is left", Obeyed, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassControl, func(at protocol.Instance, _ *journal.Message, c *protocol.Control) bool {
			more := protocol.Control{V: 1, Input: "more", Action: protocol.ActionRestart, Source: protocol.Source{Kind: "doctor"}}
			return kindOf(at, "is-steered") && add(rec, at.Stream(), at.ControlSubject(), more, 0, time.Time{})
		})
	}},
	{"a client is told another result", Told, func(rec *Recorded) bool {
		return note(rec, func(n *notes.Note) bool {
			result := n.Kind == notes.Answered && n.Action == "result" && n.Outcome == notes.OK
			n.Value = json.RawMessage(`{"output":["other"]}`)
			return result && strings.HasPrefix(n.ID, "works-")
		})
	}},
	{"the code was given another result", Told, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryCompleted, func(at protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			e.Result = json.RawMessage(`["other"]`)
			return kindOf(at, "works")
		})
	}},
	{"an end is not announced", Announced, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassDone, func(at protocol.Instance, _ *protocol.Done) bool { return kindOf(at, "works") })
	}},
	{"another end is announced", Announced, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassDone, func(at protocol.Instance, _ *journal.Message, d *protocol.Done) bool {
			d.Output = json.RawMessage(`["other"]`)
			return kindOf(at, "works")
		})
	}},
	{"a call is answered with what its child did not return", Family, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryReceived, func(at protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			var d protocol.Done
			if e.Step.Op != protocol.OpCall || json.Unmarshal(e.Result, &d) != nil {
				return false
			}
			d.Output = json.RawMessage(`["other"]`)
			e.Result, _ = json.Marshal(d)
			return true
		})
	}},
	{"a child is not there", Family, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassCreate, func(_ protocol.Instance, c *protocol.Create) bool { return c.Parent != nil })
	}},
	{"a parent does not know its child", Family, func(rec *Recorded) bool {
		var parent protocol.Instance
		entry(rec, protocol.EntryCompleted, func(at protocol.Instance, a *protocol.Append, _ *protocol.Entry) bool {
			parent = at
			return kindOf(at, "works")
		})
		return edit(rec, protocol.ClassCreate, func(at protocol.Instance, m *journal.Message, c *protocol.Create) bool {
			if at != parent {
				return false
			}
			c.Parent = &protocol.Parent{Project: at.Project, Workflow: at.Workflow, ID: at.ID, Incarnation: m.Sequence}
			return true
		})
	}},
	{"a step is not undone", Undone, func(rec *Recorded) bool {
		spoiled := false
		for entry(rec, protocol.EntryStepCompleted, func(at protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			if at.Project != rec.Projects[0] || e.Step.Op != protocol.OpRollback {
				return false
			}
			e.Kind = protocol.EntryHeartbeat
			return true
		}) {
			spoiled = true // go on: one that was restarted since begins anew
		}
		return spoiled
	}},
	{"too many execute", Limited, func(rec *Recorded) bool {
		for _, stream := range rec.workflows(rec.Projects[0]) {
			all := rec.Streams[stream]
			for i := range all {
				if at, class, err := protocol.ParseInstanceSubject(all[i].Subject); err == nil && class == protocol.ClassLog {
					at.Workflow = work.Few
					all[i].Subject = at.LogSubject()
				}
			}
		}
		return true
	}},
	{"an instance does not finish", Finished, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassLog, func(at protocol.Instance, a *protocol.Append) bool {
			return kindOf(at, "naps") && last(a.Entries).Kind == protocol.EntryCompleted
		})
	}},
	{"a moment has no instance", Moments, func(rec *Recorded) bool {
		return drop(rec, protocol.ClassCreate, func(_ protocol.Instance, c *protocol.Create) bool { return c.Schedule != nil })
	}},
	{"an instance has no moment", Moments, func(rec *Recorded) bool {
		return edit(rec, protocol.ClassCreate, func(_ protocol.Instance, _ *journal.Message, c *protocol.Create) bool {
			if c.Schedule == nil {
				return false
			}
			c.Schedule.Planned = c.Schedule.Planned.Add(time.Second)
			return true
		})
	}},
	{"a moment is counted as missed that was not", Moments, func(rec *Recorded) bool {
		all := rec.Streams[protocol.StreamClock]
		for i := range all {
			var tick protocol.Tick
			if ours := strings.HasPrefix(all[i].Subject, strings.TrimSuffix(protocol.ClockSubjectsOf(rec.Projects[0]), ">")); ours && json.Unmarshal(all[i].Data, &tick) == nil && tick.Progress != nil {
				tick.Progress.Missed++
				all[i].Data, _ = json.Marshal(tick)
				return true
			}
		}
		return false
	}},
}

// rewrite changes the state of the first agent of which f says that it has.
func rewrite(rec *Recorded, f func(name string, b *work.Book) bool) bool {
	for _, p := range rec.Projects {
		all := rec.Streams[protocol.KVStream(protocol.AgentsBucket(p))]
		for i := range all {
			var r protocol.Record
			var b work.Book
			if json.Unmarshal(all[i].Data, &r) != nil || r.Class != work.ClassLedger || json.Unmarshal(r.State, &b) != nil || !f(r.Name, &b) {
				continue
			}
			var err error
			if r.State, err = json.Marshal(b); err == nil {
				all[i].Data, err = json.Marshal(r)
			}
			if err != nil {
				panic(err)
			}
			return true
		}
	}
	return false
}

// line is where the first line of a lane stands, -1 if none does.
func line(b *work.Book, lane string) int {
	return slices.IndexFunc(b.Lines, func(l string) bool { return strings.HasPrefix(l, lane) })
}

// agentPlants are those about agents.
var agentPlants = []plant{
	{"a message is applied twice", Applied, func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			at := line(b, "c")
			if at >= 0 {
				b.Lines = append(b.Lines, b.Lines[at])
			}
			return at >= 0
		})
	}},
	{"a message is lost", Applied, func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			at := line(b, "c")
			if at >= 0 {
				b.Lines = slices.Delete(b.Lines, at, at+1)
			}
			return at >= 0
		})
	}},
	{"a message that was refused is applied", Applied, func(rec *Recorded) bool {
		return note(rec, func(n *notes.Note) bool {
			told := n.Kind == notes.Answered && n.Workflow == work.ClassLedger && n.Number > 0 && n.Outcome == notes.OK
			n.Outcome = notes.Refused
			return told
		})
	}},
	{"a lane is out of order", InOrder, func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			at := line(b, work.LaneProgress)
			if at >= 0 {
				b.Lines = append(b.Lines, b.Lines[at])
				b.Lines = slices.Delete(b.Lines, at, at+1)
			}
			return at >= 0
		})
	}},
	{"the queue is out of order", InOrder, func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			at := slices.Index(b.Lines, "queue 1")
			if at >= 0 && b.Queued > 1 {
				b.Lines = append(b.Lines, b.Lines[at])
				b.Lines = slices.Delete(b.Lines, at, at+1)
			}
			return at >= 0 && b.Queued > 1
		})
	}},
	{"a call is answered with another turn", Answered, func(rec *Recorded) bool {
		return note(rec, func(n *notes.Note) bool {
			told := n.Kind == notes.Answered && n.Action == "call" && n.Outcome == notes.OK
			n.Value = json.RawMessage("1000")
			return told
		})
	}},
	{"what an agent has told another is lost", Carried, without("told/")},
	{"what an instance has told an agent is lost", Carried, without("instance/")},
	{"an instance is told where another line stands", Answered, func(rec *Recorded) bool {
		return entry(rec, protocol.EntryStepCompleted, func(_ protocol.Instance, _ *protocol.Append, e *protocol.Entry) bool {
			e.Result = json.RawMessage("1000")
			return e.Step.Name == work.StepAsk
		})
	}},
	{"what an agent has planned is lost", Carried, without(work.LaneAfter)},
	{"what an agent has queued is lost", Carried, without(work.LaneQueue)},
	{"the end of a workflow is lost", Carried, without(work.LaneWorkflow)},
	{"an agent is told what nobody said", Carried, func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			b.Lines = append(b.Lines, "told/north/nobody 1")
			return true
		})
	}},
	{"mail is left", Delivered, func(rec *Recorded) bool {
		stream := protocol.InboxStream(rec.Projects[0])
		rec.Streams[stream] = append(rec.Streams[stream], journal.Message{Subject: "left", Sequence: 1})
		return true
	}},
	{"a letter is dead", Delivered, func(rec *Recorded) bool {
		stream := protocol.KVStream(protocol.DeadBucket(rec.Projects[0]))
		rec.Streams[stream] = append(rec.Streams[stream], journal.Message{Subject: "dead", Sequence: 1, Data: []byte("{}")})
		return true
	}},
	{"a moment of an agent is lost", Moments, ring(func(all []int64) []int64 { return all[:len(all)-1] })},
	{"a moment of an agent comes twice", Moments, ring(func(all []int64) []int64 { return append(all, all[0]) })},
	{"moments of an agent are out of order", Moments, ring(func(all []int64) []int64 {
		slices.Reverse(all)
		return all
	})},
}

// attend changes the state of the first hall.
func attend(rec *Recorded, f func(a *work.Attendance)) bool {
	for _, p := range rec.Projects {
		all := rec.Streams[protocol.KVStream(protocol.AgentsBucket(p))]
		for i := range all {
			var r protocol.Record
			var a work.Attendance
			if json.Unmarshal(all[i].Data, &r) != nil || r.Class != work.ClassHall || json.Unmarshal(r.State, &a) != nil {
				continue
			}
			f(&a)
			var err error
			if r.State, err = json.Marshal(a); err == nil {
				all[i].Data, err = json.Marshal(r)
			}
			if err != nil {
				panic(err)
			}
			return true
		}
	}
	return false
}

// listened changes what the first guest has heard of whom f says so.
func listened(rec *Recorded, f func(h *work.Heard) bool) bool {
	return note(rec, func(n *notes.Note) bool {
		var h work.Heard
		if n.Kind != notes.Closed || json.Unmarshal(n.Value, &h) != nil || !f(&h) {
			return false
		}
		var err error
		if n.Value, err = json.Marshal(h); err != nil {
			panic(err)
		}
		return true
	})
}

// socketPlants are those about sockets.
var socketPlants = []plant{
	{"a frame to a client is lost", Heard, func(rec *Recorded) bool {
		return listened(rec, func(h *work.Heard) bool {
			h.Ticks = append(h.Ticks, [2]int{1000, 1001})
			return true
		})
	}},
	{"the first frame to a client is lost", Heard, func(rec *Recorded) bool {
		return listened(rec, func(h *work.Heard) bool {
			h.Hello--
			return len(h.Ticks) > 0
		})
	}},
	{"a frame comes to a client twice", Heard, func(rec *Recorded) bool {
		return listened(rec, func(h *work.Heard) bool {
			if len(h.Echoes) > 0 {
				h.Echoes = work.Follow(h.Echoes, h.Echoes[0][1])
			}
			return len(h.Echoes) > 0
		})
	}},
	{"an acknowledged frame is lost", Taken, func(rec *Recorded) bool {
		return attend(rec, func(a *work.Attendance) {
			for seat := range a.Taken {
				a.Taken[seat]--
			}
		})
	}},
	{"a frame is taken that was not sent", Taken, func(rec *Recorded) bool {
		return listened(rec, func(h *work.Heard) bool {
			h.Sent--
			return h.Sent >= 0
		})
	}},
	{"the hall has seen a frame twice", Taken, func(rec *Recorded) bool {
		return attend(rec, func(a *work.Attendance) { a.Faults = append(a.Faults, "frame 3 after 3") })
	}},
	{"a connection does not end", Left, func(rec *Recorded) bool {
		return attend(rec, func(a *work.Attendance) { a.Ended-- })
	}},
	// All of them: whether a single one was to be applied nobody can say if a caller was not told.
	{"ticks are lost", Applied, func(rec *Recorded) bool {
		return attend(rec, func(a *work.Attendance) { a.Ticks = 0 })
	}},
	{"ticks are applied twice", Applied, func(rec *Recorded) bool {
		return attend(rec, func(a *work.Attendance) { a.Ticks *= 2 })
	}},
}

// without takes the first line of a lane away.
func without(lane string) func(*Recorded) bool {
	return func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			at := line(b, lane)
			if at >= 0 {
				b.Lines = slices.Delete(b.Lines, at, at+1)
			}
			return at >= 0
		})
	}
}

// ring changes the moments for which an agent was called.
func ring(change func([]int64) []int64) func(*Recorded) bool {
	return func(rec *Recorded) bool {
		return rewrite(rec, func(_ string, b *work.Book) bool {
			for id, all := range b.Rung {
				if len(all) > 1 {
					b.Rung[id] = change(all)
					return true
				}
			}
			return false
		})
	}
}

// sees checks that every violation that is planted into a recording is found there, in the project with one shard and in that with several.
func sees(t *testing.T, rec *Recorded, project string) {
	t.Helper()
	for _, p := range slices.Concat(plants, agentPlants, socketPlants) {
		spoiled := copied(rec)
		spoiled.Projects = []string{project, work.OtherThan(project)}
		if !p.plant(spoiled) {
			t.Errorf("%s: there is no place for that in the recording of %s", p.name, project)
			continue
		}
		found := Judge(spoiled)
		if !slices.ContainsFunc(found.Violations, func(v Violation) bool { return v.Rule == p.rule }) {
			t.Errorf("nobody has seen that %s (%s) in %s: %v", p.name, p.rule, project, found.Violations)
		}
	}
}
