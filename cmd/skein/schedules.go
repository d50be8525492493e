package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

type schedules struct{ projectCommand }

func newSchedules() *cobra.Command {
	s := &schedules{}
	cmd := &cobra.Command{
		Use: "schedules", Short: "See and steer the schedules of agents", Args: cobra.NoArgs,
		Long: "See and steer the schedules of agents. A schedule is known by class, agent and id, as list has them.",
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	s.define(cmd)
	cmd.AddCommand(s.list(), s.describe(), s.pause(),
		s.each("resume", "resumed", "Let schedules fire again",
			"What was planned while a schedule was paused does not fire. One that fires once does, at once if its moment has passed.",
			agent.Schedules.Resume),
		s.each("trigger", "triggered", "Let schedules fire now, once", "Their plan and their counts stay as they are. A schedule that is paused fires, too.",
			agent.Schedules.Trigger),
		s.each("delete", "deleted", "Take schedules away", "Their agents forget them.", agent.Schedules.Delete),
	)
	return cmd
}

// on does something with the schedules of the project.
func (s *schedules) on(cmd *cobra.Command, do func(context.Context, agent.Schedules) error) error {
	err := s.run(cmd, func(ctx context.Context, p *project.Project) error { return do(ctx, agent.SchedulesOf(p)) })
	if errors.Is(err, agent.ErrNoSchedule) {
		return process.WithHint(err, "see skein schedules list")
	}
	return err
}

func (s *schedules) list() *cobra.Command {
	var filter agent.AgentTaskFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List schedules", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if filter.Agent != "" && filter.Class == "" {
				return fmt.Errorf("--agent: %q: needs --class, too", filter.Agent)
			}
			return s.on(cmd, func(ctx context.Context, all agent.Schedules) error {
				if s.output == "json" {
					return listSchedulesJSON(ctx, cmd.OutOrStdout(), all, filter)
				}
				return listSchedulesText(ctx, cmd.OutOrStdout(), all, filter)
			})
		},
	}
	cmd.Flags().StringVar(&filter.Class, "class", "", "only those of agents of this class")
	cmd.Flags().StringVar(&filter.Agent, "agent", "", "only those of the agent of this name")
	return cmd
}

func listSchedulesJSON(ctx context.Context, out io.Writer, all agent.Schedules, filter agent.AgentTaskFilter) error {
	encoder := json.NewEncoder(out)
	for task, err := range all.List(ctx, filter) {
		if err != nil {
			return err
		}
		if err := encoder.Encode(task); err != nil {
			return err
		}
	}
	return nil
}

func listSchedulesText(ctx context.Context, out io.Writer, all agent.Schedules, filter agent.AgentTaskFilter) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	count := 0
	for task, err := range all.List(ctx, filter) {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if count == 0 {
			fmt.Fprintln(table, "ID\tWHEN\tCALLBACK\tLAST\tNEXT\tRUNS\tMISSED")
		}
		count++
		next := orNever(task.Next)
		if task.Paused != nil {
			next = "paused"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", task.ID, oneLine(when(task)), task.Callback, orNever(task.Last), next,
			task.Runs, task.Missed)
	}
	if count == 0 {
		fmt.Fprintln(table, "No schedules.")
	}
	return table.Flush()
}

func orNever(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// when says at which moments a schedule fires.
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

func (s *schedules) describe() *cobra.Command {
	return &cobra.Command{
		Use: "describe ID", Short: "Show all of a schedule", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.on(cmd, func(ctx context.Context, all agent.Schedules) error {
				task, err := all.Get(ctx, args[0])
				if err != nil {
					return err
				}
				if s.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(task)
				}
				return describeSchedule(cmd.OutOrStdout(), task)
			})
		},
	}
}

func describeSchedule(out io.Writer, task agent.AgentTask) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(table, "%s\t%s\n", name, value) }
	row("ID", task.ID)
	row("When", when(task))
	row("Callback", task.Callback)
	row("Payload", orNone(string(task.Payload)))
	row("Created", orNever(task.Created))
	row("Next", orNever(task.Next))
	row("Last", orNever(task.Last))
	row("Runs", fmt.Sprint(task.Runs))
	row("Missed", fmt.Sprint(task.Missed))
	if task.Paused != nil {
		row("Paused", orNever(task.Paused.Since)+" "+task.Paused.Note)
	}
	if task.From != nil {
		row("From", orNever(*task.From))
	}
	if task.Until != nil {
		row("Until", orNever(*task.Until))
	}
	if task.Times != 0 {
		row("Times", fmt.Sprint(task.Times))
	}
	if task.Jitter != 0 {
		row("Jitter", time.Duration(task.Jitter).String())
	}
	if task.CatchUp != nil {
		row("Catch up", fmt.Sprint(*task.CatchUp))
	}
	return table.Flush()
}

func (s *schedules) pause() *cobra.Command {
	var note string
	cmd := s.each("pause", "paused", "Keep schedules from firing", "Firings that are on their way to an agent still come.",
		func(all agent.Schedules, ctx context.Context, id string) error { return all.Pause(ctx, id, note) })
	cmd.Flags().StringVar(&note, "note", "", "why, for those who list the schedules")
	return cmd
}

// each is a command that does something with every schedule that is named, and goes on after an error.
func (s *schedules) each(verb, done, short, long string, do func(agent.Schedules, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID...", Short: short, Long: short + ". " + long, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return s.on(cmd, func(ctx context.Context, all agent.Schedules) error {
				return s.eachOf(cmd.OutOrStdout(), ids, done, func(id string) error { return do(all, ctx, id) })
			})
		},
	}
}
