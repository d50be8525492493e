package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/crontab"
	"github.com/skein-run/skein/pkg/project"
)

func (w *workflows) schedules() *cobra.Command {
	return &cobra.Command{
		Use: "schedules", Short: "List the cron lines that start instances", Args: cobra.NoArgs,
		Long: "List the cron lines that start instances of the project's workflows, as its runners have stored them, with what they have done so far.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return w.run(cmd, func(ctx context.Context, p *project.Project) error {
				all, err := crontab.Table{Store: p.Journal(), Project: p.Config.Name}.List(ctx)
				if err != nil {
					return err
				}
				if w.output == "json" {
					encoder := json.NewEncoder(cmd.OutOrStdout())
					for _, s := range all {
						if err := encoder.Encode(s); err != nil {
							return err
						}
					}
					return nil
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				writeSchedules(table, all)
				return table.Flush()
			})
		},
	}
}

func writeSchedules(table *tabwriter.Writer, all []crontab.Status) {
	if len(all) == 0 {
		fmt.Fprintln(table, "No schedules.")
		return
	}
	fmt.Fprintln(table, "WORKFLOW\tCRON\tZONE\tLAST\tNEXT\tRUNS\tMISSED\tID")
	for _, s := range all {
		next := momentOrNever(s.Next)
		if s.Paused != nil {
			next = "paused"
		}
		zone := s.Zone
		if zone == "" {
			zone = "UTC"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", s.Workflow, oneLine(s.Cron), zone, momentOrNever(s.Last), next, s.Runs, s.Missed, s.ID)
	}
}

func momentOrNever(t *time.Time) string {
	if t == nil {
		return orNever(time.Time{})
	}
	return orNever(*t)
}
