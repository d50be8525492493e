package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/pkg/workflow"
)

// selection is which instances a command is about.
type selection struct {
	states       []string
	from, before string
	after        uint64
}

func (s *selection) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&s.states, "state", nil, "only those in these states, separated by commas")
	flags.StringVar(&s.from, "created-from", "", "only those created at this moment or later: in RFC 3339, or how long ago (24h)")
	flags.StringVar(&s.before, "created-before", "", "only those created before this moment")
	flags.Uint64Var(&s.after, "after", 0, "only those behind the one with this cursor, which list --output json shows")
}

// options are the selection for a List.
func (s *selection) options(now time.Time) ([]workflow.ListOption, error) {
	options := []workflow.ListOption{workflow.ListAfter(s.after)}
	for _, state := range s.states {
		options = append(options, workflow.States(workflow.State(state)))
	}
	for _, bound := range []struct {
		flag, text string
		option     func(time.Time) workflow.ListOption
	}{
		{"--created-from", s.from, workflow.CreatedFrom},
		{"--created-before", s.before, workflow.CreatedBefore},
	} {
		if bound.text == "" {
			continue
		}
		moment, err := parseMoment(bound.text, now)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", bound.flag, err)
		}
		options = append(options, bound.option(moment))
	}
	return options, nil
}

// parseMoment takes a moment, or how long it is ago.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return moment, fmt.Errorf("%q: allowed is a moment such as 2026-11-22T14:20:00Z, or how long it is ago, such as 24h", text)
	}
	return moment, nil
}

func (w *workflows) list() *cobra.Command {
	var chosen selection
	var limit int
	cmd := &cobra.Command{
		Use:   "list WORKFLOW",
		Short: "List instances of a workflow of the project",
		Long: "List instances of a workflow of the project, in the order in which they were created; those of a project with shards\n" +
			"shard by shard.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return fmt.Errorf("--limit: %d: allowed is 0, for no limit, or more", limit)
			}
			options, err := chosen.options(time.Now())
			if err != nil {
				return err
			}
			return w.of(cmd, args[0], func(ctx context.Context, b bound) error {
				out := newStatusList(cmd.OutOrStdout(), w.output)
				return out.write(b.List(ctx, options...), limit)
			})
		},
	}
	chosen.define(cmd)
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most so many; 0: all")
	return cmd
}

// statusList writes a list as it comes: one line each, so that a long one needs no memory here or there.
type statusList struct {
	encoder *json.Encoder // nil: a table
	table   *tabwriter.Writer
	count   int
}

func newStatusList(out io.Writer, output string) *statusList {
	if output == "json" {
		return &statusList{encoder: json.NewEncoder(out)}
	}
	return &statusList{table: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

func (l *statusList) write(list func(func(workflow.Status, error) bool), limit int) error {
	var errs []error
	for s, err := range list {
		if err != nil { // the loop goes on if it is about one instance only
			errs = append(errs, err)
			continue
		}
		if err := l.add(s); err != nil {
			return err
		}
		if l.count == limit {
			break
		}
	}
	if l.table != nil {
		if l.count == 0 && len(errs) == 0 {
			fmt.Fprintln(l.table, "No instances.")
		}
		errs = append(errs, l.table.Flush())
	}
	return errors.Join(errs...)
}

func (l *statusList) add(s workflow.Status) error {
	l.count++
	if l.encoder != nil {
		return l.encoder.Encode(s)
	}
	if l.count == 1 {
		fmt.Fprintln(l.table, "ID\tSTATE\tCREATED\tFINISHED\tSOURCE\tERROR")
	}
	writeRow(l.table, s.ID, s.State, moment(&s.Created), moment(s.Finished), sourceText(s.Source), oneLine(orNone(failure(s.Error))))
	if l.count%listPage == 0 {
		return l.table.Flush()
	}
	return nil
}

// listPage is how many lines of a table are laid out together.
const listPage = 1000

// moment is a moment in a table; nil is none.
func moment(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func failure(f *workflow.Failure) string {
	if f == nil {
		return ""
	}
	return f.Name + ": " + f.Message
}
