package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/workflow"
)

func newWorkflows() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workflows",
		Short: "Look after instances of workflows",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExport())
	return cmd
}

// exportWithin bounds how long an export waits for servers.
const exportWithin = 30 * time.Second

func newExport() *cobra.Command {
	var path string
	var config *project.Config
	var export func(ctx context.Context, env *process.Env) error
	cmd := process.Command(process.Spec{
		Use:   "export WORKFLOW ID",
		Short: "Write all that is stored of an instance as JSON, to look at it or to replay it in tests",
		Long: "Write all that is stored of an instance of this project to the output, as JSON: how it began, its log, and the\n" +
			"values that were too large for messages. It shows the results of sensitive steps, too: nothing can be replayed\n" +
			"without them. workflowtest.Replay holds code against such a file.",
		File: func() (process.Settings, error) {
			var err error
			if config, err = project.Load(path); err != nil {
				return process.Settings{}, err
			}
			if config.Settings.LogLevel == "" {
				config.Settings.LogLevel = "warn"
			}
			return config.Settings, nil
		},
		Run: func(ctx context.Context, env *process.Env) error { return export(ctx, env) },
	})
	cmd.Flags().StringVar(&path, "config", project.File(), "file that describes the project (env "+project.EnvConfig+")")
	cmd.Args = cobra.ExactArgs(2)
	serve := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), exportWithin)
		defer cancel()
		err := errNoServer
		export = func(ctx context.Context, env *process.Env) error {
			err = nil
			history, exportErr := exportFrom(ctx, config, env, args[0], args[1])
			if exportErr != nil {
				return exportErr
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(history)
		}
		cmd.SetContext(ctx)
		if serveErr := serve(cmd, args); serveErr != nil {
			return serveErr
		}
		if err != nil {
			return process.WithHint(err, "start it, or say where it is with --nats-url")
		}
		return nil
	}
	return cmd
}

// errNoServer says that an export was over before there was a connection.
var errNoServer = fmt.Errorf("no NATS server answered within %s", exportWithin)

func exportFrom(ctx context.Context, config *project.Config, env *process.Env, name, id string) (workflow.History, error) {
	config.Settings = env.Settings
	binding, err := ownBinding(config, name)
	if err != nil {
		return workflow.History{}, err
	}
	p, err := project.Open(ctx, *config, project.Conn(env.NC), project.Logger(env.Log))
	if err != nil {
		return workflow.History{}, err
	}
	defer p.Close()
	instance, err := workflow.Bind[any, any](binding).In(p).Get(ctx, id)
	if errors.Is(err, workflow.ErrNotFound) {
		err = process.WithHint(err, "check the id, and that --nats-url leads to the servers of project "+config.Name)
	}
	if err != nil {
		return workflow.History{}, err
	}
	return instance.Export(ctx)
}

// ownBinding is the binding of a workflow that the project owns, called by its own name or that of the binding.
func ownBinding(config *project.Config, name string) (string, error) {
	var known []string
	for _, w := range config.Own() {
		if w.Name == name || w.Binding == name {
			return w.Binding, nil
		}
		known = append(known, w.Name)
	}
	err := fmt.Errorf("project %q owns no workflow %q", config.Name, name)
	if target, foreign := config.Binding(name); foreign == nil {
		return "", process.WithHint(fmt.Errorf("%w: it belongs to project %q", err, target.Project), "name the skein.jsonc of that project with --config")
	}
	if len(known) == 0 {
		return "", process.WithHint(err, "name the skein.jsonc of the project that does with --config")
	}
	return "", process.WithHint(err, "it owns "+strings.Join(known, ", "))
}
