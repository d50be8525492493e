package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

type agents struct{ projectCommand }

func newAgents() *cobra.Command {
	a := &agents{}
	cmd := &cobra.Command{
		Use: "agents", Short: "See what waits for agents, and destroy them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.define(cmd)
	cmd.AddCommand(a.inbox(), a.destroy())
	return cmd
}

func (a *agents) inbox() *cobra.Command {
	return &cobra.Command{
		Use: "inbox CLASS NAME", Short: "Tell what waits for an agent", Args: cobra.ExactArgs(2),
		Long: "Waiting is all mail that is not applied, parked what of it has failed and waits for another attempt. With 1,000\n" +
			"parked, the agent tries nothing new until there is room. The agent is not woken.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, func(ctx context.Context, p *project.Project) error {
				status, err := agent.Inbox(ctx, p, args[0], args[1])
				if err != nil {
					return err
				}
				if a.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(status)
				}
				next := "-"
				if status.Next != nil {
					next = status.Next.UTC().Format(time.RFC3339)
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "AGENT\tWAITING\tPARKED\tNEXT ATTEMPT\tSTOPPED")
				fmt.Fprintf(table, "%s/%s\t%d\t%d\t%s\t%v\n", args[0], args[1], status.Waiting, status.Parked, next, status.Stopped)
				return table.Flush()
			})
		},
	}
}

func (a *agents) destroy() *cobra.Command {
	var timeout time.Duration
	var terminate bool
	cmd := &cobra.Command{
		Use: "destroy CLASS NAME", Short: "Destroy an agent with all that it has", Args: cobra.ExactArgs(2),
		Long: "The agent's state, schedules, queue and dead letters are taken away, after the turn that it may be in. A host of\n" +
			"the class must run. Whoever asks for an agent of the name afterwards gets a new one.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, func(ctx context.Context, p *project.Project) error {
				options := []agent.DestroyOption{agent.Timeout(timeout)}
				if terminate {
					options = append(options, agent.TerminateWorkflows())
				}
				if err := agent.Destroy(ctx, agent.Bind[any](args[0]).In(p).Agent(args[1]), options...); err != nil {
					return err
				}
				if a.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"class": args[0], "agent": args[1], "state": "destroyed"})
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s/%s: destroyed\n", args[0], args[1])
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&terminate, "terminate-workflows", false, "terminate the workflows that the agent has started and tracks")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the end")
	return cmd
}
