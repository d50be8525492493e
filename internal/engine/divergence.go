package engine

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/pkg/protocol"
)

// Hold adds the entry that stops the instance until a person looks: code and log contradict each other.
func (m *Machine) Hold(d protocol.Divergence) {
	m.put(protocol.Entry{Kind: protocol.EntryHeld, Divergence: &d, Error: Diverged(d)})
}

// maxTold is how many steps the text about a divergence names.
const maxTold = 3

// Diverged says in words what a divergence is, and what can be done.
func Diverged(d protocol.Divergence) *protocol.Failure {
	var names []string
	for _, k := range d.Recorded[:min(len(d.Recorded), maxTold)] {
		names = append(names, told(k))
	}
	missing := strings.Join(names, ", ")
	switch more := len(d.Recorded) - len(names); {
	case len(d.Recorded) == protocol.MaxUnreached && more > 0: // there may be others
		missing += " and more"
	case more > 0:
		missing += fmt.Sprintf(" and %d more", more)
	}
	instead := "but the workflow function returned without"
	switch {
	case d.Called != nil:
		instead = "but the code called " + told(*d.Called) + " without"
	case d.Branch != "":
		instead = "but a function of a group returned without"
	}
	return &protocol.Failure{
		Name: protocol.FailureDivergence, Terminal: true,
		Message: fmt.Sprintf("the code contradicts the log: the log holds %s, %s calling it first. "+
			"Deploy code that does and resume, restart the instance from a step, or resume it and accept that the log holds more", missing, instead),
	}
}

// told names a step as people do.
func told(k protocol.Key) string {
	word := map[protocol.Op]string{
		protocol.OpDo: "step", protocol.OpSleep: "sleep", protocol.OpEvent: "wait", protocol.OpCall: "call", protocol.OpRace: "race",
	}[k.Op]
	if word == "" {
		word = string(k.Op)
	}
	if k.Count == 1 {
		return fmt.Sprintf("%s %q", word, k.Name)
	}
	return fmt.Sprintf("%s %q #%d", word, k.Name, k.Count)
}
