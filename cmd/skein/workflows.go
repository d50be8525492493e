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

type workflows struct{ projectCommand }

func newWorkflows() *cobra.Command {
	w := &workflows{}
	cmd := &cobra.Command{
		Use:   "workflows",
		Short: "Start, see and steer instances of workflows",
		Long: "Start, see and steer instances of workflows. WORKFLOW is the name of a workflow of the project, or a binding in\n" +
			"its skein.jsonc, also one that leads to another project.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	w.define(cmd)
	cmd.AddCommand(w.list(), w.describe(), w.watch(), w.create(), w.sendEvent(), w.export())
	cmd.AddCommand(w.steering()...)
	return cmd
}

// of does something with the workflow that the first argument of a sub-command names.
func (w *workflows) of(cmd *cobra.Command, name string, do func(context.Context, bound) error) error {
	err := w.run(cmd, func(ctx context.Context, p *project.Project) error {
		binding, err := bindingOf(&p.Config, name)
		if err != nil {
			return err
		}
		return do(ctx, workflow.Bind[json.RawMessage, json.RawMessage](binding).In(p))
	})
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

// one does something with the instance that the first two arguments name.
func (w *workflows) one(cmd *cobra.Command, args []string, do func(context.Context, *instance) error) error {
	return w.of(cmd, args[0], func(ctx context.Context, b bound) error {
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
