package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// Group is called for a group of branches that begins. If the step that it returns is done, the group failed in an earlier
// run: its branches run only to come to the point at which they stood. The log knows no other groups.
func (m *Machine) Group(b *Branch) *Step {
	m.gate() // before the history knows of this one
	within := fmt.Sprintf("%s%d.", b.path, m.nextGroup(b))
	k := protocol.Key{Op: protocol.OpGroup, Name: within, Count: 1}
	s := m.h.Steps[k]
	if s == nil {
		s = &Step{Key: k, Within: within, Branch: b.path}
	} else {
		m.called++
		b.reach(s.Nth)
	}
	s.owner = b
	return s
}

// Fork begins a branch of a group. Branches are numbered over all groups of their parent.
func (m *Machine) Fork(parent *Branch, group *Step) *Branch {
	m.tick++
	m.forked = true
	parent.members++
	b := &Branch{
		parent: parent, path: fmt.Sprintf("%s%d/", group.Within, parent.members), born: m.tick, race: group, index: len(group.contenders),
	}
	group.contenders = append(group.contenders, b)
	return b
}

// FailGroup records that a group has failed because its branch with an index has. What the others wait for is given up. From
// now on the group is closed: its branches call nothing more. Only bodies that run may still have an outcome: what they
// did may have to be undone.
func (m *Machine) FailGroup(group *Step, first int, failure *protocol.Failure) {
	for _, s := range group.calls {
		if !s.Done && !s.isOpen() {
			m.forgo(s)
		}
	}
	group.Epoch = m.h.Epoch
	m.h.add(group)
	e := protocol.Entry{Kind: protocol.EntryGroupFailed, Step: &group.Key, Winner: &first, Error: failure}
	group.failed(&e)
	m.outcome(group)
	m.put(e)
	group.settled, group.calls = true, nil
}

func (s *Step) failed(e *protocol.Entry) {
	s.finish(nil, e.Error)
	s.Winner, s.Within = e.Winner, s.Name
}

// groupFailed folds the entry that ends a group.
func (h *History) groupFailed(group *Step, e *protocol.Entry) {
	group.failed(e)
	h.undone = slices.DeleteFunc(h.undone, func(s *Step) bool {
		if s.Done || h.Steps[s.Key] != s {
			return true
		}
		s.Lost = s.Lost || strings.HasPrefix(s.Branch, group.Within)
		return false
	})
}

// Closed reports whether a branch is in a race that was decided, or a group that has failed: what it does counts for nothing.
func (m *Machine) Closed(b *Branch) bool { return b.closed() != nil }

// regain lets steps go on that were given up because of a group that a restart has forgotten.
func (h *History) regain() {
	ended := map[string]bool{}
	for _, k := range h.Order {
		if s := h.Steps[k]; s.Done && s.Within != "" {
			ended[s.Within] = true
		}
	}
	for _, k := range h.Order {
		if s := h.Steps[k]; s.Lost && !s.Done {
			s.Lost = false
			races(s.Branch, func(within string) { s.Lost = s.Lost || ended[within] })
		}
	}
}
