package engine

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// Hold adds the entry that stops the instance until a person looks: code and log contradict each other. What the code
// returned instead of calling what is recorded is why, nil if that is no error. It returns both sides in words.
func (m *Machine) Hold(d protocol.Divergence, why *protocol.Failure) *protocol.Failure {
	f := Diverged(d, why)
	m.put(protocol.Entry{Kind: protocol.EntryHeld, Divergence: &d, Error: f})
	return f
}

const (
	// maxTold is how many steps the text about a divergence names.
	maxTold = 3
	// maxWhy is how many bytes of what the code returned it has.
	maxWhy = 500
)

// Diverged says in words what a divergence is, and what can be done. Why is what the code returned in place of going on,
// nil if that is no error.
func Diverged(d protocol.Divergence, why *protocol.Failure) *protocol.Failure {
	f := &protocol.Failure{
		Name: protocol.FailureDivergence, Terminal: true,
		Message: "the code contradicts the log: " + Contradiction(d, why) + ". " +
			"Deploy code that does and resume, restart the instance from a step, or resume it and accept that the log holds more",
	}
	switch {
	case d.Decided && d.Recorded[0].Op == protocol.OpGroup:
		f.Message = "the code contradicts the log: " + Contradiction(d, nil) + ". " +
			"Deploy code in which it is as it was and resume, restart the instance from a step, or resume it and accept that the group has failed"
	case d.Decided:
		f.Message = "the code contradicts the log: " + Contradiction(d, nil) + ". " +
			"Deploy code in which it is as it was and resume, restart the instance from a step, or resume it and accept that the race stays decided"
	case irreversible(d):
		f.Message = "the code contradicts the log: " + Contradiction(d, nil) + ". " +
			"Deploy code that has and resume, or resume it and accept that the step is not undone"
	}
	if why != nil {
		f.Causes = append([]protocol.Cause{{Name: why.Name, Message: why.Message}}, why.Causes...)
	}
	return protocol.NewFailure(f)
}

// Contradiction names both sides of a divergence.
func Contradiction(d protocol.Divergence, why *protocol.Failure) string {
	switch missing := listed(d.Recorded); {
	case irreversible(d):
		return fmt.Sprintf("the log holds the %s, and the code has none", missing)
	case d.Decided && d.Recorded[0].Op == protocol.OpGroup && *d.Called == d.Recorded[0]:
		return "the log holds that a group failed, but the code has not got the function by which it did"
	case d.Decided && d.Recorded[0].Op == protocol.OpGroup:
		return fmt.Sprintf("the log holds that a group failed, but the function by which it did called %s before it returned", told(*d.Called))
	case d.Decided && *d.Called == d.Recorded[0]:
		return fmt.Sprintf("the log holds how %s ended, but the code has not got the function that was first in it", missing)
	case d.Decided:
		return fmt.Sprintf("the log holds how %s ended, but the function that was first called %s before it returned", missing, told(*d.Called))
	case d.Called != nil:
		return fmt.Sprintf("the log holds %s, but the code called %s without calling it first", missing, told(*d.Called))
	case d.Branch != "":
		return fmt.Sprintf("the log holds %s, but a function of a group returned without calling it first%s", missing, because(why))
	default:
		return fmt.Sprintf("the log holds %s, but the workflow function returned without calling it first%s", missing, because(why))
	}
}

// irreversible reports whether a divergence is about how steps are undone: then it is about nothing else.
func irreversible(d protocol.Divergence) bool {
	return len(d.Recorded) > 0 && d.Recorded[0].Op == protocol.OpRollback
}

func because(why *protocol.Failure) string {
	if why == nil {
		return ""
	}
	text := why.Message
	if len(text) > maxWhy {
		text = strings.ToValidUTF8(text[:maxWhy], "") + "…"
	}
	return fmt.Sprintf(" (its error: %s)", text)
}

func listed(keys []protocol.Key) string {
	var names []string
	for _, k := range keys[:min(len(keys), maxTold)] {
		names = append(names, told(k))
	}
	all := strings.Join(names, ", ")
	switch more := len(keys) - len(names); {
	case len(keys) == protocol.MaxUnreached && more > 0: // there may be others
		all += " and more"
	case more > 0:
		all += fmt.Sprintf(" and %d more", more)
	}
	return all
}

// told names a step as people do.
func told(k protocol.Key) string {
	word := map[protocol.Op]string{
		protocol.OpDo: "step", protocol.OpSleep: "sleep", protocol.OpEvent: "wait", protocol.OpCall: "call", protocol.OpRace: "race",
		protocol.OpRollback: "compensation of step",
	}[k.Op]
	if word == "" {
		word = string(k.Op)
	}
	if k.Count == 1 {
		return fmt.Sprintf("%s %q", word, k.Name)
	}
	return fmt.Sprintf("%s %q #%d", word, k.Name, k.Count)
}
