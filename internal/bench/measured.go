package bench

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"
)

// count is a number that a benchmark takes.
type count struct {
	flag            string
	into            *int
	value, min, max int
	usage           string
}

// span is a time that a benchmark takes.
type span struct {
	flag            string
	into            *time.Duration
	value, min, max time.Duration
	usage           string
}

// measured makes the command of a benchmark that starts all it needs, and prints an AgentReport.
type measured struct {
	use, short string
	// procs is GOMAXPROCS of each process, whose names procsOf lists.
	procs   *int
	procsOf string
	counts  []count
	spans   []span
	run     func(context.Context, *processes) (AgentReport, error)
}

func (m measured) command() *cobra.Command {
	var output string
	*m.procs = max(1, runtime.NumCPU()/3)
	m.counts = append(m.counts, count{"procs", m.procs, *m.procs, 1, 1024, "GOMAXPROCS of " + m.procsOf + " each"})
	cmd := &cobra.Command{
		Use: m.use, Short: m.short, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := m.validate(output); err != nil {
				return err
			}
			runtime.GOMAXPROCS(*m.procs)
			report, err := withServer(cmd, world{procs: *m.procs}, m.run)
			if err != nil {
				return err
			}
			return report.print(cmd.OutOrStdout(), output)
		},
	}
	for _, c := range m.counts {
		cmd.Flags().IntVar(c.into, c.flag, c.value, c.usage)
	}
	for _, s := range m.spans {
		cmd.Flags().DurationVar(s.into, s.flag, s.value, s.usage)
	}
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func (m measured) validate(output string) error {
	for _, c := range m.counts {
		if *c.into < c.min || *c.into > c.max {
			return fmt.Errorf("--%s: %d: allowed is %d to %d", c.flag, *c.into, c.min, c.max)
		}
	}
	for _, s := range m.spans {
		if *s.into < s.min || *s.into > s.max {
			return fmt.Errorf("--%s: %v: allowed is %v to %v", s.flag, *s.into, s.min, s.max)
		}
	}
	if output != "text" && output != "json" {
		return fmt.Errorf("--output: %q: allowed is text or json", output)
	}
	return nil
}
