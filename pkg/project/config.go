package project

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/process"
	"github.com/skein-run/skein/pkg/protocol"
)

// Settings are what an operator chooses. Each has one name in three spellings: the field nats_url of skein.jsonc, the
// variable SKEIN_NATS_URL, the flag --nats-url; the flag wins over the variable, the variable over the file.
type Settings = process.Settings

// Config is what skein.jsonc says about a project.
type Config struct {
	// Name of the project. Other projects write it as script_name.
	Name string
	// Workflows of this project, and those of others that it uses.
	Workflows []Workflow
	// Agents are the classes of agents of other projects that this one reaches, and other names for its own.
	Agents []Agent
	// Settings stand at the top level of the file. Zero fields are not set.
	Settings Settings
}

// Workflow is one entry of the array workflows.
type Workflow struct {
	// Name of the workflow in the project that owns it.
	Name string
	// Binding is the name by which code of this project reaches it. Empty means Name.
	Binding string
	// ClassName is the name it has in the Go code of its project.
	ClassName string
	// ScriptName is the project that owns it. Empty means this one.
	ScriptName string

	// What follows can be set by the project that owns the workflow only.

	// StepLimit is how many steps an instance may have, sleeps and waits not counted: at most protocol.MaxStepLimit.
	// 0 means protocol.DefaultStepLimit.
	StepLimit int
	// StateLimit is how many bytes the results of an instance's steps, the events that it took and what else its code was
	// given may have together, as JSON: protocol.MinStateLimit to protocol.MaxStateLimit. 0 means
	// protocol.DefaultStateLimit.
	StateLimit int64
	// Concurrency is how many instances may run at a time, over all runners: at most protocol.MaxConcurrency. 0 means
	// as many as runners have slots.
	Concurrency int
	// Retention is how long an instance can be read after its end, unless its create says something else: at most
	// protocol.MaxRetention. 0 means protocol.DefaultRetention.
	Retention protocol.Retention
	// Schedules start instances. Runners of the project store them when they start: what the last one said counts.
	Schedules []Schedule
}

func (w Workflow) binding() string {
	if w.Binding == "" {
		return w.Name
	}
	return w.Binding
}

// Target is where a binding leads.
type Target struct {
	Binding string
	// Project owns the workflow.
	Project  string
	Workflow string
	Class    string
}

// UnknownBindingError says that a project has no binding of a name.
type UnknownBindingError struct {
	Binding string
	Project string
	// Known lists the bindings that exist.
	Known []string
}

func (e *UnknownBindingError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("binding %q: project %q has no bindings; add it to workflows in %s", e.Binding, e.Project, defaultFile)
	}
	return fmt.Sprintf("binding %q: project %q has no such binding; it has %s", e.Binding, e.Project, quoteAll(e.Known))
}

// FailureName is what the error is called when it is stored.
func (e *UnknownBindingError) FailureName() string { return "UnknownBindingError" }

// Terminal says that no retry helps.
func (e *UnknownBindingError) Terminal() bool { return true }

func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, ", ")
}

// Binding resolves the name by which this project reaches a workflow. The error is an *UnknownBindingError.
func (c *Config) Binding(name string) (Target, error) {
	var known []string
	for _, w := range c.Workflows {
		if w.binding() == name {
			return Target{Binding: name, Project: c.owner(w), Workflow: w.Name, Class: w.ClassName}, nil
		}
		known = append(known, w.binding())
	}
	slices.Sort(known)
	return Target{}, &UnknownBindingError{Binding: name, Project: c.Name, Known: known}
}

// Own lists the workflows that this project owns and runs.
func (c *Config) Own() []Workflow {
	var own []Workflow
	for _, w := range c.Workflows {
		if c.owner(w) == c.Name {
			own = append(own, w)
		}
	}
	return own
}

func (c *Config) owner(w Workflow) string {
	if w.ScriptName == "" {
		return c.Name
	}
	return w.ScriptName
}

func (c Config) withDefaults() Config {
	c.Settings = c.Settings.WithDefaults()
	c.Workflows = slices.Clone(c.Workflows)
	for i := range c.Workflows {
		c.Workflows[i].Binding = c.Workflows[i].binding()
	}
	return c
}

// ConfigError says what is wrong with one field, and where it stands if it comes from a file.
type ConfigError struct {
	File string
	// Line and Column count from 1, columns in bytes. 0: not known.
	Line, Column int
	// Field is a path as in workflows[1].name; empty for the whole file.
	Field string
	Err   error
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", e.Line, e.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *ConfigError) Unwrap() error { return e.Err }

// Validate names everything that is wrong with names and bindings. Each error is a *ConfigError.
func (c *Config) Validate() error {
	var errs []error
	for _, e := range c.check() {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func (c *Config) check() []*ConfigError {
	var errs []*ConfigError
	fail := func(field string, err error) {
		if err != nil {
			errs = append(errs, &ConfigError{Field: field, Err: err})
		}
	}
	fail("name", protocol.CheckProject(c.Name))
	c.checkAgents(fail)
	bindings, names := map[string]int{}, map[string]int{}
	for i, w := range c.Workflows {
		at := func(field string) string { return fmt.Sprintf("workflows[%d].%s", i, field) }
		fail(at("name"), protocol.CheckWorkflow(w.Name))
		fail(at("class_name"), protocol.CheckClass(w.ClassName))
		if w.ScriptName != "" {
			fail(at("script_name"), protocol.CheckProject(w.ScriptName))
		}
		field := at("name")
		if w.Binding != "" {
			field = at("binding")
			fail(field, protocol.CheckBinding(w.Binding))
		}
		if w.binding() == "" {
			continue
		}
		if first, ok := bindings[w.binding()]; ok {
			fail(field, fmt.Errorf("binding %q is that of workflows[%d] already", w.binding(), first))
		} else {
			bindings[w.binding()] = i
		}
		if c.owner(w) != c.Name {
			c.checkForeign(i, fail)
			continue
		}
		c.checkLimits(i, fail)
		c.checkSchedules(i, fail)
		if first, ok := names[w.Name]; ok {
			fail(at("name"), fmt.Errorf("workflow %q of this project is defined by workflows[%d] already", w.Name, first))
		} else {
			names[w.Name] = i
		}
	}
	return errs
}
