package engine

import (
	"maps"
	"slices"

	"github.com/skein-run/skein/pkg/protocol"
)

// Clone returns a history that is the same and stays so, whatever becomes of h: a run over a history changes it. It is
// made of what was read from a log, before a run.
func (h *History) Clone() *History {
	c := *h
	steps, attempts := make([]Step, len(h.Order)), make([]Attempt, 0, len(h.Order))
	c.Steps = make(map[protocol.Key]*Step, len(h.Order))
	c.open, c.undone = nil, nil
	for i, k := range h.Order {
		s := &steps[i]
		*s = *h.Steps[k]
		from := len(attempts)
		attempts = append(attempts, s.Attempts...)
		s.Attempts = attempts[from:len(attempts):len(attempts)] // who adds one makes room elsewhere
		c.Steps[k] = s
		if !s.Done {
			c.undone = append(c.undone, s)
		}
	}
	for _, s := range h.open {
		if h.Steps[s.Key] == s { // else a restart has forgotten it
			c.open = append(c.open, c.Steps[s.Key])
		}
	}
	c.Order, c.Runs = slices.Clone(h.Order), slices.Clone(h.Runs)
	c.Carried, c.Untold = slices.Clone(h.Carried), slices.Clone(h.Untold)
	c.Consumed, c.ConsumedIDs, c.Obeyed = maps.Clone(h.Consumed), maps.Clone(h.ConsumedIDs), maps.Clone(h.Obeyed)
	return &c
}
