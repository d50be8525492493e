package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/doctor"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
)

// exitLeft is the exit code of a doctor that found something that is not repaired.
const exitLeft = 3

// leftError says that something is wrong with the project.
type leftError struct{ left int }

func (e *leftError) Error() string {
	if e.left == 1 {
		return "1 finding is left"
	}
	return fmt.Sprintf("%d findings are left", e.left)
}

// ExitCode tells it from what could not be found out.
func (e *leftError) ExitCode() int { return exitLeft }

// Hint says what to do.
func (e *leftError) Hint() string {
	return "skein doctor --repair mends what it can; docs/operations.md says what each kind means"
}

type doctorCommand struct {
	projectCommand
	repair   bool
	patience time.Duration
	rate     int
}

func newDoctor() *cobra.Command {
	d := &doctorCommand{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find, and mend, what nobody will go on with by itself",
		Long: "Reads what the streams of a project hold, beside runners, hosts and schedulers that work, and tells of instances\n" +
			"that could go on and have no wake, of waits without a timer, of schedules that are not armed, and of what is left\n" +
			"behind by what is gone. Whatever looks wrong is looked at again for the time of --patience before it is told.\n" +
			"The exit code is 0 if nothing is wrong, or all of it was repaired, 3 if findings are left, and 1 if it could not\n" +
			"be found out.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.patience < time.Second {
				return fmt.Errorf("--patience: %s: allowed is 1s or more", d.patience)
			}
			if d.rate < 1 {
				return fmt.Errorf("--rate: %d: allowed is 1 or more", d.rate)
			}
			return d.run(cmd, func(ctx context.Context, p *project.Project) error { return d.examine(ctx, cmd, p) })
		},
	}
	d.define(cmd)
	cmd.Flags().BoolVar(&d.repair, "repair", false, "mend what is found, as far as that is safe")
	cmd.Flags().DurationVar(&d.patience, "patience", 20*time.Second, "for how long something must look wrong")
	cmd.Flags().IntVar(&d.rate, "rate", 5000, "read at most so many messages per second")
	return cmd
}

func (d *doctorCommand) examine(ctx context.Context, cmd *cobra.Command, p *project.Project) error {
	row, err := streams.LookUp(ctx, p.JS, p.Config.Name)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	report, err := doctor.New(doctor.Options{
		Store: p.Journal(), Project: *row, Repair: d.repair, Patience: d.patience, Rate: d.rate,
		Found: func(f doctor.Finding) error { return d.tell(out, f) },
		Progress: func(what string, done int) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d looked at\n", what, done)
		},
	}).Examine(ctx)
	if err != nil {
		return err
	}
	d.summarize(cmd, report)
	if left := report.Left(); left > 0 {
		return &leftError{left}
	}
	return nil
}

// tell writes a finding as it comes.
func (d *doctorCommand) tell(out io.Writer, f doctor.Finding) error {
	if d.output == "json" {
		return json.NewEncoder(out).Encode(f)
	}
	_, err := fmt.Fprintf(out, "%s  %s\n    %s\n", f.Kind, f.Subject, f.Problem)
	if err != nil {
		return err
	}
	switch {
	case f.Repaired != "":
		_, err = fmt.Fprintf(out, "    repaired: %s\n", f.Repaired)
	case f.Failed != "":
		_, err = fmt.Fprintf(out, "    not repaired: %s\n", f.Failed)
	case f.Remedy == "":
		_, err = fmt.Fprintf(out, "    there is no repair\n")
	default:
		_, err = fmt.Fprintf(out, "    a repair would %s\n", f.Remedy)
	}
	return err
}

// summarize tells people what was looked at; programs read findings, and the exit code.
func (d *doctorCommand) summarize(cmd *cobra.Command, r doctor.Report) {
	out := cmd.ErrOrStderr()
	fmt.Fprintf(out, "looked at all, %d instances among it: findings %d, repaired %d\n", r.Instances, r.Findings, r.Repaired)
	if r.Undecided > 0 {
		fmt.Fprintf(out, "of %d instances nobody can tell now whether they have a wake: an older one is held, as by a step that takes long\n", r.Undecided)
	}
	if r.Unreadable > 0 {
		fmt.Fprintf(out, "%d things cannot be read, by this version at least, and were not looked at\n", r.Unreadable)
	}
}
