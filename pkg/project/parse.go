package project

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/skein-run/skein/internal/process"
)

// Load reads and parses a skein.jsonc.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, process.WithHint(fmt.Errorf("read the project: %w", err),
			`create it with { "name": "my-project" }, or name another file with --config or `+EnvConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("read the project: %w", err)
	}
	return Parse(path, data)
}

// Parse parses a skein.jsonc: JSON with comments and trailing commas. Every fault is reported with its line and
// column, as a *ConfigError; file is only named in them.
func Parse(file string, data []byte) (*Config, error) {
	root, err := hujson.Parse(data)
	if err != nil {
		return nil, syntaxError(file, err)
	}
	p := parser{file: file, data: data, at: map[string]int{}}
	var c Config
	p.config(&root, &c)
	if len(p.errs) == 0 {
		for _, e := range c.check() {
			offset := p.offset(e.Field)
			p.fail(offset+p.column(offset, e.Err), e.Field, e.Err)
		}
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	for i := range c.Workflows {
		c.Workflows[i].Binding = c.Workflows[i].binding()
	}
	return &c, nil
}

// syntaxError takes the position out of hujson's text, which is the only place that has it.
func syntaxError(file string, err error) error {
	e := &ConfigError{File: file, Err: err}
	if _, scanErr := fmt.Sscanf(err.Error(), "hujson: line %d, column %d:", &e.Line, &e.Column); scanErr == nil {
		e.Err = errors.Unwrap(err)
	}
	return e
}

// parser walks the syntax tree instead of decoding into a struct: encoding/json takes fields of any case and knows
// neither where an unknown field stands nor that one stands there twice.
type parser struct {
	file string
	data []byte
	// at is where the value of each field starts.
	at   map[string]int
	errs []error
}

func (p *parser) fail(offset int, field string, err error) {
	before := p.data[:offset]
	p.errs = append(p.errs, &ConfigError{
		File:   p.file,
		Line:   1 + bytes.Count(before, []byte("\n")),
		Column: offset - bytes.LastIndexByte(before, '\n'),
		Field:  field,
		Err:    err,
	})
}

// offset of a field; of what it should stand in, if it is missing.
func (p *parser) offset(field string) int {
	if offset, ok := p.at[field]; ok {
		return offset
	}
	parent := ""
	if i := strings.LastIndexByte(field, '.'); i >= 0 {
		parent = field[:i]
	}
	return p.at[parent]
}

func (p *parser) config(root *hujson.Value, c *Config) {
	settings := slices.DeleteFunc(process.SettingNames(), process.OfSchedulers)
	p.object(root, "", append([]string{"name", "workflows", "agents"}, settings...), func(name, path string, v *hujson.Value) {
		switch {
		case name == "name":
			p.text(v, path, &c.Name)
		case name == "workflows":
			p.workflows(v, path, c)
		case name == "agents":
			p.agents(v, path, c)
		default:
			p.setting(v, name, c)
		}
	})
}

func (p *parser) workflows(v *hujson.Value, path string, c *Config) {
	array, ok := v.Value.(*hujson.Array)
	if !ok {
		p.wrongType(v, path, "an array")
		return
	}
	c.Workflows = make([]Workflow, len(array.Elements))
	for i := range array.Elements {
		p.workflow(&array.Elements[i], fmt.Sprintf("%s[%d]", path, i), &c.Workflows[i])
	}
}

// object calls each for the members of an object whose names are allowed.
func (p *parser) object(v *hujson.Value, path string, allowed []string, each func(name, path string, v *hujson.Value)) {
	p.at[path] = v.StartOffset
	object, ok := v.Value.(*hujson.Object)
	if !ok {
		p.wrongType(v, path, "an object")
		return
	}
	seen := map[string]bool{}
	for i := range object.Members {
		m := &object.Members[i]
		name := m.Name.Value.(hujson.Literal).String() // the grammar allows nothing else
		field := name
		if path != "" {
			field = path + "." + name
		}
		switch {
		case !slices.Contains(allowed, name):
			p.fail(m.Name.StartOffset, path, unknown(field, name, allowed))
		case seen[name]:
			p.fail(m.Name.StartOffset, field, errors.New("stands here a second time"))
		default:
			p.at[field] = m.Value.StartOffset
			each(name, field, &m.Value)
		}
		seen[name] = true
	}
}

func unknown(field, name string, allowed []string) error {
	if process.OfSchedulers(field) {
		return fmt.Errorf("%q is for schedulers, which read no %s: start them with --%s or %s",
			name, defaultFile, strings.ReplaceAll(name, "_", "-"), process.EnvName(name))
	}
	return fmt.Errorf("unknown field %q; there are %s", name, strings.Join(allowed, ", "))
}

func (p *parser) text(v *hujson.Value, path string, into *string) {
	literal, ok := v.Value.(hujson.Literal)
	if !ok || literal.Kind() != '"' {
		p.wrongType(v, path, "a string")
		return
	}
	*into = literal.String()
	if *into == "" {
		p.fail(v.StartOffset, path, errors.New("is empty; leave the field out or give it a value"))
	}
}

func (p *parser) setting(v *hujson.Value, name string, c *Config) {
	kind := process.SettingKind(name)
	allowed := map[process.Kind]string{process.KindString: `"`, process.KindNumber: "0", process.KindBoolean: "tf"}[kind]
	literal, ok := v.Value.(hujson.Literal)
	if !ok || !strings.ContainsRune(allowed, rune(literal.Kind())) {
		p.wrongType(v, name, "a "+string(kind))
		return
	}
	value := string(literal)
	if kind == process.KindString {
		value = literal.String()
	}
	if wrong, ok := errors.AsType[*process.SettingError](c.Settings.Set(name, value)); ok {
		p.fail(v.StartOffset, name, fmt.Errorf("%q: allowed is %s", wrong.Value, wrong.Allowed))
	}
}

func (p *parser) wrongType(v *hujson.Value, path, want string) {
	found := map[hujson.Kind]string{
		'n': "null", 't': "a boolean", 'f': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "an array",
	}[v.Value.Kind()]
	p.fail(v.StartOffset, path, fmt.Errorf("want %s, found %s", want, found))
}
