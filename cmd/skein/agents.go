package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/agent"
)

// agents is the command with what its sub-commands share.
type agents struct {
	project projectFlags
	output  string
}

func newAgents() *cobra.Command {
	a := &agents{output: "text"}
	cmd := &cobra.Command{
		Use: "agents", Short: "Destroy agents", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.project.define(cmd)
	cmd.PersistentFlags().StringVar(&a.output, "output", a.output, "text or json")
	cmd.AddCommand(a.destroy())
	return cmd
}

func (a *agents) destroy() *cobra.Command {
	var timeout time.Duration
	var terminate bool
	cmd := &cobra.Command{
		Use: "destroy CLASS NAME", Short: "Destroy an agent with all that it has", Args: cobra.ExactArgs(2),
		Long: "The agent's state, schedules, queue and dead letters are taken away, after the turn that it may be in. A host of\n" +
			"the class must run. Whoever asks for an agent of the name afterwards gets a new one.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(a.output); err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			cmd.SetContext(ctx)
			p, err := a.project.open(cmd)
			if err != nil {
				return err
			}
			defer p.Close()
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
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s: destroyed\n", args[0], args[1])
			return err
		},
	}
	cmd.Flags().BoolVar(&terminate, "terminate-workflows", false, "terminate the workflows that the agent has started and tracks")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the end")
	return cmd
}
