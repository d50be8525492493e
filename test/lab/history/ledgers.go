package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/internal/moments"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// Rules about agents.
const (
	// Applied: what agents were asked for is applied once if that was acknowledged, at most once if nobody knows, and never if
	// it was refused.
	Applied Rule = "each agent message is applied once"
	// InOrder: what comes in one lane is applied in its order.
	InOrder Rule = "agent messages are applied in the order of their lane"
	// Answered: the answer of a call or request is that of the turn that was applied.
	Answered Rule = "each call's answer is the one applied"
	// Carried: what a turn asks for happens once, and nothing else does.
	Carried Rule = "what a turn asks for is carried out once"
	// Delivered: no mail is left, nor given up.
	Delivered Rule = "no mail is left, and none becomes a dead letter"
)

// book is the state of one ledger, where each of its lines stands, and what it was asked for, by line.
type book struct {
	project, name string
	work.Book
	at    map[string][]int
	asked map[string][]asked
	// follows are the lines that must be there because of lines elsewhere, may those that may be there, once.
	follows map[string]bool
	may     map[string]bool
}

func (b *book) String() string { return b.project + "/" + work.ClassLedger + "/" + b.name }

// ledgers holds the states of all agents against what they were asked for.
func (c *court) ledgers() {
	books := library{}
	for _, project := range c.rec.Projects {
		c.open(books, project)
	}
	for _, a := range pair(c.rec.Notes) {
		if a.Workflow == work.ClassLedger && a.Number > 0 {
			b, line := books.of(a.Project, a.ID), work.Line(a.Lane, a.Number)
			b.asked[line] = append(b.asked[line], a)
		}
	}
	order := slices.Sorted(maps.Keys(books))
	for _, where := range order {
		b := books[where]
		for _, line := range slices.Sorted(maps.Keys(b.asked)) {
			c.applied(b, line)
			if at := b.at[line]; len(at) > 0 {
				b.follow(books, at[0], b.asked[line][0])
			}
		}
	}
	c.instancesAsk(books)
	for _, where := range order {
		c.lanes(books[where])
		c.lines(books[where])
	}
	c.mail()
	c.ringing(books)
}

// library has the books by project and name.
type library map[string]*book

func (l library) of(project, name string) *book {
	b := l[project+"/"+name]
	if b == nil {
		b = &book{project: project, name: name, at: map[string][]int{}, asked: map[string][]asked{}, follows: map[string]bool{}, may: map[string]bool{}}
		l[project+"/"+name] = b
	}
	return b
}

// open reads the books of a project.
func (c *court) open(books library, project string) {
	bucket := protocol.AgentsBucket(project)
	for _, m := range c.rec.Streams[protocol.KVStream(bucket)] {
		class, name, err := protocol.ParseAgentKey(strings.TrimPrefix(m.Subject, protocol.KVSubject(bucket, "")))
		if err != nil || class != work.ClassLedger || len(m.Data) == 0 {
			continue
		}
		b := books.of(project, name)
		raw, err := state(c.rec, &m)
		if err == nil && raw != nil {
			err = json.Unmarshal(raw, &b.Book)
		}
		if err != nil {
			c.find(Readable, b.String(), fmt.Sprintf("state: %v", err))
		}
		for i, line := range b.Lines {
			b.at[line] = append(b.at[line], i)
		}
		c.count("agents", 1)
		c.count("lines", len(b.Lines))
	}
}

// state is that of a record.
func state(rec *Recorded, m *journal.Message) (json.RawMessage, error) {
	var r protocol.Record
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, err
	}
	if r.StateObject != nil {
		return rec.States[r.StateObject.Name], nil
	}
	return r.State, nil
}

// accuseBook finds something wrong with an agent, near a line.
func (c *court) accuseBook(r Rule, b *book, line string, format string, args ...any) {
	var around []string
	for _, at := range b.at[line] {
		around = append(around, fmt.Sprintf("lines %d to %d: %q", max(0, at-4), min(len(b.Lines), at+5), b.Lines[max(0, at-4):min(len(b.Lines), at+5)]))
	}
	for _, a := range b.asked[line] {
		around = append(around, fmt.Sprintf("%s %s %s to %s: %s %s %s", a.Request, a.Action, a.begun.Format(clock), a.until.Format(clock), a.Outcome, a.Value, a.Detail))
	}
	c.find(r, b.String(), fmt.Sprintf(format, args...), around...)
}

// applied holds what became of a message against what its sender was told.
func (c *court) applied(b *book, line string) {
	best := notes.Refused
	for _, a := range b.asked[line] {
		c.count(a.Action+" "+string(a.Outcome), 1)
		if a.Outcome == notes.OK || best == notes.Refused {
			best = a.Outcome
		}
		var n int
		if a.Outcome != notes.OK || a.Value == nil {
			continue
		}
		if err := json.Unmarshal(a.Value, &n); err != nil || n < 1 || n > len(b.Lines) || b.Lines[n-1] != line {
			c.accuseBook(Answered, b, line, "%s was answered with %s, which is not where %q stands", a.Request, a.Value, line)
		}
	}
	switch n := len(b.at[line]); {
	case n > 1:
		c.accuseBook(Applied, b, line, "%q is applied %d times", line, n)
	case n == 0 && best == notes.OK:
		c.accuseBook(Applied, b, line, "%q was acknowledged, and is not applied", line)
	case n == 1 && best == notes.Refused:
		c.accuseBook(Applied, b, line, "%q was refused, and is applied", line)
	}
}

// follow notes which lines must be there because a message was applied as the line at an index.
func (b *book) follow(books library, at int, a asked) {
	switch a.Do {
	case "tell":
		project := b.project
		if a.Other {
			project = work.OtherThan(project)
		}
		books.of(project, a.To).follows[work.Line(work.Told(b.project, b.name), at+1)] = true
	case "plan":
		b.follows[work.Line(work.LaneAfter+"/"+a.Lane, a.Number)] = true
	case "run":
		id := work.RunID(b.name, a.Lane, a.Number)
		for _, line := range []string{work.Line(work.LaneProgress+"/"+id, 1), work.Line(work.LaneProgress+"/"+id, 2), work.Line(work.LaneWorkflow+"/"+id, 1)} {
			b.follows[line] = true
		}
	}
}

// instancesAsk notes which lines must be there because an instance has told or asked for them, and holds the answers against them. One
// that has not completed may have.
func (c *court) instancesAsk(books library) {
	for _, instance := range c.order {
		s := c.stories[instance]
		asked := 0
		for _, o := range s.script.Ops {
			if o.Tell == "" && o.Ask == "" {
				continue
			}
			b, line := books.of(s.at.Project, o.Tell+o.Ask), work.Line(work.LaneOf(s.at.ID), o.Number)
			if s.truth.End != protocol.EntryCompleted {
				b.may[line] = true
				continue
			}
			b.follows[line] = true
			if o.Ask == "" {
				continue
			}
			asked++
			answer := s.truth.Steps[o.Key(asked)]
			if at := b.at[line]; answer == nil || len(at) != 1 || string(answer.Result) != strconv.Itoa(at[0]+1) {
				c.accuse(Answered, s, 0, "it has asked %v for %q, which stands at %v, and got %v", b, line, at, answer)
			}
		}
	}
}

// lines: what follows is there once, what is queued, too, and nothing else is.
func (c *court) lines(b *book) {
	for n := range b.Queued {
		b.follows[work.Line(work.LaneQueue, n+1)] = true
	}
	for _, line := range slices.Sorted(maps.Keys(b.follows)) {
		c.count("lines that follow", 1)
		if n := len(b.at[line]); n != 1 {
			c.accuseBook(Carried, b, line, "%q is there %d times", line, n)
		}
	}
	for line := range b.may {
		if n := len(b.at[line]); n > 1 {
			c.accuseBook(Applied, b, line, "%q is there %d times", line, n)
		}
	}
	for _, line := range b.Lines {
		if b.asked[line] == nil && !b.follows[line] && !b.may[line] {
			c.accuseBook(Carried, b, line, "nothing has led to %q", line)
		}
	}
}

// lanes: the lines of a lane stand in the order of their numbers. Of the lane of a client only those count that it knows to be applied:
// it has asked for them one after the other; what programs tell has no order.
func (c *court) lanes(b *book) {
	newest := map[string]int{}
	for _, line := range b.Lines {
		lane, n, err := work.ParseLine(line)
		if err != nil {
			c.accuseBook(Readable, b, line, "%v", err)
			continue
		}
		lane = laneOf(lane)
		if all := b.asked[line]; all != nil && (all[0].Action == "tell" || !slices.ContainsFunc(all, func(a asked) bool { return a.Outcome == notes.OK })) || lane == "" {
			continue
		}
		if strings.HasPrefix(lane, work.LaneProgress+"/") && strings.HasPrefix(line, work.LaneWorkflow+"/") {
			n = 3 // the end comes after both reports
		}
		if before := newest[lane]; n <= before {
			c.accuseBook(InOrder, b, line, "%q comes after number %d of its lane", line, before)
		}
		newest[lane] = n
	}
}

// laneOf joins what a workflow reports with its end; what schedules bring once, and what steps tell, has no order.
func laneOf(lane string) string {
	if strings.HasPrefix(lane, work.LaneAfter+"/") || strings.HasPrefix(lane, work.LaneOf("")) {
		return ""
	}
	if id, ok := strings.CutPrefix(lane, work.LaneWorkflow+"/"); ok {
		return work.LaneProgress + "/" + id
	}
	return lane
}

// mail: none is left in the inboxes, and none was given up.
func (c *court) mail() {
	for _, project := range c.rec.Projects {
		for _, m := range c.rec.Streams[protocol.InboxStream(project)] {
			c.find(Delivered, m.Subject, fmt.Sprintf("message %d is not applied: %s", m.Sequence, m.Data))
		}
		for _, m := range c.rec.Streams[protocol.KVStream(protocol.DeadBucket(project))] {
			if len(m.Data) > 0 {
				c.find(Delivered, m.Subject, fmt.Sprintf("a dead letter: %s", m.Data))
			}
		}
	}
}

// ringing holds the schedules of agents that recur for ever against the moments for which they were called.
func (c *court) ringing(books library) {
	for _, project := range c.rec.Projects {
		bucket := protocol.SchedulesBucket(project)
		ticks := c.ticks(project)
		known := map[string]bool{}
		for _, m := range c.rec.Streams[protocol.KVStream(bucket)] {
			var row protocol.Schedule
			if len(m.Data) == 0 || json.Unmarshal(m.Data, &row) != nil || row.Class != work.ClassLedger || !row.Kind.Recurs() {
				continue
			}
			b := books.of(project, row.Name)
			known[row.Name+"/"+row.ID] = true
			c.rung(b, row, ticks[strings.TrimPrefix(m.Subject, protocol.KVSubject(bucket, ""))])
		}
		for _, b := range books {
			for id := range b.Rung {
				if b.project == project && !known[b.name+"/"+id] {
					c.find(Moments, b.String(), "schedule "+id+" has fired, and is not there")
				}
			}
		}
	}
}

// rung: a schedule has called for each of its moments, in their order.
func (c *court) rung(b *book, row protocol.Schedule, tick *protocol.Tick) {
	where := b.String() + " schedule " + row.ID
	plan, err := moments.Of(&row)
	if err != nil || tick == nil {
		c.find(Moments, where, fmt.Sprintf("is not armed: %v", err))
		return
	}
	var want []int64
	for next := plan.First(); !next.IsZero() && next.Before(tick.Planned); next = plan.After(next) {
		want = append(want, next.UnixMilli())
	}
	missed := 0
	if tick.Progress != nil {
		missed = tick.Progress.Missed
	}
	got := b.Rung[row.ID]
	c.count("moments planned", len(want))
	c.count("moments fired", len(got))
	c.count("moments missed", missed)
	if missed == 0 && slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			c.find(Moments, where, fmt.Sprintf("it has called %d times, planned are %d and missed %d; from number %d on: %v, want %v",
				len(got), len(want), missed, i, some(got, i), some(want, i)))
			return
		}
	}
	c.find(Moments, where, fmt.Sprintf("it has called for all moments, and counts %d as missed", missed))
}

// some are a few elements from an index on.
func some(all []int64, from int) []int64 { return all[min(from, len(all)):min(from+5, len(all))] }
