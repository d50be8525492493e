package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/protocol"
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
			State    string      `json:"state"`
			Upcoming []time.Time `json:"upcoming,omitempty"`
		}{one.task, one.state(), one.upcoming})
	}
	return json.Marshal(struct {
		*workflowSchedule
		State    string      `json:"state"`
		Upcoming []time.Time `json:"upcoming,omitempty"`
	}{one.cron, one.state(), one.upcoming})
}

// state is one word: armed, paused, waits or over. One of an agent never waits, its firings do.
func (one oneSchedule) state() string {
	paused, over, waits := false, false, false
	if t := one.task; t != nil {
		paused, over = t.Paused != nil, t.Next.IsZero()
	} else {
		paused, over, waits = one.cron.Paused != nil, one.cron.Over, one.cron.Waits != nil
	}
	switch {
	case paused:
		return "paused"
	case over:
		return "over"
	case waits:
		return "waits"
	}
	return "armed"
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
			id: t.ID, calls: t.Callback, when: when(*t), state: one.state(), next: t.Next, last: t.Last, runs: t.Runs, missed: t.Missed, skipped: t.Skipped,
			rest: [][2]string{{"Payload", orNone(string(t.Payload))}, {"Created", orNever(t.Created)}},
		}
		s.addPause(t.Paused)
		s.rest = append(s.rest, bounds(t.From, t.Until, t.Times, time.Duration(t.Jitter), t.CatchUp, string(t.Overlap))...)
		return s
	}
	w := one.cron
	s := shown{
		id: w.FullID, calls: "workflow " + w.Workflow, when: inZone(w.Zone, w.Cron), state: one.state(), next: orZero(w.Next), last: orZero(w.Last),
		runs: w.Runs, missed: w.Missed, skipped: w.Skipped, rest: [][2]string{{"Params", orNone(string(w.Params))}, {"Created", orNever(w.Created)}},
	}
	if w.Updated != nil {
		s.rest = append(s.rest, [2]string{"Updated", orNever(*w.Updated)})
	}
	s.addPause(w.Paused)
	if s.state == "waits" {
		s.state += " since " + orNever(*w.Waits)
		s.rest = append(s.rest, [2]string{"Waits for", "the end of the instance of an earlier moment"})
	}
	s.rest = append(s.rest, bounds(w.From, w.Until, w.Times, time.Duration(w.Jitter), w.CatchUp, string(w.Overlap))...)
	return s
}

// addPause tells why and since when a schedule is paused, if it is.
func (s *shown) addPause(p *protocol.Pause) {
	if p == nil {
		return
	}
	if p.Note != "" {
		s.state += ": " + p.Note
	}
	s.rest = append(s.rest, [2]string{"Paused", orNever(p.Since)})
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
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

// inZone are cron lines with the zone in which they are read. Intervals are the same in all.
func inZone(zone string, lines ...string) string {
	text := strings.Join(lines, "; ")
	if !slices.ContainsFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "@every ") }) {
		return text
	}
	if zone == "" {
		zone = "UTC"
	}
	return text + " " + zone
}

func scheduleLine(one oneSchedule) []any {
	s := one.shown()
	return []any{s.id, s.calls, oneLine(s.when), orNever(s.next), orNever(s.last), s.runs, s.missed, s.skipped, oneLine(s.state)}
}

// when says at which moments the schedule of an agent fires.
func when(task agent.AgentTask) string {
	switch {
	case len(task.Lines) > 0:
		return inZone(task.Zone, task.Lines...)
	case task.Cron != "":
		return inZone(task.Zone, task.Cron)
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
