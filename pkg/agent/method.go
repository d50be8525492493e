package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/skein-run/skein/pkg/protocol"
)

// method is a method that can be called: func(context.Context, P) error or func(context.Context, P) (R, error).
type method struct {
	index    int
	payload  reflect.Type
	isResult bool
}

const methodForms = "func(context.Context, P) error or func(context.Context, P) (R, error)"

// findMethods returns the methods of an agent's type that can be called, by name. Hooks and what Base brings along are
// none.
func findMethods(kind reflect.Type) map[string]method {
	found := map[string]method{}
	for i := range kind.NumMethod() {
		m := kind.Method(i)
		t := m.Type
		_, ofBase := reflect.TypeFor[*Base[struct{}]]().MethodByName(m.Name)
		if ofBase || looksLikeHook(m.Name) || t.NumIn() != 3 || t.NumOut() < 1 || t.NumOut() > 2 || t.IsVariadic() {
			continue
		}
		if is, _ := isChunked(t.In(2)); is {
			continue // it answers clients
		}
		if t.In(1) == reflect.TypeFor[context.Context]() && t.Out(t.NumOut()-1) == reflect.TypeFor[error]() {
			found[m.Name] = method{index: i, payload: t.In(2), isResult: t.NumOut() == 2}
		}
	}
	return found
}

// call decodes the payload, calls the method of a and encodes what it returns.
func (m method) call(ctx context.Context, a Agent, payload json.RawMessage) (json.RawMessage, error) {
	p := reflect.New(m.payload)
	if payload != nil {
		if err := json.Unmarshal(payload, p.Interface()); err != nil {
			return nil, &payloadError{fmt.Errorf("decode payload as %s: %w", m.payload, err)}
		}
	}
	out := reflect.ValueOf(a).Method(m.index).Call([]reflect.Value{reflect.ValueOf(ctx), p.Elem()})
	if err, _ := out[len(out)-1].Interface().(error); err != nil || !m.isResult {
		return nil, err
	}
	result, err := json.Marshal(out[0].Interface())
	if err != nil {
		return nil, &payloadError{fmt.Errorf("encode result of type %s: %w", out[0].Type(), err)}
	}
	return result, nil
}

// methodOf finds the method that a call from a project names.
func (c *class) methodOf(call *protocol.AgentCall, project string) (name string, m method, err error) {
	name = call.Method
	if today, ok := c.renamed[name]; ok {
		name = today
	}
	m, ok := c.methods[name]
	if !ok {
		return name, m, &CallbackError{Class: c.name, Callback: call.Method, Reason: "no such method of the form " + methodForms}
	}
	if call.From != project && !c.callable[name] {
		return name, m, &CallbackError{Class: c.name, Callback: call.Method,
			Reason: fmt.Sprintf("project %q may not call it; agent.Callable would allow it", call.From)}
	}
	return name, m, nil
}

// methodName resolves a method expression of A, such as (*Cart).Add, to the method's name.
func methodName[A any](expression any) (string, error) {
	kind := reflect.TypeFor[A]()
	f, err := parseFunc(expression)
	if err == nil {
		if _, ok := kind.MethodByName(f.method); ok && !f.value {
			return f.method, nil
		}
	}
	return "", &CallbackError{Class: kind.String(), Callback: f.full,
		Reason: fmt.Sprintf("is no method expression such as (%s).Method", kind)}
}
