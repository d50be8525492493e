package demo

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/examples/emailworkflows"
	"github.com/skein-run/skein/examples/flightdesk"
	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/scheduler"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// processCommand is the hidden command of this program under which it is one of the demo's processes.
const processCommand = "process"

// The demo's processes, named as the programs are that run the same.
const (
	processScheduler = "scheduler"
	processHost      = "agent-host"
	processRunner    = "workflow-runner"
)

// ProcessCommand makes the hidden command.
func ProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:                processCommand,
		Hidden:             true,
		DisableFlagParsing: true, // the flags are those of the process
		SilenceErrors:      true,
		SilenceUsage:       true,
		Args:               cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			child, err := process(args[0])
			if err != nil {
				return err
			}
			child.SetArgs(args[1:])
			child.SetErr(cmd.ErrOrStderr())
			return child.ExecuteContext(cmd.Context())
		},
	}
}

// process makes the command of one process: the very one that the main of the same name runs.
func process(name string) (*cobra.Command, error) {
	switch name {
	case processScheduler:
		return scheduler.Command(doctor.Rounds), nil
	case processHost:
		return project.Command(name, agent.Host(flightdesk.Classes()...)), nil
	case processRunner:
		onboarding, err := emailworkflows.FromEnv()
		if err != nil {
			return nil, err
		}
		return project.Command(name, workflow.Runner(emailworkflows.Workflows(onboarding)...)), nil
	}
	return nil, fmt.Errorf("process %q: allowed are %s, %s and %s", name, processScheduler, processHost, processRunner)
}
