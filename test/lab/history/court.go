package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// Rule is what must hold. Its text is what people read.
type Rule string

// Rules about instances of workflows.
const (
	// Readable: every message makes sense.
	Readable Rule = "every message can be read"
	// CreateKept: a create that was acknowledged is there, one that was refused is not, and an id has one instance.
	CreateKept Rule = "no acknowledged create is lost, and none is doubled"
	// Placed: an instance is in the shard that its id says, where everybody looks for it.
	Placed Rule = "each instance is in the shard of its id"
	// InputKept: the same of events and controls.
	InputKept Rule = "no acknowledged event or control is lost"
	// Owned: one runner at a time writes a log, under a wake that the decision table lets execute.
	Owned Rule = "every entry has a legal holder"
	// Legal: each entry may follow those before it.
	Legal Rule = "each log is a legal history"
	// OneResult: a step has one outcome, and it is one that a body returned.
	OneResult Rule = "no step has two results"
	// OneKey: all attempts of a step get one idempotency key, and no other step gets it.
	OneKey Rule = "a step has one idempotency key"
	// Licensed: a body runs over what is stored.
	Licensed Rule = "a body runs only over what its log holds"
	// OneEnd: a wait ends once, an event ends one wait at most, and a wait times out only if no event is there for it.
	OneEnd Rule = "no wait ends twice, and each event ends one wait at most"
	// NotEarly: no timer ends before its moment.
	NotEarly Rule = "no timer is early"
	// Obeyed: controls are obeyed once and in their order, and none is left.
	Obeyed Rule = "each control is obeyed once, in order"
	// Told: what clients and callers were told is what the log says.
	Told Rule = "what users see is what the log says"
	// Announced: every end is announced, as it is.
	Announced Rule = "every end is announced"
	// Family: calls and their children agree.
	Family Rule = "parents and children agree"
	// Undone: a rollback undoes what had begun, each step once, the newest first.
	Undone Rule = "a rollback undoes each step once, in order"
	// Limited: no more instances execute than the limit of their workflow says.
	Limited Rule = "concurrency limits hold"
	// Finished: all that is runnable has finished.
	Finished Rule = "everything runnable finishes"
	// Moments: each planned moment of a schedule fires once.
	Moments Rule = "each moment of a schedule fires once"
	// Healthy: the doctor finds nothing.
	Healthy Rule = "the doctor finds nothing"
	// Registered: the registry knows what is served.
	Registered Rule = "the registry knows projects, workflows and classes"
)

// Violation is something that must not be.
type Violation struct {
	Rule Rule `json:"rule"`
	// Where is the instance, agent or schedule, What what is wrong with it, Around what was stored and noted near it.
	Where  string   `json:"where"`
	What   string   `json:"what"`
	Around []string `json:"around,omitempty"`
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Rule, v.Where, v.What) }

// Report is what a judgement came to.
type Report struct {
	Violations []Violation `json:"violations"`
	// Counts says how much of what was seen.
	Counts map[string]int `json:"counts"`
}

// court collects what is found.
type court struct {
	rec     *Recorded
	stories map[protocol.Instance]*story
	order   []protocol.Instance // of the stories
	Report
}

func (c *court) find(r Rule, where, what string, around ...string) {
	c.Violations = append(c.Violations, Violation{r, where, what, around})
}

// accuse is find about a story, near a sequence of its log.
func (c *court) accuse(r Rule, s *story, sequence uint64, format string, args ...any) {
	c.find(r, s.at.String(), fmt.Sprintf(format, args...), s.around(sequence)...)
}

func (c *court) count(what string, n int) { c.Counts[what] += n }

// Judge holds all that is recorded against the rules.
func Judge(rec *Recorded) Report {
	c := &court{rec: rec, Report: Report{Counts: map[string]int{}}}
	c.stories = tell(rec, c)
	c.order = slices.SortedFunc(maps.Keys(c.stories), func(a, b protocol.Instance) int { return strings.Compare(a.String(), b.String()) })
	for _, at := range c.order {
		s := c.stories[at]
		c.fold(s)
	}
	for _, at := range c.order {
		s := c.stories[at]
		c.placed(s)
		c.creates(s)
		c.sent(s)
		c.bodies(s)
		c.ends(s)
		c.told(s)
		c.family(s)
		c.undone(s)
		c.census(s)
	}
	c.limits()
	c.crons()
	c.ledgers()
	c.halls()
	return c.Report
}
