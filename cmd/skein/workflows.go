package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

// The command speaks JSON: it does not know the types of anybody's workflows.
type (
	bound    = workflow.Bound[json.RawMessage, json.RawMessage]
	instance = workflow.Instance[json.RawMessage]
)

// workflows is the command with what its sub-commands share.
type workflows struct {
	project projectFlags
	output  string
}

func newWorkflows() *cobra.Command {
	w := &workflows{output: "text"}
	cmd := &cobra.Command{
		Use:   "workflows",
		Short: "Start, see and steer instances of workflows",
		Long: "Start, see and steer instances of workflows. WORKFLOW is the name of a workflow of the project, or a binding in\n" +
			"its skein.jsonc, also one that leads to another project.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	w.project.define(cmd)
	cmd.PersistentFlags().StringVar(&w.output, "output", w.output, "text or json")
	cmd.AddCommand(w.list(), w.describe(), w.watch(), w.create(), w.sendEvent(), w.export())
	cmd.AddCommand(w.steering()...)
	return cmd
}

// run opens the project for one sub-command and finds the workflow that its first argument names.
func (w *workflows) run(cmd *cobra.Command, name string, do func(context.Context, bound) error) error {
	if err := checkOutput(w.output); err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	cmd.SetContext(ctx)
	p, err := w.project.open(cmd)
	if err != nil {
		return err
	}
	defer p.Close()
	binding, err := bindingOf(&p.Config, name)
	if err == nil {
		err = do(ctx, workflow.Bind[json.RawMessage, json.RawMessage](binding).In(p))
	}
	_, foreign := errors.AsType[*workflow.NotOwnerError](err)
	switch {
	case foreign:
		return process.WithHint(err, "name the project that does with --config or --project")
	case errors.Is(err, workflow.ErrNotFound):
		return process.WithHint(err, "see skein workflows list "+name)
	case errors.Is(err, workflow.ErrNoRunner):
		return process.WithHint(err, "start a runner of the project that owns the workflow")
	}
	return err
}

// runOne is run for one instance.
func (w *workflows) runOne(cmd *cobra.Command, args []string, do func(context.Context, *instance) error) error {
	return w.run(cmd, args[0], func(ctx context.Context, b bound) error {
		i, err := b.Get(ctx, args[1])
		if err != nil {
			return err
		}
		return do(ctx, i)
	})
}

// bindingOf is the binding that leads to a workflow, which may be called by the name that it has in its own project.
func bindingOf(config *project.Config, name string) (string, error) {
	var known []string
	for _, w := range config.Workflows {
		binding := w.Binding
		if binding == "" {
			binding = w.Name
		}
		if binding == name || w.Name == name {
			return binding, nil
		}
		known = append(known, binding)
	}
	err := fmt.Errorf("project %q has no workflow %q", config.Name, name)
	if len(known) == 0 {
		return "", process.WithHint(err, "name a project that has some with --config or --project")
	}
	slices.Sort(known)
	return "", process.WithHint(err, "it has "+strings.Join(known, ", "))
}
