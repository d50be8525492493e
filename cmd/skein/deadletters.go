package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/agent"
	"github.com/skein-run/skein/pkg/project"
)

type deadLetters struct{ projectCommand }

func newDeadLetters() *cobra.Command {
	d := &deadLetters{}
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "See and redrive the callbacks that agents gave up on",
		Long: "A callback of an agent that has failed as often as its retry options allow is put among the dead letters of\n" +
			"the project. There it waits until it is redriven or dropped.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	d.define(cmd)
	cmd.AddCommand(d.list(), d.show(),
		d.each("redrive", "redriven", "Let agents try dead letters again",
			"The agent tries the callback again, in a turn as at the first time. The letter leaves the list when that has\n"+
				"succeeded; if it fails as before, another one takes its place.", agent.DeadLetters.Redrive),
		d.each("drop", "dropped", "Remove dead letters for good", "", agent.DeadLetters.Drop),
	)
	return cmd
}

// letters does something with the dead letters of the project.
func (d *deadLetters) letters(cmd *cobra.Command, do func(context.Context, agent.DeadLetters) error) error {
	err := d.run(cmd, func(ctx context.Context, p *project.Project) error { return do(ctx, agent.DeadLettersOf(p)) })
	if errors.Is(err, agent.ErrNoDeadLetter) {
		return process.WithHint(err, "see "+again(cmd, "list"))
	}
	return err
}

func (d *deadLetters) list() *cobra.Command {
	var of agentFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := of.check(); err != nil {
				return err
			}
			return d.letters(cmd, func(ctx context.Context, letters agent.DeadLetters) error {
				found := letters.List(ctx, agent.DeadFilter{Class: of.class, Agent: of.agent})
				if d.output == "json" {
					return writeLines(cmd.OutOrStdout(), found)
				}
				return writeTable(cmd.OutOrStdout(), found, "ID\tCALLBACK\tSOURCE\tATTEMPTS\tTIME\tERROR", "No dead letters.", letterLine)
			})
		},
	}
	of.define(cmd)
	return cmd
}

func letterLine(letter agent.DeadLetter) []any {
	return []any{
		letter.ID, orNone(letter.Callback), orNone(letter.Source), letter.Attempts, orNever(letter.Time), oneLine(failureText(letter)),
	}
}

func failureText(letter agent.DeadLetter) string {
	if letter.Error == nil {
		return "-"
	}
	return letter.Error.Name + ": " + letter.Error.Message
}

func (d *deadLetters) show() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a dead letter with its payload and error", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.letters(cmd, func(ctx context.Context, letters agent.DeadLetters) error {
				letter, err := letters.Get(ctx, args[0])
				if err != nil {
					return err
				}
				if d.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(letter)
				}
				return showText(cmd.OutOrStdout(), letter)
			})
		},
	}
}

func showText(out io.Writer, letter agent.DeadLetter) error {
	table := newTable(out)
	row := func(name, value string) { writeRow(table, name, value) }
	row("ID", letter.ID)
	row("Class", letter.Class)
	row("Agent", letter.Agent)
	row("Callback", orNone(letter.Callback))
	row("Source", orNone(letter.Source))
	row("From project", letter.From)
	if letter.Planned != nil {
		row("Planned", letter.Planned.UTC().Format(time.RFC3339Nano))
	}
	row("Attempts", fmt.Sprint(letter.Attempts))
	row("Time", letter.Time.UTC().Format(time.RFC3339Nano))
	row("Error", failureText(letter))
	switch {
	case letter.Cut:
		row("Payload", "lost: it had no room")
	case letter.Payload == nil:
		row("Payload", "-")
	default:
		row("Payload", string(letter.Payload))
	}
	return table.Flush()
}

// each is a command that does something with every letter that is named, and goes on after an error.
func (d *deadLetters) each(verb, done, short, long string, do func(agent.DeadLetters, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " ID...", Short: short, Long: long, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return d.letters(cmd, func(ctx context.Context, letters agent.DeadLetters) error {
				return d.eachOf(cmd.OutOrStdout(), ids, done, func(id string) error { return do(letters, ctx, id) })
			})
		},
	}
}
