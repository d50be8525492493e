package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	cmd.AddCommand(newExport(exportWithin))
	return cmd
}

// exportWithin bounds how long an export may take, and wait for a server.
const exportWithin = 5 * time.Minute

// export is one run of the command.
type export struct {
	path         string
	config       *project.Config
	workflow, id string
	out          io.Writer
	// connected is set when a server answered, written when the history is out: a server's command is silent about having
	// been told to stop.
	connected, written bool
}

var errCut = errors.New("the export was broken off")

func newExport(within time.Duration) *cobra.Command {
	e := &export{}
	cmd := process.Command(process.Spec{
		Use:   "export WORKFLOW ID",
		Short: "Write all that is stored of an instance as JSON, to look at it or to replay it in tests",
		Long: "Write all that is stored of an instance of this project to the output, as JSON: how it began, its log, and the\n" +
			"values that were too large for messages. It shows the results of sensitive steps, too: nothing can be replayed\n" +
			"without them. workflowtest.Replay holds code against such a file.",
		File: e.load,
		Run:  e.run,
	})
	cmd.Flags().StringVar(&e.path, "config", project.File(), "file that describes the project (env "+project.EnvConfig+")")
	cmd.Args = cobra.ExactArgs(2)
	serve := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e.workflow, e.id, e.out = args[0], args[1], cmd.OutOrStdout()
		ctx, cancel := context.WithTimeout(cmd.Context(), within)
		defer cancel()
		cmd.SetContext(ctx)
		err := serve(cmd, args)
		switch {
		case err != nil, e.written:
			return err
		case e.connected:
			return errCut
		}
		return process.WithHint(fmt.Errorf("no NATS server answered within %s", within), "start it, or say where it is with --nats-url")
	}
	return cmd
}

// load reads the project. What is logged on the way is of no interest, unless somebody asks for it.
func (e *export) load() (process.Settings, error) {
	var err error
	if e.config, err = project.Load(e.path); err != nil {
		return process.Settings{}, err
	}
	e.config.Settings.LogLevel = cmp.Or(e.config.Settings.LogLevel, "warn")
	return e.config.Settings, nil
}

// run writes the history.
func (e *export) run(ctx context.Context, env *process.Env) error {
	e.connected, e.config.Settings = true, env.Settings
	history, err := e.history(ctx, env)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(e.out)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(history)
	e.written = err == nil
	return err
}

func (e *export) history(ctx context.Context, env *process.Env) (workflow.History, error) {
	binding, err := ownBinding(e.config, e.workflow)
	if err != nil {
		return workflow.History{}, err
	}
	p, err := project.Open(ctx, *e.config, project.Conn(env.NC), project.Logger(env.Log))
	if err != nil {
		return workflow.History{}, err
	}
	defer p.Close()
	instance, err := workflow.Bind[any, any](binding).In(p).Get(ctx, e.id)
	if errors.Is(err, workflow.ErrNotFound) {
		err = process.WithHint(err, "check the id, and that --nats-url leads to the servers of project "+e.config.Name)
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
