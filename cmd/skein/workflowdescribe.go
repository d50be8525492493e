package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
)

func (w *workflows) describe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe WORKFLOW ID",
		Short: "Show an instance with its steps so far",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return w.one(cmd, args, func(ctx context.Context, i *instance) error {
				s, err := whole(ctx, i)
				if err != nil {
					return err
				}
				if w.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
				}
				return describeText(cmd.OutOrStdout(), s)
			})
		},
	}
}

// whole is the status of an instance with all of its steps.
func whole(ctx context.Context, i *instance) (workflow.Status, error) {
	s, err := i.Status(ctx)
	if err != nil || s.Omitted == 0 {
		return s, err
	}
	s.Steps, s.Omitted = nil, 0
	for step, err := range i.Steps(ctx) {
		if err != nil {
			return s, err
		}
		s.Steps = append(s.Steps, step)
	}
	return s, nil
}

func describeText(out io.Writer, s workflow.Status) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			writeRow(table, name, value)
		}
	}
	row("Workflow", s.Workflow)
	row("ID", s.ID)
	row("State", string(s.State))
	row("Created", s.Created.UTC().Format(time.RFC3339Nano))
	if s.Finished != nil {
		row("Finished", s.Finished.UTC().Format(time.RFC3339Nano))
	}
	if s.Expires != nil {
		row("Expires", s.Expires.UTC().Format(time.RFC3339Nano))
	}
	row("Source", sourceText(s.Source))
	row("Version", s.Version)
	row("Params", valueText(s.Params, s.ParamsObject))
	row("Output", valueText(s.Output, s.OutputObject))
	row("Error", failure(s.Error))
	if s.Rollback != nil {
		row("Rollback", strings.TrimSpace(s.Rollback.Outcome+" "+failure(s.Rollback.Error)))
	}
	if s.Epoch > 0 {
		row("Restarts", fmt.Sprint(s.Epoch))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return stepsText(out, s)
}

// stepsText is a table of the steps, in the order in which they began.
func stepsText(out io.Writer, s workflow.Status) error {
	if len(s.Steps) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STEP\tKIND\tSTATE\tATTEMPTS\tBEGUN\tENDED\tRUNNER\tOUTCOME")
	for _, step := range s.Steps {
		begun, ended, runner := stepSpan(step)
		writeRow(table, stepName(step.Key), step.Op, step.State, len(step.Attempts), begun, ended, orNone(runner), oneLine(orNone(stepOutcome(step))))
	}
	return table.Flush()
}

func stepName(k protocol.Key) string {
	if k.Count == 1 {
		return k.Name
	}
	return fmt.Sprintf("%s #%d", k.Name, k.Count)
}

// stepSpan says when the first attempt began, when the last one ended, and which runner made it.
func stepSpan(step protocol.StepStatus) (begun, ended, runner string) {
	if len(step.Attempts) == 0 {
		return "-", "-", ""
	}
	last := step.Attempts[len(step.Attempts)-1]
	return moment(step.Attempts[0].Started), moment(last.Finished), last.Runner
}

// stepOutcome is what came of a step, or what it waits for.
func stepOutcome(step protocol.StepStatus) string {
	switch {
	case step.Error != nil:
		return failure(step.Error)
	case step.Output != nil || step.OutputObject != nil:
		return valueText(step.Output, step.OutputObject)
	case step.Winner != nil:
		return fmt.Sprintf("branch %d was first", *step.Winner)
	case step.Until != nil && step.Type != "":
		return fmt.Sprintf("an event of type %q until %s", step.Type, moment(step.Until))
	case step.Type != "":
		return fmt.Sprintf("an event of type %q", step.Type)
	case step.Until != nil:
		return "until " + moment(step.Until)
	case step.Callee != nil:
		return "child " + step.Callee.ID
	case len(step.Attempts) > 0:
		return failure(step.Attempts[len(step.Attempts)-1].Error)
	}
	return ""
}

// valueText is a value as JSON, or where it is if it is large.
func valueText(value json.RawMessage, object *protocol.Object) string {
	if object != nil {
		return fmt.Sprintf("object %s, %d bytes", object.Name, object.Size)
	}
	return string(value)
}

// sourceText says who started an instance.
func sourceText(s protocol.Source) string {
	var parts []string
	for _, part := range []string{s.Project, s.Class, s.Name} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.TrimSpace(s.Kind + " " + strings.Join(parts, "/"))
}

func (w *workflows) watch() *cobra.Command {
	var after string
	cmd := &cobra.Command{
		Use:   "watch WORKFLOW ID",
		Short: "Tell what happened to an instance, and then what happens to it, until it ends",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cursor workflow.Cursor
			if err := cursor.UnmarshalText([]byte(after)); err != nil {
				return fmt.Errorf("--after: %q: %w", after, err)
			}
			return w.one(cmd, args, func(ctx context.Context, i *instance) error {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				for notice, err := range i.Subscribe(ctx, workflow.After(cursor)) {
					if err == nil && w.output == "json" {
						err = encoder.Encode(notice)
					} else if err == nil {
						_, err = fmt.Fprintln(cmd.OutOrStdout(), noticeText(notice))
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "go on behind the notice with this cursor, which --output json shows")
	return cmd
}

// noticeText is a notice as one line.
func noticeText(n workflow.Notice) string {
	parts := []string{n.Time.UTC().Format("2006-01-02T15:04:05.000Z"), fmt.Sprintf("%-17s", n.Kind)}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if n.Step != nil {
		add("%s %q", n.Step.Op, stepName(*n.Step))
	}
	if n.Attempt > 0 {
		add("attempt %d", n.Attempt)
	}
	if n.Type != "" {
		add("type %q", n.Type)
	}
	if n.Callee != nil {
		add("child %s", n.Callee.ID)
	}
	if n.Until != nil {
		add("until %s", moment(n.Until))
	}
	if n.Runner != "" && n.Kind == workflow.NoticeRunning {
		add("on %s", n.Runner)
	}
	if n.Lost {
		add("(the run before was lost)")
	}
	switch value := valueText(n.Value, n.Object); {
	case n.Error != nil:
		add("%s", oneLine(failure(n.Error)))
	case value != "":
		add("%s", oneLine(value))
	}
	return strings.TrimRight(strings.Join(parts, "  "), " ")
}
