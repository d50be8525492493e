package demo

import (
	"fmt"
	"time"

	"github.com/skein-run/skein/pkg/protocol"
)

// narrate tells what is new in a status.
func (d *demo) narrate(s protocol.Status) {
	for i, run := range s.Runs {
		if run.Lost {
			d.tell(fmt.Sprintf("lost %d", i), "the run of %s is lost", d.runnerName(run.Runner))
		}
		d.tell(fmt.Sprintf("run %d", i), "%s takes the instance", d.runnerName(run.Runner))
	}
	for _, step := range s.Steps {
		for _, a := range step.Attempts {
			d.narrateAttempt(step, a)
		}
		switch {
		case step.Op == protocol.OpDo:
		case step.State == "completed":
			d.tell(step.Key.String()+" over", "%q is over", step.Name)
		case step.State == "waiting" && step.Until != nil:
			d.tell(step.Key.String(), "%q waits, for at most %s", step.Name, time.Until(*step.Until).Round(time.Second))
		}
	}
}

func (d *demo) narrateAttempt(step protocol.StepStatus, a protocol.AttemptStatus) {
	key := fmt.Sprintf("%s attempt %d", step.Key, a.Attempt)
	switch {
	case a.Finished == nil: // it runs, or was lost
	case a.Error != nil:
		d.tell(key, "%q, attempt %d on %s, failed: %s", step.Name, a.Attempt, d.runnerName(a.Runner), a.Error.Message)
	default:
		d.tell(key, "%q, attempt %d on %s, done", step.Name, a.Attempt, d.runnerName(a.Runner))
	}
}

// tell says something once.
func (d *demo) tell(key, format string, args ...any) {
	if d.told[key] {
		return
	}
	d.told[key] = true
	d.say(format, args...)
}
