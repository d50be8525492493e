package sim

import (
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// op is a call of workflow code, or several branches side by side: a group, or a race.
type op struct {
	op        protocol.Op
	name      string
	eventType string
	wait      time.Duration // how long a sleep is, or a wait at most; 0: for ever
	failures  int           // how many attempts of a step fail; more than its retries: it fails
	branches  [][]op
	fails     []bool // whether a branch returns an error in the end
	success   bool   // a race is for the first branch that does not
}

// config is how steps are tried.
var config = protocol.StepConfig{
	Retries: 2, Delay: protocol.Duration(time.Minute), Backoff: "constant", LostRuns: 100,
}

// kept is how long an instance is kept after its end.
const kept = 2 * time.Hour

var eventTypes = []string{"a", "b"}

// script makes up the code of a workflow. Prefix begins the names of its calls, often is one that it uses again and again.
func (w *world) script(prefix, often string, depth int) []op {
	var ops []op
	if w.plot == cleanings && prefix == "" && w.chance(2) { // events come before they are waited for
		ops = append(ops, op{op: protocol.OpSleep, name: "first", wait: 2 * time.Hour})
	}
	for i := range 1 + w.IntN(3+depth) {
		name := fmt.Sprint(prefix, i)
		if w.contests && depth > 0 && w.chance(2) {
			ops = append(ops, w.contest(name, often, depth))
			continue
		}
		ops = append(ops, w.op(name, often, depth))
	}
	return ops
}

func (w *world) op(name, often string, depth int) op {
	switch k := w.IntN(10); {
	case k < 4:
		o := op{op: protocol.OpDo, name: name}
		if w.chance(3) { // the same name again and again
			o.name = often
		}
		if w.chance(4) {
			o.failures = 1 + w.IntN(3)
		}
		return o
	case k < 7:
		o := op{op: protocol.OpEvent, name: name, eventType: eventTypes[w.IntN(2)]}
		if w.chance(2) {
			o.wait = time.Duration(1+w.IntN(90)) * time.Minute
		}
		return o
	case k < 8:
		return op{op: protocol.OpSleep, name: name, wait: time.Duration(w.IntN(120)) * time.Minute}
	case k < 9 && depth > 0:
		o := op{}
		for i := range 2 + w.IntN(2) {
			branch := fmt.Sprintf("%s.%d.", name, i)
			o.branches = append(o.branches, w.script(branch, branch+"s", depth-1))
		}
		return o
	}
	return op{op: protocol.OpValue, name: "now"}
}

// contest makes up a race, or a group that may fail. Its first branch uses a name that the code uses after it, too.
func (w *world) contest(name, often string, depth int) op {
	o := op{name: name}
	if w.chance(2) {
		o.op, o.success = protocol.OpRace, w.chance(3)
	}
	for i := range 2 + w.IntN(2) {
		branch := fmt.Sprintf("%s.%d.", name, i)
		if i > 0 {
			often = branch + "s"
		}
		o.branches = append(o.branches, w.script(branch, often, depth-1))
		o.fails = append(o.fails, w.chance(3))
	}
	return o
}
