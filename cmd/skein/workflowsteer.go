package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/workflow"
)

func (w *workflows) steering() []*cobra.Command {
	return []*cobra.Command{w.pause(), w.resume(), w.restart(), w.terminate(), w.delete()}
}

// each is a command that asks the same of every instance that is named, and goes on after an error.
func (w *workflows) each(verb, short string, do func(*instance, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " WORKFLOW ID...", Short: short, Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return w.of(cmd, args[0], func(ctx context.Context, b bound) error {
				return w.tell(cmd.OutOrStdout(), verb, named(ctx, b, args[1:], do))
			})
		},
	}
}

// named asks the same of every instance of a list.
func named(ctx context.Context, b bound, ids []string, do func(*instance, context.Context) error) iter.Seq2[workflow.Steered, error] {
	return func(yield func(workflow.Steered, error) bool) {
		for _, id := range ids {
			i, err := b.Get(ctx, id)
			if err == nil {
				err = do(i, ctx)
			}
			if !yield(workflow.Steered{ID: id, Err: err}, nil) {
				return
			}
		}
	}
}

// tell writes what became of each instance. What was asked for is stored, and carried out when a runner comes to it.
func (w *workflows) tell(out io.Writer, verb string, all iter.Seq2[workflow.Steered, error]) error {
	var errs []error
	encoder := json.NewEncoder(out)
	for s, err := range all {
		switch {
		case err != nil || s.Err != nil:
			err = errors.Join(err, s.Err)
		case w.output == "json":
			err = encoder.Encode(map[string]string{"id": s.ID, "requested": verb})
		default:
			_, err = fmt.Fprintf(out, "%s: %s requested\n", s.ID, verb)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (w *workflows) pause() *cobra.Command {
	return w.each("pause", "Let instances finish the bodies of steps that run, and begin no others", (*instance).Pause)
}

func (w *workflows) resume() *cobra.Command {
	var accept bool
	cmd := w.each("resume", "Let instances go on that are paused or held", func(i *instance, ctx context.Context) error {
		if accept {
			return i.Resume(ctx, workflow.AcceptDivergence())
		}
		return i.Resume(ctx)
	})
	cmd.Flags().BoolVar(&accept, "accept-divergence", false, "let those go on, too, whose code no longer does what is recorded")
	return cmd
}

func (w *workflows) restart() *cobra.Command {
	var from, kind string
	var count int
	cmd := w.each("restart", "Let instances begin again, from their beginning or from a step", func(i *instance, ctx context.Context) error {
		if from == "" {
			return i.Restart(ctx)
		}
		return i.Restart(ctx, workflow.FromStep(workflow.StepKind(kind), from, count))
	})
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, flag := range []string{"kind", "count"} {
			if from == "" && cmd.Flags().Changed(flag) {
				return fmt.Errorf("--%s: needs --from, too", flag)
			}
		}
		return nil
	}
	cmd.Flags().StringVar(&from, "from", "", "name of the step to begin again from; what was recorded before it stays")
	cmd.Flags().StringVar(&kind, "kind", string(workflow.StepDo), "kind of that step: do, sleep, event, call or race")
	cmd.Flags().IntVar(&count, "count", 1, "which use of that name, from 1")
	return cmd
}

// there leaves out what has gone since it was listed: nobody has asked for it by its name.
func there(all iter.Seq2[workflow.Steered, error]) iter.Seq2[workflow.Steered, error] {
	return func(yield func(workflow.Steered, error) bool) {
		for s, err := range all {
			if !errors.Is(s.Err, workflow.ErrNotFound) && !yield(s, err) {
				return
			}
		}
	}
}

// eachOrAll is a command for instances that are named, or, with --all, for those that are chosen.
func (w *workflows) eachOrAll(verb, short, every string, do func(*instance, context.Context) error,
	all func(context.Context, bound, []workflow.ListOption) iter.Seq2[workflow.Steered, error],
) *cobra.Command {
	var chosen selection
	var isAll bool
	cmd := w.each(verb, short, do)
	cmd.Use = verb + " WORKFLOW [ID...]"
	cmd.Args = cobra.MinimumNArgs(1)
	eachNamed := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if isAll == (len(args) > 1) {
			return process.WithHint(fmt.Errorf("%s: wanted are either ids or --all", verb), "see skein workflows list "+args[0])
		}
		if !isAll {
			return eachNamed(cmd, args)
		}
		options, err := chosen.options(time.Now())
		if err != nil {
			return err
		}
		return w.of(cmd, args[0], func(ctx context.Context, b bound) error {
			return w.tell(cmd.OutOrStdout(), verb, there(all(ctx, b, options)))
		})
	}
	chosen.define(cmd)
	cmd.Flags().BoolVar(&isAll, "all", false, every)
	return cmd
}

func (w *workflows) terminate() *cobra.Command {
	var options []workflow.TerminateOption
	var rollback bool
	cmd := w.eachOrAll("terminate", "End instances", "all that have not ended, or those that the other flags choose",
		func(i *instance, ctx context.Context) error { return i.Terminate(ctx, options...) },
		func(ctx context.Context, b bound, list []workflow.ListOption) iter.Seq2[workflow.Steered, error] {
			var all []workflow.TerminateAllOption
			for _, o := range list {
				all = append(all, o)
			}
			for _, o := range options {
				all = append(all, o)
			}
			return b.TerminateAll(ctx, all...)
		})
	cmd.PreRun = func(*cobra.Command, []string) {
		if rollback {
			options = append(options, workflow.RollbackFirst())
		}
	}
	cmd.Flags().BoolVar(&rollback, "rollback", false, "undo their steps first, those that say how")
	return cmd
}

func (w *workflows) delete() *cobra.Command {
	return w.eachOrAll("delete", "Take instances away, with everything that is stored of them", "all, or those that the other flags choose",
		(*instance).Delete,
		func(ctx context.Context, b bound, list []workflow.ListOption) iter.Seq2[workflow.Steered, error] {
			return b.DeleteAll(ctx, list...)
		})
}
