package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

type schedules struct{ projectCommand }

// allSchedules are those of a project's agents and of its workflows.
type allSchedules struct {
	agents    agent.Schedules
	workflows workflow.Schedules
	// again is another command about them.
	again func(words ...string) string
}

// scheduleSource does something with a schedule of either kind.
type scheduleSource interface {
	Pause(ctx context.Context, id, note string) error
	Resume(ctx context.Context, id string) error
	Backfill(ctx context.Context, id string, order agent.Backfill) (agent.Backfilled, error)
}

func newSchedules() *cobra.Command {
	s := &schedules{}
	cmd := &cobra.Command{
		Use: "schedules", Short: "See and steer the schedules of agents and workflows", Args: cobra.NoArgs,
		Long: "See and steer the schedules of agents and workflows. The ID of one of an agent is <class>/<agent>/<id>, that of one of\n" +
			"a workflow <workflow>/<id>, as list has them.",
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	s.define(cmd)
	cmd.AddCommand(s.list(), s.describe(), s.pause(),
		s.each("resume", "resumed", "Let schedules fire again",
			"What was planned while a schedule was paused does not fire. One that fires once does, at once if its moment has passed.",
			func(ctx context.Context, all allSchedules, id string) (details, error) {
				return nil, all.of(id).Resume(ctx, id)
			}),
		s.each("trigger", "triggered", "Let schedules fire now, once", "Their plan and their counts stay as they are. A schedule that is paused fires, too.", trigger),
		s.backfill(),
		s.each("delete", "deleted", "Take schedules of agents away", "Their agents forget them. Those of workflows stand in skein.jsonc: take them out there.", deleteSchedule),
	)
	return cmd
}

// on does something with the schedules of the project.
func (s *schedules) on(cmd *cobra.Command, do func(context.Context, allSchedules) error) error {
	err := s.run(cmd, func(ctx context.Context, p *project.Project) error {
		return do(ctx, allSchedules{
			agents: agent.SchedulesOf(p), workflows: workflow.SchedulesOf(p),
			again: func(words ...string) string { return again(cmd, words...) },
		})
	})
	if errors.Is(err, agent.ErrNoSchedule) || errors.Is(err, workflow.ErrNoSchedule) {
		return process.WithHint(err, "see "+again(cmd, "list"))
	}
	return err
}

// ofWorkflow reports whether an id is that of a schedule of a workflow.
func ofWorkflow(id string) bool { return strings.Count(id, "/") == 1 }

func checkScheduleID(id string) error {
	if strings.Contains(id, "/") {
		return nil
	}
	return fmt.Errorf("ID: %q: wanted is <class>/<agent>/<id>, or <workflow>/<id> for a workflow, as skein schedules list has them", id)
}

// of is what steers a schedule.
func (all allSchedules) of(id string) scheduleSource {
	if ofWorkflow(id) {
		return all.workflows
	}
	return all.agents
}

func trigger(ctx context.Context, all allSchedules, id string) (details, error) {
	if !ofWorkflow(id) {
		return nil, all.agents.Trigger(ctx, id)
	}
	instance, err := all.workflows.Trigger(ctx, id)
	return details{{"instance", instance}}, err
}

func deleteSchedule(ctx context.Context, all allSchedules, id string) (details, error) {
	if !ofWorkflow(id) {
		return nil, all.agents.Delete(ctx, id)
	}
	if _, err := all.workflows.Get(ctx, id); err != nil {
		return nil, err
	}
	return nil, process.WithHint(fmt.Errorf("schedule %q is one of skein.jsonc, which says that it is there", id),
		"take the line out of skein.jsonc and start a runner again, or keep it from starting anything with "+all.again("pause", id))
}

func (s *schedules) pause() *cobra.Command {
	var note string
	cmd := s.each("pause", "paused", "Keep schedules from firing", "Firings that are on their way to an agent still come.",
		func(ctx context.Context, all allSchedules, id string) (details, error) {
			return nil, all.of(id).Pause(ctx, id, note)
		})
	cmd.Flags().StringVar(&note, "note", "", "why, for those who list the schedules")
	return cmd
}

// each is a command that does something with every schedule that is named, and goes on after an error.
func (s *schedules) each(verb, done, short, long string, do func(context.Context, allSchedules, string) (details, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID...", Short: short, Long: short + ". " + long, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return s.on(cmd, func(ctx context.Context, all allSchedules) error {
				return s.eachSays(cmd.OutOrStdout(), ids, done, func(id string) (details, error) {
					if err := checkScheduleID(id); err != nil {
						return nil, err
					}
					return do(ctx, all, id)
				})
			})
		},
	}
}

func (s *schedules) backfill() *cobra.Command {
	var from, until, id string
	var dry bool
	cmd := &cobra.Command{
		Use: "backfill ID", Short: "Let a schedule fire for a range of the past", Args: cobra.ExactArgs(1),
		Long: "Let a schedule fire for each moment that it plans in a range of the past, up to 10,000, in their order, also if it is\n" +
			"paused. In agents, moments that have fired before fire again; for a workflow, moments whose instance is there do not. What\n" +
			"breaks off is repeated with the same --id, --from and --until: then nothing is done twice.",
		RunE: func(cmd *cobra.Command, args []string) error {
			order, err := orderOf(from, until, id)
			if err := errors.Join(checkScheduleID(args[0]), err); err != nil {
				return err
			}
			return s.on(cmd, func(ctx context.Context, all allSchedules) error {
				if dry {
					return s.listMoments(ctx, cmd, all, args[0], order)
				}
				return s.fill(ctx, cmd, all, args[0], order)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "first moment, as 2026-12-24T18:00:00+01:00 (needed)")
	cmd.Flags().StringVar(&until, "until", "", "last moment (needed)")
	cmd.Flags().StringVar(&id, "id", "", "id of the order, to repeat one that broke off; without it, a new one")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "list the moments, and fire nothing")
	return cmd
}

func (s *schedules) describe() *cobra.Command {
	return &cobra.Command{
		Use: "describe ID", Short: "Show all of a schedule", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkScheduleID(args[0]); err != nil {
				return err
			}
			return s.on(cmd, func(ctx context.Context, all allSchedules) error {
				row, err := all.get(ctx, args[0])
				if err != nil {
					return err
				}
				if s.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(row)
				}
				return describeSchedule(cmd.OutOrStdout(), row)
			})
		},
	}
}
