package workflowtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// checkUsed fails the test for what it asked for and did not happen: it proves less than it says.
func (e *Env) checkUsed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.t.Failed() { // there are better reasons
		return
	}
	for _, line := range e.idleMocks() {
		e.t.Errorf("workflowtest: %s", line)
	}
}

// idleMocks says what did not happen. e.mu is held.
func (e *Env) idleMocks() (lines []string) {
	for _, s := range e.steps {
		for _, o := range s.outcomes {
			if s.unused || o.used > 0 && o.used >= o.times {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s.%s was %s. %s", s, o.what, often(o.used, o.times), e.ran(s.key.Op)))
		}
	}
	for _, w := range e.waits {
		if !w.unused && w.used < w.times {
			lines = append(lines, fmt.Sprintf("Wait(%q).TimeOut was %s. %s", w.name, often(w.used, w.times), e.ran(protocol.OpEvent, protocol.OpCall)))
		}
	}
	for _, c := range e.crashes {
		if !c.done {
			lines = append(lines, fmt.Sprintf("CrashAfter(%q): no outcome of that name was stored", c.step))
		}
	}
	slices.Sort(lines)
	return lines
}

func (s *Step) String() string {
	if s.key.Op == protocol.OpRollback {
		return fmt.Sprintf("Compensation(%q)", s.key.Name)
	}
	return fmt.Sprintf("Step(%q)", s.key.Name)
}

func often(used, times int) string {
	switch {
	case used == 0:
		return "never used: is that the name? Maybe() allows it"
	default:
		return fmt.Sprintf("used %d times of %d: Maybe() allows it", used, times)
	}
}

// ran lists what was called of some kinds.
func (e *Env) ran(ops ...protocol.Op) string {
	var names []string
	for k := range maps.Keys(e.seen) {
		if slices.Contains(ops, k.Op) {
			names = append(names, fmt.Sprintf("%q", k.Name))
		}
	}
	if len(names) == 0 {
		return "None ran"
	}
	slices.Sort(names)
	return "Those that ran: " + strings.Join(names, ", ")
}
