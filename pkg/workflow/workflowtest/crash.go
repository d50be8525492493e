package workflowtest

import (
	"slices"

	"github.com/skein-run/skein/pkg/protocol"
)

// crash is a death of the runner that is to come.
type crash struct {
	step string
	done bool
}

// CrashAfter lets the runner of an instance die, once, right after the outcome of a step, sleep, wait or call of this name
// is stored. Another run of the instance follows, as after kill -9.
func (e *Env) CrashAfter(step string) {
	e.t.Helper()
	if err := protocol.CheckStep(step); err != nil {
		e.t.Fatalf("workflowtest: %v", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.crashes = append(e.crashes, &crash{step: step})
}

// stored is told of what was stored and says whether the runner dies.
func (e *Env) stored(entries []protocol.Entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.crashes {
		if !c.done && slices.ContainsFunc(entries, func(x protocol.Entry) bool { return ends(x, c.step) }) {
			c.done = true
			return true
		}
	}
	return false
}

func ends(e protocol.Entry, step string) bool {
	if e.Step == nil || e.Step.Name != step {
		return false
	}
	switch e.Kind {
	case protocol.EntryStepCompleted, protocol.EntryStepFailed, protocol.EntrySlept, protocol.EntryReceived, protocol.EntryTimedOut:
		return true
	}
	return false
}
