package doctor

import (
	"context"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/pkg/protocol"
)

// awaits reports whether an instance is parked in the call that has made a child.
func (f facts) awaits(child facts) bool {
	return f.Exists && !f.newer && f.Phase == engine.Parked && f.Incarnation == child.parent.Incarnation &&
		slices.ContainsFunc(f.Waits, func(w protocol.Wait) bool { return w.Op == protocol.OpCall && w.Type == child.parent.Call })
}

// caller is the instance of this project that waits for the end of f; ok is false if there is none, or f has not ended.
func (d *Doctor) caller(f facts) (i protocol.Instance, ok bool) {
	p := f.parent
	if p == nil || f.newer || f.Phase != engine.Finished || p.Project != d.Project.Name {
		return i, false
	}
	return protocol.Instance{Project: p.Project, Shard: p.Shard, Workflow: p.Workflow, ID: p.ID}, true
}

// glanceAtCalls suspects those instances that have ended and whose callers wait still.
func (d *Doctor) glanceAtCalls(ctx context.Context, all []facts) error {
	var callers []protocol.Instance
	for _, f := range all {
		if i, ok := d.caller(f); ok {
			callers = append(callers, i)
		}
	}
	if len(callers) == 0 {
		return nil
	}
	found, err := d.newest(ctx, callers)
	if err != nil {
		return err
	}
	of := map[protocol.Instance]facts{}
	for _, f := range found {
		of[f.instance] = f
	}
	for _, f := range all {
		if i, ok := d.caller(f); !ok || !of[i].awaits(f) {
			continue
		}
		if err := d.suspect(ctx, func(ctx context.Context) ([]complaint, error) { return d.examineCall(ctx, f.instance) }); err != nil {
			return err
		}
	}
	return nil
}

// examineCall looks whether the caller of an instance that has ended has its answer. Who acknowledges the wake that the
// instance ended under has stored it.
func (d *Doctor) examineCall(ctx context.Context, child protocol.Instance) ([]complaint, error) {
	f, err := d.factsAtLeader(ctx, child)
	if err != nil {
		return nil, err
	}
	i, ok := d.caller(f)
	if !ok {
		return nil, nil
	}
	m, err := d.recentMarks(ctx, child, i)
	if err != nil {
		return nil, err
	}
	if wake, err := d.wake(ctx, f, m); err != nil || wake != settled {
		return nil, err
	}
	caller, err := d.factsAtLeader(ctx, i)
	if err != nil || !caller.awaits(f) || caller.event > 0 && m.of(i, protocol.ClassEvent, caller.event) != settled {
		return nil, err
	}
	debt, err := d.reader.Debt(ctx, i)
	if err != nil || debt.Event || debt.Tail != caller.Tail {
		return nil, err // the answer is there
	}
	return []complaint{{
		Finding: Finding{
			Kind: AnswerNotGiven, Subject: child.String(), Remedy: remedies[AnswerNotGiven],
			Problem: fmt.Sprintf("it has ended, and instance %s, which has called it, waits still and was not told", i),
		},
		evidence: fmt.Sprint(f.Tail, f.control, caller.Tail, caller.event),
		mend:     func(ctx context.Context) (string, error) { return d.mend(ctx, AnswerNotGiven, f) },
	}}, nil
}
