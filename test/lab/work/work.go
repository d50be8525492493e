// Package work is what the processes of the fault lab serve: workflows that do what their params say, and agents that keep what they
// were told in their state, in two projects that call each other.
//
// It must never know of faults, and never note anything through Skein: what bodies and turns did goes to package notes.
package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
	"github.com/skein-run/skein/pkg/workflow"
	"github.com/skein-run/skein/test/lab/notes"
)

// EnvNotes is the variable that names the folder of the notes.
const EnvNotes = "SKEIN_LAB_NOTES"

// The projects, and the workflows that both have.
const (
	North = "north"
	South = "south"

	// Any is the workflow of most instances. Few is one of which only FewLimit run at a time.
	Any      = "any"
	Few      = "few"
	FewLimit = 2
	// Tick is the workflow that schedules start.
	Tick = "tick"
	// Other is the binding to the workflow Any of the other project.
	Other = "OTHER"
)

// Projects are the names of both.
func Projects() []string { return []string{North, South} }

// Shards is how many shards a project has: South has several, so that leaders of several streams are lost at different times, and what
// holds for a project is held across streams.
func Shards(project string) int {
	if project == South {
		return 3
	}
	return 1
}

// WorkflowsStreams are the streams of a project's instances, one for each shard.
func WorkflowsStreams(project string) []string {
	var names []string
	for shard := range Shards(project) {
		names = append(names, protocol.WorkflowsStream(project, shard))
	}
	return names
}

// OtherThan is the project that a project calls.
func OtherThan(project string) string {
	if project == North {
		return South
	}
	return North
}

// Definitions are the workflows.
func Definitions() []workflow.Definition {
	return []workflow.Definition{workflow.Define("Script", run)}
}

// Runner serves the workflows of a project.
func Runner() project.Service { return workflow.Runner(Definitions()...) }

// Crons are the lines that start instances of Tick.
var Crons = []string{"*/10 * * * * *", "3/15 * * * * *"}

// config is the skein.jsonc of a project.
func config(name string) ([]byte, error) {
	type entry = map[string]any
	var schedules []entry
	for _, line := range Crons {
		schedules = append(schedules, entry{"cron": line, "params": Script{Kind: "cron", Ops: []Op{{Do: "tick"}}}, "catch_up": 1000})
	}
	return json.MarshalIndent(entry{
		"name":   name,
		"shards": Shards(name),
		"workflows": []entry{
			{"name": Any, "class_name": "Script"},
			{"name": Few, "class_name": "Script", "concurrency": entry{"limit": FewLimit}},
			{"name": Tick, "class_name": "Script", "schedules": schedules},
			{"name": Any, "binding": Other, "class_name": "Script", "script_name": OtherThan(name)},
		},
		"agents": []entry{{"class_name": ClassLedger, "binding": OtherLedger, "script_name": OtherThan(name)}},
	}, "", "  ")
}

// WriteConfigs writes the skein.jsonc of both projects into a folder and returns their paths.
func WriteConfigs(dir string) (map[string]string, error) {
	paths := map[string]string{}
	for _, name := range Projects() {
		text, err := config(name)
		paths[name] = filepath.Join(dir, name+".jsonc")
		if err = errors.Join(err, os.WriteFile(paths[name], text, 0o644)); err != nil {
			return nil, fmt.Errorf("write configuration of %s: %w", name, err)
		}
	}
	return paths, nil
}

// Config is the configuration of a project, for clients.
func Config(name string) (project.Config, error) {
	text, err := config(name)
	if err != nil {
		return project.Config{}, err
	}
	c, err := project.Parse(name+".jsonc", text)
	if err != nil {
		return project.Config{}, err
	}
	return *c, nil
}

// writer has the notes of this process.
var writer = sync.OnceValues(func() (*notes.Writer, error) {
	dir := os.Getenv(EnvNotes)
	if dir == "" {
		return nil, fmt.Errorf("%s names no folder", EnvNotes)
	}
	return notes.Open(dir, "work")
})

// noteBody notes that a body begins, or what it is about to return.
func noteBody(ctx context.Context, step, returns string) error {
	w, err := writer()
	if err != nil {
		return err
	}
	p, _ := project.From(ctx)
	info, attempt := workflow.Info(ctx), workflow.Step(ctx)
	n := notes.Note{
		Kind: notes.Body, Project: p.Config.Name, Workflow: info.Workflow, ID: info.ID, Step: step,
		Attempt: attempt.Number, Key: attempt.IdempotencyKey, Fence: attempt.Fence,
	}
	if returns != "" {
		n.Kind = notes.Returned
		if n.Value, err = json.Marshal(returns); err != nil {
			return err
		}
	}
	return w.Add(n)
}
