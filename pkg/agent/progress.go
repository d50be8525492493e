package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/journal"
	"github.com/skein-run/skein/pkg/protocol"
)

// addProgress completes schedules that recur by what they have done so far, as the schedulers have written it down.
func (d *draft) addProgress(ctx context.Context, tasks []Task) error {
	if d.actor == nil {
		return nil
	}
	var recurring []*Task
	for i := range tasks {
		if tasks[i].Kind.Recurs() {
			recurring = append(recurring, &tasks[i])
		}
	}
	for len(recurring) > 0 {
		n := min(len(recurring), schedulePage)
		if err := addProgress(ctx, d.actor.host.store, d.agent, recurring[:n]); err != nil {
			return err
		}
		recurring = recurring[n:]
	}
	return nil
}

// addProgress reads what is armed for tasks of an agent, or fires. What a replica has may be a moment old.
func addProgress(ctx context.Context, store *journal.Store, agent protocol.Agent, tasks []*Task) error {
	bySubject := map[string]*Task{}
	var subjects []string
	for _, t := range tasks {
		for _, subject := range []string{
			protocol.ClockSubject(agent.Project, agent.Class, agent.Name, t.ID),
			protocol.ClockDueSubject(agent.Project, agent.Class, agent.Name, t.ID),
		} {
			bySubject[subject] = t
			subjects = append(subjects, subject)
		}
	}
	batch, err := store.LastOfMany(ctx, protocol.StreamClock, subjects)
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	for _, m := range batch.Messages {
		var tick protocol.Tick
		if t := bySubject[m.Subject]; t != nil && json.Unmarshal(m.Data, &tick) == nil {
			t.add(tick.Progress)
		}
	}
	return nil
}

// add takes over progress, unless it is older than what the task has.
func (t *Task) add(p *protocol.Progress) {
	if p == nil || p.Runs+p.Missed+p.Skipped < t.Runs+t.Missed+t.Skipped {
		return
	}
	t.Runs, t.Missed, t.Skipped = p.Runs, p.Missed, p.Skipped
	if t.Times != 0 && t.Runs >= t.Times { // the last firing is on its way
		t.Next = time.Time{}
	}
	if p.Last != nil {
		t.Last = *p.Last
	}
}
