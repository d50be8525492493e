package project

import (
	"fmt"

	"github.com/tailscale/hujson"

	"github.com/skein-run/skein/pkg/protocol"
)

// Agent is one entry of the array agents.
type Agent struct {
	// ClassName is the class in the project that owns it.
	ClassName string
	// Binding is the name by which code of this project reaches it. Empty means ClassName.
	Binding string
	// ScriptName is the project that owns it. Empty means this one.
	ScriptName string
}

func (a Agent) binding() string {
	if a.Binding == "" {
		return a.ClassName
	}
	return a.Binding
}

// AgentTarget is where the name of a class of agents leads.
type AgentTarget struct {
	Binding string
	// Project owns the class.
	Project string
	Class   string
}

// AgentBinding resolves the name by which this project reaches a class of agents. A name that is not in the array agents is a
// class of the project itself.
func (c *Config) AgentBinding(name string) (AgentTarget, error) {
	for _, a := range c.Agents {
		if a.binding() == name {
			target := AgentTarget{Binding: name, Project: a.ScriptName, Class: a.ClassName}
			if target.Project == "" {
				target.Project = c.Name
			}
			return target, nil
		}
	}
	if err := protocol.CheckClass(name); err != nil {
		return AgentTarget{}, fmt.Errorf("binding %q: is not among agents in %s, and no class: %w", name, defaultFile, err)
	}
	return AgentTarget{Binding: name, Project: c.Name, Class: name}, nil
}

func (c *Config) checkAgents(fail func(field string, err error)) {
	bindings := map[string]int{}
	for i, a := range c.Agents {
		at := func(field string) string { return fmt.Sprintf("agents[%d].%s", i, field) }
		fail(at("class_name"), protocol.CheckClass(a.ClassName))
		field := at("class_name")
		if a.Binding != "" {
			field = at("binding")
			fail(field, protocol.CheckBinding(a.Binding))
		}
		if a.ScriptName != "" {
			fail(at("script_name"), protocol.CheckProject(a.ScriptName))
		}
		if a.binding() == "" {
			continue
		}
		if first, ok := bindings[a.binding()]; ok {
			fail(field, fmt.Errorf("binding %q is that of agents[%d] already", a.binding(), first))
			continue
		}
		bindings[a.binding()] = i
	}
}

func (p *parser) agents(v *hujson.Value, path string, c *Config) {
	array, ok := v.Value.(*hujson.Array)
	if !ok {
		p.wrongType(v, path, "an array")
		return
	}
	c.Agents = make([]Agent, len(array.Elements))
	for i := range array.Elements {
		p.agent(&array.Elements[i], fmt.Sprintf("%s[%d]", path, i), &c.Agents[i])
	}
}

func (p *parser) agent(v *hujson.Value, path string, a *Agent) {
	fields := map[string]*string{"class_name": &a.ClassName, "binding": &a.Binding, "script_name": &a.ScriptName}
	p.object(v, path, []string{"class_name", "binding", "script_name"}, func(name, path string, v *hujson.Value) {
		p.text(v, path, fields[name])
	})
}
