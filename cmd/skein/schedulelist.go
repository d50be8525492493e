package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/workflow"
)

// describedMoments is how many moments to come describe shows.
const describedMoments = 5

// oneSchedule is a schedule of an agent or a workflow.
type oneSchedule struct {
	task     *agent.AgentTask
	cron     *workflowSchedule
	upcoming []time.Time
}

// MarshalJSON writes what is known of the one or the other.
func (one oneSchedule) MarshalJSON() ([]byte, error) {
	if one.task != nil {
		return json.Marshal(struct {
			*agent.AgentTask
			Upcoming []time.Time `json:"upcoming,omitempty"`
		}{one.task, one.upcoming})
	}
	return json.Marshal(struct {
		*workflowSchedule
		Upcoming []time.Time `json:"upcoming,omitempty"`
	}{one.cron, one.upcoming})
}

// workflowSchedule has the id by which the command knows it.
type workflowSchedule struct {
	workflow.ScheduleStatus
	FullID string `json:"id"`
}

func ofStatus(s workflow.ScheduleStatus) oneSchedule {
	return oneSchedule{cron: &workflowSchedule{ScheduleStatus: s, FullID: s.Workflow + "/" + s.ID}}
}

func (s *schedules) list() *cobra.Command {
	var of agentFlags
	var flow string
	cmd := &cobra.Command{
		Use: "list", Short: "List schedules", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := of.check(); err != nil {
				return err
			}
			if flow != "" && of.class != "" {
				return fmt.Errorf("--workflow: %q: cannot be with --class", flow)
			}
			return s.on(cmd, func(ctx context.Context, all allSchedules) error {
				found := all.list(ctx, of, flow)
				if s.output == "json" {
					return writeLines(cmd.OutOrStdout(), found)
				}
				return writeTable(cmd.OutOrStdout(), found, "ID\tCALLS\tWHEN\tNEXT\tLAST\tRUNS\tMISSED\tSKIPPED\tSTATE", "No schedules.", scheduleLine)
			})
		},
	}
	of.define(cmd)
	cmd.Flags().StringVar(&flow, "workflow", "", "only those of this workflow")
	return cmd
}

// list is what there is of agents, then of workflows.
func (all allSchedules) list(ctx context.Context, of agentFlags, flow string) iter.Seq2[oneSchedule, error] {
	return func(yield func(oneSchedule, error) bool) {
		if flow == "" {
			for task, err := range all.agents.List(ctx, agent.AgentTaskFilter{Class: of.class, Agent: of.agent}) {
				if !yield(oneSchedule{task: &task}, err) || err != nil {
					return
				}
			}
		}
		if of.class != "" {
			return
		}
		found, err := all.workflows.List(ctx)
		if err != nil {
			yield(oneSchedule{}, err)
			return
		}
		for _, status := range found {
			if (flow == "" || status.Workflow == flow) && !yield(ofStatus(status), nil) {
				return
			}
		}
	}
}

func (all allSchedules) get(ctx context.Context, id string) (one oneSchedule, err error) {
	if !ofWorkflow(id) {
		task, err := all.agents.Get(ctx, id)
		if err != nil {
			return one, err
		}
		one.task = &task
		one.upcoming, err = all.agents.Upcoming(ctx, id, describedMoments)
		return one, err
	}
	status, err := all.workflows.Get(ctx, id)
	if err != nil {
		return one, err
	}
	one = ofStatus(status)
	one.upcoming, err = all.workflows.Upcoming(ctx, id, describedMoments)
	return one, err
}

// shown is what people see of a schedule.
type shown struct {
	id, calls, when, state string
	next, last             time.Time
	runs, missed, skipped  int
	rest                   [][2]string
}

func (one oneSchedule) shown() shown {
	if t := one.task; t != nil {
		s := shown{
			id: t.ID, calls: t.Callback, when: when(*t), state: "armed", next: t.Next, last: t.Last, runs: t.Runs, missed: t.Missed, skipped: t.Skipped,
			rest: [][2]string{{"Payload", orNone(string(t.Payload))}, {"Created", orNever(t.Created)}},
		}
		if t.Paused != nil {
			s.state = pausedState(t.Paused.Note)
			s.rest = append(s.rest, [2]string{"Paused", orNever(t.Paused.Since)})
		}
		s.rest = append(s.rest, bounds(t.From, t.Until, t.Times, time.Duration(t.Jitter), t.CatchUp, string(t.Overlap))...)
		return s
	}
	w := one.cron
	zone := w.Zone
	if zone == "" {
		zone = "UTC"
	}
	s := shown{
		id: w.FullID, calls: "workflow " + w.Workflow, when: w.Cron + " " + zone, state: "armed", next: orZero(w.Next), last: orZero(w.Last),
		runs: w.Runs, missed: w.Missed, skipped: w.Skipped, rest: [][2]string{{"Params", orNone(string(w.Params))}, {"Created", orNever(w.Created)}},
	}
	if w.Updated != nil {
		s.rest = append(s.rest, [2]string{"Updated", orNever(*w.Updated)})
	}
	switch {
	case w.Paused != nil:
		s.state = pausedState(w.Paused.Note)
		s.rest = append(s.rest, [2]string{"Paused", orNever(w.Paused.Since)})
	case w.Over:
		s.state = "over"
	case w.Waits != nil:
		s.state = "waits since " + orNever(*w.Waits)
		s.rest = append(s.rest, [2]string{"Waits for", "the end of the instance of an earlier moment"})
	}
	s.rest = append(s.rest, bounds(w.From, w.Until, w.Times, time.Duration(w.Jitter), w.CatchUp, string(w.Overlap))...)
	return s
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func pausedState(note string) string {
	if note == "" {
		return "paused"
	}
	return "paused: " + note
}

// bounds are the options that a schedule has.
func bounds(from, until *time.Time, times int, jitter time.Duration, catchUp *int, overlap string) (rows [][2]string) {
	if from != nil {
		rows = append(rows, [2]string{"From", orNever(*from)})
	}
	if until != nil {
		rows = append(rows, [2]string{"Until", orNever(*until)})
	}
	if times != 0 {
		rows = append(rows, [2]string{"Times", fmt.Sprint(times)})
	}
	if jitter != 0 {
		rows = append(rows, [2]string{"Jitter", jitter.String()})
	}
	if catchUp != nil {
		rows = append(rows, [2]string{"Catch up", fmt.Sprint(*catchUp)})
	}
	if overlap != "" {
		rows = append(rows, [2]string{"Overlap", overlap})
	}
	return rows
}

func scheduleLine(one oneSchedule) []any {
	s := one.shown()
	return []any{s.id, s.calls, oneLine(s.when), orNever(s.next), orNever(s.last), s.runs, s.missed, s.skipped, oneLine(s.state)}
}

// when says at which moments the schedule of an agent fires.
func when(task agent.AgentTask) string {
	switch {
	case len(task.Lines) > 0:
		return strings.TrimSpace(strings.Join(task.Lines, "; ") + " " + task.Zone)
	case task.Cron != "":
		return strings.TrimSpace(task.Cron + " " + task.Zone)
	case task.Interval != 0:
		return "every " + time.Duration(task.Interval).String()
	}
	return "once"
}

// nextMoments are the moment that lists have, which has passed if it waits, and those to come behind it.
func (one oneSchedule) nextMoments(next time.Time) []time.Time {
	all := []time.Time{next}
	for _, moment := range one.upcoming {
		if moment.After(next) {
			all = append(all, moment)
		}
	}
	return all
}

func describeSchedule(out io.Writer, one oneSchedule) error {
	s := one.shown()
	table := newTable(out)
	row := func(name, value string) { writeRow(table, name, value) }
	row("ID", s.id)
	row("Calls", s.calls)
	row("When", s.when)
	row("State", s.state)
	name := "Next"
	for _, moment := range one.nextMoments(s.next) {
		row(name, orNever(moment))
		name = ""
	}
	row("Last", orNever(s.last))
	row("Runs", fmt.Sprint(s.runs))
	row("Missed", fmt.Sprint(s.missed))
	row("Skipped", fmt.Sprint(s.skipped))
	for _, r := range s.rest {
		row(r[0], r[1])
	}
	return table.Flush()
}
