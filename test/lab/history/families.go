package history

import (
	"slices"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// family holds calls against the instances that they made.
func (c *court) family(s *story) {
	for _, k := range s.truth.Order {
		step := s.truth.Steps[k]
		if k.Op != protocol.OpCall || step.Callee == nil {
			continue
		}
		at := protocol.Instance{Project: step.Callee.Project, Shard: step.Callee.Shard, Workflow: step.Callee.Workflow, ID: step.Callee.ID}
		child := c.stories[at]
		if child == nil || child.created == 0 {
			if step.Callee.Incarnation != 0 {
				c.accuse(Family, s, step.First, "its child %v is not there", at)
			}
			continue
		}
		if answer := step.Answer(); answer != nil {
			c.answered(s, step, child, answer)
		}
	}
	if parent := s.create.Parent; s.created > 0 && parent != nil {
		c.parent(s, parent)
	}
}

// answered: the answer of a call is the end of its child.
func (c *court) answered(s *story, step *engine.Step, child *story, answer *protocol.Done) {
	c.count("calls answered", 1)
	for _, l := range child.log {
		if l.sequence != answer.Log || l.Incarnation != answer.Incarnation {
			continue
		}
		if e := last(l.Entries); terminal(e.Kind) && (e.Kind == protocol.EntryCompleted) == (answer.State == protocol.StateComplete) && string(e.Result) == string(answer.Output) {
			return
		}
	}
	c.accuse(Family, s, step.Ended, "%v was answered with %s at %d of %v, which ended otherwise: %s", step.Key, answer.State, answer.Log, child.at, child.counts())
}

// parent: the instance was called by the one that it names, and has ended if that has.
func (c *court) parent(s *story, parent *protocol.Parent) {
	at := protocol.Instance{Project: parent.Project, Shard: parent.Shard, Workflow: parent.Workflow, ID: parent.ID}
	caller := c.stories[at]
	if caller == nil || caller.created == 0 || caller.created != parent.Incarnation {
		return // it was deleted: its children end, as everything does
	}
	called := false
	for _, l := range caller.log {
		for _, e := range l.Entries {
			called = called || e.Callee != nil && e.Callee.ID == s.at.ID && e.Callee.Workflow == s.at.Workflow
		}
	}
	if !called {
		c.accuse(Family, s, 0, "its parent %v has not called it", at)
	}
}

// undone: the steps of an instance that is rolled back are undone once each, the newest first, and nothing else begins.
func (c *court) undone(s *story) {
	if s.created == 0 {
		return
	}
	var begun, undone []string
	rolling, complete := false, false
	for _, l := range s.log {
		for _, e := range l.Entries {
			switch {
			case e.Kind == protocol.EntryRestarted:
				begun, undone, rolling, complete = kept(begun, e.From), nil, false, false
			case e.Kind == protocol.EntryRollingBack:
				rolling = true
			case e.Kind == protocol.EntryRolledBack:
				complete = e.Error == nil
			case e.Step == nil:
			case e.Step.Op == protocol.OpRollback && e.Kind == protocol.EntryStepCompleted:
				undone = append(undone, e.Step.Name)
			case e.Step.Op == protocol.OpDo && rolling && e.Kind != protocol.EntryHeartbeat:
				c.accuse(Undone, s, l.sequence, "%s of %v although it is rolled back", e.Kind, *e.Step)
			case e.Step.Op == protocol.OpDo && !slices.Contains(begun, e.Step.Name):
				begun = append(begun, e.Step.Name)
			}
		}
	}
	if !rolling || s.truth.Rollback == nil {
		return
	}
	c.count("rolled back", 1)
	slices.Reverse(begun)
	if !complete || !slices.Equal(begun, undone) {
		c.accuse(Undone, s, 0, "undone were %q, begun, the newest first, %q; complete: %v", undone, begun, complete)
	}
}

// kept are the steps that a restart leaves.
func kept(begun []string, from *protocol.Key) []string {
	if from == nil {
		return nil
	}
	if i := slices.Index(begun, from.Name); i >= 0 {
		return begun[:i]
	}
	return begun
}
