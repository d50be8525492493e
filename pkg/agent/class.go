package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/skein-run/skein/pkg/protocol"
)

// Class is a class of agents: what Define returns and Host serves.
type Class struct{ class *class }

type class struct {
	name  string
	route string // the name in kebab case
	kind  reflect.Type
	make  func() Agent
	// copier is that of the states; nil if there is none.
	copier *copier

	bindings  []Binding
	callbacks map[string]callback
	methods   map[string]method
	callable  map[string]bool
	client    map[string]clientMethod // by both names
	sockets   bool                    // clients may open some
	reads     map[string]bool
	renamed   map[string]string // old name of a callback: today's
	idle      time.Duration
	limit     time.Duration
	retry     Retry
	problems  []error
}

// Binding is what Uses takes: a reference to a workflow by its name in the project's skein.jsonc. The values that
// workflow.Bind returns are Bindings.
type Binding interface{ BindingName() string }

// ClassOption is an option of Define.
type ClassOption interface{ applyClass(*class) }

type classOption func(*class)

func (o classOption) applyClass(c *class) { o(c) }

// Define makes a class of agents. The factory returns a new agent each time; what it sets in it (clients, settings)
// is not stored. The name is stored in every record: it must stay.
//
// What is wrong with a class is reported by Err, and by the host when it starts.
func Define[A Agent](name string, factory func() A, options ...ClassOption) Class {
	c := &class{
		name:     name,
		route:    kebab(name),
		kind:     reflect.TypeFor[A](),
		callable: map[string]bool{},
		reads:    map[string]bool{},
		renamed:  map[string]string{},
		idle:     time.Minute,
		limit:    15 * time.Minute,
		retry:    defaultRetry,
	}
	if err := protocol.CheckClass(name); err != nil {
		c.problem("%v", err)
	}
	if factory == nil {
		c.problem("has no factory")
	}
	if c.kind.Kind() != reflect.Pointer || c.kind.Elem().Kind() != reflect.Struct {
		c.problem("is of type %s; wanted is a pointer to a struct that embeds agent.Base", c.kind)
		return Class{c}
	}
	c.make = func() Agent { return factory() }
	c.checkHooks()
	if zero, ok := reflect.New(c.kind.Elem()).Interface().(Agent); ok {
		c.copier = copierOf(zero.stateType())
	}
	c.callbacks, c.methods = findCallbacks(c.kind), findMethods(c.kind)
	for _, o := range options {
		o.applyClass(c)
	}
	return Class{c}
}

// Uses names the bindings that the class uses. The host refuses to start if skein.jsonc does not have one, and warns
// if the workflow behind it is one that nobody has registered.
func Uses(bindings ...Binding) ClassOption {
	return classOption(func(c *class) { c.bindings = append(c.bindings, bindings...) })
}

// Callable names methods, as method expressions like (*Cart).Add, that other projects may call, or by Tell. The agent's own
// project may use every method of the form func(context.Context, P) error and call every one of the form
// func(context.Context, P) (R, error).
func Callable(methods ...any) ClassOption {
	return classOption(func(c *class) {
		for _, m := range methods {
			name, err := c.method(m)
			if err != nil {
				c.problem("Callable: %v", err)
				continue
			}
			c.callable[name] = true
		}
	})
}

// Renamed makes schedules that were stored for a method's old name call the method, a method expression like
// (*Cart).Checkout.
func Renamed(old string, method any) ClassOption {
	return classOption(func(c *class) {
		name, err := c.method(method)
		switch _, exists := c.callbacks[old]; {
		case err != nil:
			c.problem("Renamed(%q): %v", old, err)
		case exists:
			c.problem("Renamed(%q): the class has a method of that name", old)
		default:
			c.renamed[old] = name
		}
	})
}

// IdleAfter is how long an agent of the class stays in memory with nothing to do. Default 1m.
func IdleAfter(d time.Duration) ClassOption {
	return classOption(func(c *class) { c.setDuration("IdleAfter", d, &c.idle) })
}

// TurnLimit is how long a turn of the class may take. Then its context ends and what it asked for is dropped. Default
// 15m.
func TurnLimit(d time.Duration) ClassOption {
	return classOption(func(c *class) { c.setDuration("TurnLimit", d, &c.limit) })
}

func (c *class) setDuration(option string, d time.Duration, into *time.Duration) {
	if d <= 0 {
		c.problem("%s(%s): wanted is a positive duration", option, d)
		return
	}
	*into = d
}

// Name is the name of the class.
func (c Class) Name() string { return c.class.name }

// Err says everything that is wrong with the class, as *ClassError; nil if nothing is.
func (c Class) Err() error { return errors.Join(c.class.problems...) }

func (c *class) problem(format string, args ...any) {
	c.problems = append(c.problems, &ClassError{Class: c.name, Reason: fmt.Sprintf(format, args...)})
}

// serves reports whether the part of a path that names a class names this one.
func (c *class) serves(segment string) bool {
	return isPathOf(segment, c.name)
}

// isPathOf reports whether a part of a path names a class: in kebab case, as it is, or as Cloudflare's clients write it.
func isPathOf(segment, class string) bool {
	return strings.EqualFold(segment, kebab(class)) || strings.EqualFold(segment, class) || strings.EqualFold(segment, hyphenated(class))
}

// instance makes the agent in memory. Its state is checked here, so that handlers never meet one they cannot read.
func (c *class) instance(name string, state json.RawMessage, revision uint64) (a Agent, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("make agent: %w", newPanic(r))
		}
	}()
	a = c.make()
	if v := reflect.ValueOf(a); v.IsNil() {
		return nil, errors.New("make agent: the factory returned nil")
	}
	a.base().copyWith(c.copier)
	if state != nil {
		if err := a.checkState(state); err != nil {
			return nil, &StateError{Agent: name, Reason: "does not fit its type any more", Err: err}
		}
	}
	initial, err := a.encodeInitial(a)
	if err != nil {
		return nil, &StateError{Agent: name, Reason: "InitialState cannot be encoded as JSON", Err: err}
	}
	if err := a.base().bind(name, a, initial); err != nil {
		return nil, fmt.Errorf("make agent: %w", err)
	}
	a.base().set(state, revision)
	return a, nil
}

// kebab writes a name as paths have it: FlightDesk is flight-desk, HTTPDesk http-desk, and _ becomes -.
func kebab(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if r == '_' {
			r = '-'
		}
		if unicode.IsUpper(r) && i > 0 {
			last := runes[i-1]
			endsAcronym := unicode.IsUpper(last) && i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if unicode.IsLower(last) || unicode.IsDigit(last) || endsAcronym {
				b.WriteByte('-')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// hyphenated is how Cloudflare's clients write the name of a class in a path: with a hyphen before every capital letter, unless all are.
func hyphenated(name string) string {
	if name == strings.ToUpper(name) {
		return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	}
	var b strings.Builder
	for i, r := range name {
		switch {
		case r == '_':
			r = '-'
		case 'A' <= r && r <= 'Z' && i > 0:
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.TrimSuffix(b.String(), "-")
}
