package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/test/lab/notes"
	"github.com/skein-run/skein/test/lab/work"
)

// placed holds the shard that an instance is in against its id.
func (c *court) placed(s *story) {
	shards := max(1, c.rec.Shards[s.at.Project])
	if want := protocol.Shard(s.at.ID, shards); s.at.Shard != want {
		c.accuse(Placed, s, 0, "is in shard %d of %d, its id says %d", s.at.Shard, shards, want)
	}
	if s.created > 0 {
		c.count(fmt.Sprintf("instances in shard %d of %s", s.at.Shard, s.at.Project), 1)
	}
}

// creates holds the create against what clients were told of theirs.
func (c *court) creates(s *story) {
	var told []asked
	known := false
	for _, a := range s.asked {
		if a.Action != "create" {
			continue
		}
		c.count("creates "+string(a.Outcome), 1)
		if a.Outcome == notes.OK {
			told = append(told, a)
		}
		if s.created > 0 && s.script.By == a.Request {
			if known = true; a.Outcome == notes.Refused {
				c.accuse(CreateKept, s, 0, "create %s was refused, and is stored", a.Request)
			}
		}
	}
	if s.deleting() {
		return // what was there before is gone
	}
	if len(told) > 1 {
		c.accuse(CreateKept, s, 0, "%s and %s were both told that they have created it", told[0].Request, told[1].Request)
	}
	for _, a := range told {
		if s.created == 0 || s.script.By != a.Request {
			c.accuse(CreateKept, s, 0, "create %s was acknowledged, stored is %q", a.Request, s.script.By)
		}
	}
	if s.created > 0 && s.create.Source.Kind == "program" && !known {
		c.accuse(CreateKept, s, 0, "nobody has asked for create %q", s.script.By)
	}
	if s.created == 0 && len(s.log) > 0 {
		c.accuse(CreateKept, s, 0, "there is a log, but no create")
	}
}

// sent holds events and controls against what clients were told of theirs.
func (c *court) sent(s *story) {
	ids := map[string]notes.Outcome{} // the best that was told of each event id
	acked, most := map[string]int{}, map[string]int{}
	for _, a := range s.asked {
		switch a.Action {
		case "create", "result", "delete":
		case "event":
			if ids[a.Lane] != notes.OK && (a.Outcome != notes.Refused || ids[a.Lane] == "") {
				ids[a.Lane] = a.Outcome
			}
			c.count("events "+string(a.Outcome), 1)
		default:
			c.count("controls "+string(a.Outcome), 1)
			if a.Outcome == notes.OK {
				acked[a.Action]++
			}
			if a.Outcome != notes.Refused {
				most[a.Action]++
			}
		}
	}
	if s.deleting() {
		return
	}
	for id, outcome := range ids {
		stored := slices.ContainsFunc(s.events, func(e event) bool { return e.ID == id })
		if !stored && outcome == notes.OK || stored && outcome == notes.Refused {
			c.accuse(InputKept, s, 0, "event %q: clients were told %s, stored: %v", id, outcome, stored)
		}
	}
	stored := map[string]map[string]bool{}
	for _, control := range s.controls {
		if control.Source.Kind == "program" {
			action := string(control.Action)
			if stored[action] == nil {
				stored[action] = map[string]bool{}
			}
			stored[action][control.Input] = true
		}
	}
	for _, action := range []string{"pause", "resume", "terminate", "restart"} {
		if n := len(stored[action]); n < acked[action] || n > most[action] {
			c.accuse(InputKept, s, 0, "%d times %s is stored, %d were acknowledged, %d asked for", n, action, acked[action], most[action])
		}
	}
}

// bodies holds results and keys against what bodies have noted.
func (c *court) bodies(s *story) {
	returned := map[string]bool{}
	keys := map[string]string{} // key → step
	of := map[string]int{}      // step → keys
	for _, n := range s.bodies {
		c.count("bodies "+string(n.Kind), 1)
		if n.Kind == notes.Returned {
			var text string
			if err := json.Unmarshal(n.Value, &text); err != nil {
				c.accuse(Readable, s, 0, "note of %s: %v", n.Step, err)
			}
			returned[text] = true
			continue
		}
		switch step, known := keys[n.Key]; {
		case !known:
			keys[n.Key] = n.Step
			of[n.Step]++
		case step != n.Step:
			c.accuse(OneKey, s, n.Fence, "%s and %s have the key %s", step, n.Step, n.Key)
		}
	}
	for step, n := range of {
		if n > 1+s.truth.Epoch && !s.deleting() {
			c.accuse(OneKey, s, 0, "%s had %d keys, after %d restarts", step, n, s.truth.Epoch)
		}
	}
	if !s.deleting() && s.created > 0 {
		c.licensed(s)
	}
	for _, l := range s.log {
		for _, e := range l.Entries {
			if e.Kind != protocol.EntryStepCompleted || e.Step.Op != protocol.OpDo || asksAgent(e.Step.Name) {
				continue
			}
			if text := c.text(e.Result, e.Object); !returned[text] {
				c.accuse(OneResult, s, l.sequence, "%v is recorded as %q, which no body has returned", *e.Step, text)
			}
		}
	}
}

// asksAgent reports whether a step has no body of the lab's own.
func asksAgent(step string) bool {
	return strings.HasPrefix(step, "call "+work.ClassLedger) || strings.HasPrefix(step, "tell "+work.ClassLedger)
}

// licensed: each body ran over an entry that is in the log, or over the create.
func (c *court) licensed(s *story) {
	stored := map[uint64]bool{s.created: true}
	for _, l := range s.log {
		stored[l.sequence] = true
	}
	for _, n := range s.bodies {
		if n.Kind == notes.Body && !stored[n.Fence] {
			c.accuse(Licensed, s, n.Fence, "the body of %s ran over %d, which is not there", n.Step, n.Fence)
		}
	}
}

// text is a result that is one, without what only makes it large.
func (c *court) text(raw json.RawMessage, o *protocol.Object) string {
	if o != nil {
		return c.rec.Texts[o.Name]
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return string(raw)
	}
	return work.Brief(text)
}

// ends: what is there has ended, once, with nothing behind it, and that is announced as it is.
func (c *court) ends(s *story) {
	if s.created == 0 {
		return
	}
	h := s.truth
	if h.Phase != engine.Finished {
		c.accuse(Finished, s, 0, "is %s, since %d", h.State(), h.Tail)
		return
	}
	if n := len(s.controls); n > 0 {
		left, _, _ := h.Obey(protocol.Wake{Stream: h.Stream, Sequence: s.controls[n-1].Sequence}, s.controls, s.log[len(s.log)-1].stored)
		for _, e := range left {
			c.accuse(Obeyed, s, 0, "control %d would still have it %s", e.Input, e.Kind)
		}
	}
	want, _ := h.Done()
	told := false
	for _, d := range s.done {
		if d.Incarnation != h.Incarnation || d.Epoch < h.Epoch {
			continue // of an instance before it, or restarted since
		}
		told = true
		if d.Log != want.Log || d.State != want.State || string(d.Output) != string(want.Output) || object(d.OutputObject) != object(want.OutputObject) || (d.Error == nil) != (want.Error == nil) {
			c.accuse(Announced, s, d.Log, "announced is %s at %d, the log ends at %d with %s", d.State, d.Log, want.Log, want.State)
		}
	}
	if !told {
		c.accuse(Announced, s, 0, "its end is not announced")
	}
}

// told holds the output against the results, and what clients were told against the log.
func (c *court) told(s *story) {
	ends := map[string]bool{}
	for _, l := range s.log {
		for _, e := range l.Entries {
			if terminal(e.Kind) {
				ends[endOf(e)] = true
			}
		}
	}
	for _, a := range s.asked {
		if a.Action != "result" || a.Outcome != notes.OK {
			continue
		}
		c.count("results told", 1)
		var end work.End
		if err := json.Unmarshal(a.Value, &end); err != nil {
			c.accuse(Readable, s, 0, "note of %s: %v", a.Request, err)
		}
		if text := fmt.Sprint(end.Failure, end.Output); !ends[text] && !s.deleting() {
			c.accuse(Told, s, 0, "%s was told that it ended with %s, the log has %q", a.Request, text, keysOf(ends))
		}
	}
	if h := s.truth; s.created > 0 && h.Phase == engine.Finished && h.End == protocol.EntryCompleted {
		var got []string
		if err := json.Unmarshal(h.Output, &got); err != nil {
			c.accuse(Readable, s, 0, "output: %v", err)
		}
		if want := work.Expected(s.script.Ops, map[protocol.Key]int{}, c.results(h)); !slices.Equal(got, want) {
			c.accuse(Told, s, 0, "the code returned %q, recorded is %q", got, want)
		}
	}
}

func endOf(e protocol.Entry) string {
	var output []string
	if e.Kind == protocol.EntryCompleted && json.Unmarshal(e.Result, &output) != nil {
		output = []string{string(e.Result)}
	}
	name := ""
	if e.Error != nil {
		name = e.Error.Name
	}
	return fmt.Sprint(name, output)
}

func keysOf(m map[string]bool) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// results are what calls of the code returned, as the log has it.
func (c *court) results(h *engine.History) map[protocol.Key]string {
	results := map[protocol.Key]string{}
	for k, s := range h.Steps {
		if !s.Done {
			continue
		}
		switch {
		case k.Op == protocol.OpSleep:
			results[k] = work.Slept
		case k.Op == protocol.OpDo:
			results[k] = c.text(s.Result, s.Object)
		case k.Op == protocol.OpEvent && s.Received == nil, k.Op == protocol.OpCall && s.Received == nil:
			results[k] = work.TimedOut
		case k.Op == protocol.OpEvent:
			results[k] = c.text(s.Result, s.Object)
		case k.Op == protocol.OpCall:
			results[k] = work.Joined(list(s.Answer().Output))
		case k.Op == protocol.OpRace && s.Winner != nil:
			results[k] = work.Won(*s.Winner, list(s.Result))
		}
	}
	return results
}

func list(raw json.RawMessage) (all []string) {
	if json.Unmarshal(raw, &all) != nil {
		return []string{string(raw)}
	}
	return all
}

// census counts what there was, so that a run that shows nothing is seen to.
func (c *court) census(s *story) {
	if s.created == 0 {
		if s.gone {
			c.count("instances deleted", 1)
		}
		return
	}
	c.count("instances", 1)
	c.count("instances "+s.script.Kind, 1)
	for _, l := range s.log {
		c.count("entries", len(l.Entries))
		for _, e := range l.Entries {
			c.count("entry "+string(e.Kind), 1)
			if e.Lost {
				c.count("runs lost", 1)
			}
			if e.Object != nil {
				c.count("large values", 1)
			}
		}
	}
}
