package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/durability"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/execution"
	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/internal/runner"
	"github.com/skein-run/skein/internal/streams"
	"github.com/skein-run/skein/pkg/project"
	"github.com/skein-run/skein/pkg/protocol"
)

// Runner is the service that executes the workflows of a project. Any number of them may run; each executes as many
// instances at a time as the setting slots says. At a signal it hands its work back; what it leaves behind when it is
// killed, others take over after the setting take_over_after, 5 seconds unless it is set.
//
// Every workflow that skein.jsonc has without a script_name (or with that of the project itself) needs a definition of
// its class, and every definition such a workflow.
func Runner(definitions ...Definition) project.Service { return service{definitions} }

type service struct{ definitions []Definition }

// Name is the name of the service.
func (service) Name() string { return "workflow-runner" }

// Settings are those that a runner listens to beside the common ones.
func (service) Settings() []string {
	return []string{process.SettingShards, process.SettingSlots, process.SettingTakeOver, process.SettingVersion, process.SettingMaxValueSize}
}

// Serve registers the project's workflows and their schedules, and executes their instances until ctx ends.
func (s service) Serve(ctx context.Context, p *project.Project) error {
	code, classes, err := s.match(p)
	if err != nil {
		return err
	}
	settings := p.Config.Settings
	var found durability.Streams
	options := streams.Options{Replicas: settings.Replicas, TakeOverAfter: time.Duration(settings.TakeOverAfter), Log: p.Log, Found: found.Add}
	if err := streams.EnsureProjects(ctx, p.JS, options); err != nil {
		return err
	}
	shards, err := streams.FixShards(ctx, p.JS, p.Config.Name, settings.Shards)
	if err != nil {
		return err
	}
	if err := streams.EnsureWorkflows(ctx, p.JS, p.Config.Name, shards, options); err != nil {
		return err
	}
	if err := durability.Tell(ctx, p.Durability(), &found); err != nil {
		return err
	}
	if err := streams.RegisterWorkflows(ctx, p.JS, p.Config.Name, shards, classes); err != nil {
		return err
	}
	p.RemembersDoors()
	if err := setSchedules(ctx, p, options); err != nil {
		return err
	}
	config := runner.Config{
		Settings: execution.SettingsOf(ctx),
		Reader:   runner.Reader{Store: p.Journal(), Project: p.Config.Name, Shards: shards, Objects: p.Objects()},
		Code:     code, Slots: settings.Slots, Grace: time.Duration(settings.ShutdownGrace), JS: p.JS, Log: p.Log,
		Version: settings.Version, MaxValueSize: maxValue(p),
		Limits: map[string]engine.Limits{}, Retention: map[string]protocol.Retention{}, Concurrency: map[string]int{},
		Doors: p.Doors(), Post: p.Post(), Ready: func() { p.Ready(s.Name()) },
	}
	quiet, err := p.Gate().Listen(p.NC, p.Config.Name, p.Log)
	if err != nil {
		return err
	}
	defer func() { _ = quiet.Unsubscribe() }() // the connection may be gone
	for _, w := range p.Config.Own() {
		config.Limits[w.Name] = engine.Limits{Steps: w.StepLimit, State: w.StateLimit}
		config.Retention[w.Name], config.Concurrency[w.Name] = w.Retention, w.Concurrency
	}
	return runner.New(config).Run(ctx)
}

// match joins skein.jsonc and code: the name of a workflow with the function of its class.
func (s service) match(p *project.Project) (map[string]runner.Code, map[string]string, error) {
	known := map[string]Definition{}
	for _, d := range s.definitions {
		if err := protocol.CheckClass(d.class); err != nil {
			return nil, nil, err
		}
		if _, twice := known[d.class]; twice {
			return nil, nil, fmt.Errorf("workflow class %q is defined twice", d.class)
		}
		if d.code == nil {
			return nil, nil, fmt.Errorf("workflow class %q is defined without a function", d.class)
		}
		known[d.class] = d
	}
	code, classes, used := map[string]runner.Code{}, map[string]string{}, map[string]bool{}
	for _, w := range p.Config.Own() {
		d, ok := known[w.ClassName]
		if !ok {
			return nil, nil, fmt.Errorf("workflow %q of project %q: class_name is %q, but the program defines %q",
				w.Name, p.Config.Name, w.ClassName, slices.Sorted(maps.Keys(known)))
		}
		used[w.ClassName] = true
		classes[w.Name] = w.ClassName
		code[w.Name] = func(ctx context.Context, create protocol.Create) (json.RawMessage, error) {
			return d.code(project.With(ctx, p), create)
		}
	}
	for class := range known {
		if !used[class] {
			return nil, nil, fmt.Errorf("workflow class %q is defined, but no entry of \"workflows\" in skein.jsonc has it as class_name", class)
		}
	}
	return code, classes, nil
}
